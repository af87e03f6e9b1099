"""A light client at an address of its own, for tests in which many play or where matters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from simulator.light_client import LightClient, StreamWish
from simulator.light_http import Target
from tests.e2e.deployment import Deployment
from tests.waiting import until

confirm_timeout_s = 10.0


@dataclass
class Player:
    """A light client at an address of its own, paired with the edge."""

    deployment: Deployment
    client: LightClient
    address: str

    @classmethod
    async def at(cls, deployment: Deployment, address: str, edge: str = "127.0.0.1") -> Player:
        target = Target(edge, deployment.config.listen.http_port, address)
        player = cls(deployment, await LightClient.new(target), address)
        await player.client.pair(player._confirm)
        return player

    async def _confirm(self, pin: str) -> None:
        async with self.deployment.admin() as admin:
            waiting: list[Any] = []

            async def asked() -> bool:
                pending = await admin.get_all("/api/v1/pairings")
                waiting[:] = [one for one in pending if one["address"] == self.address]
                return bool(waiting)

            await until(asked, confirm_timeout_s)
            await admin.post(f"/api/v1/pairings/{waiting[0]['id']}", {"pin": pin})

    @asynccontextmanager
    async def playing(self) -> AsyncIterator[str]:
        """Play for a block, from the first whole picture on; gives the region."""
        (app, *_) = await self.client.apps()
        wish = StreamWish(app_id=app.id, mode="320x200x30", bitrate_kbps=500)
        async with self.client.playing(wish):
            (region,) = [
                session["region"]
                for session in await self.deployment.sessions()
                if session["client_address"] == self.address
            ]
            yield region
