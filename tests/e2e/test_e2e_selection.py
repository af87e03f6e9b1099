"""Players in several places: each lands in their own region, and elsewhere when that cannot be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from simulator.light_errors import ClientFailed
from tests.e2e.deployment import Deployment, HostPlan, deployed
from tests.e2e.light_player import Player

REGIONS = """
[regions.frankfurt]
latitude = 50.11
longitude = 8.68
networks = ["127.11.0.0/16"]
[regions.new-york]
latitude = 40.71
longitude = -74.01
networks = ["127.12.0.0/16"]
[regions.tokyo]
latitude = 35.68
longitude = 139.69
networks = ["127.13.0.0/16"]
"""


def hosts(*, frankfurt: int = 2) -> tuple[HostPlan, ...]:
    slots = {"frankfurt": frankfurt, "new-york": 3, "tokyo": 3}
    return tuple(
        HostPlan(region, region, picture="noise", max_sessions=most)
        for region, most in slots.items()
    )


@asynccontextmanager
async def ended_by_its_host() -> AsyncIterator[None]:
    """Expect a player to be told, within the block, that its session is over."""
    with pytest.raises(ClientFailed, match="The host ended the session"):
        yield


async def explained(deployment: Deployment, address: str) -> Any:
    async with deployment.admin() as admin:
        query = {"client_ip": address, "app": "Test ball"}
        return await admin.get("/api/v1/backends/explain", query)


async def test_players_land_in_their_own_region_and_spill_to_the_next_nearest(
    tmp_path: Path,
) -> None:
    async with deployed(tmp_path, *hosts(frankfurt=1), settings=REGIONS) as deployment:
        anna = await Player.at(deployment, "127.11.0.1")
        ben = await Player.at(deployment, "127.12.0.1")
        chie = await Player.at(deployment, "127.13.0.1")
        dora = await Player.at(deployment, "127.11.0.2")
        async with anna.playing() as a, ben.playing() as b, chie.playing() as c:
            assert (a, b, c) == ("frankfurt", "new-york", "tokyo")
            told = await explained(deployment, dora.address)
            assert (told["region"], told["reason"]) == ("new-york", "spilled")
            assert told["passed_over"] == ["frankfurt"]
            async with dora.playing() as d:
                assert d == "new-york"
        # There is room again, but she comes back to where she played.
        async with dora.playing() as again:
            assert again == "new-york"
        reasons = deployment.edge.fleet.decisions
        assert reasons == {"nearest": 3, "spilled": 1, "sticky": 1}


async def test_a_drained_host_keeps_its_player_and_gets_no_other(tmp_path: Path) -> None:
    async with deployed(tmp_path, *hosts(), settings=REGIONS) as deployment:
        anna = await Player.at(deployment, "127.11.0.1")
        ben = await Player.at(deployment, "127.11.0.2")
        async with ended_by_its_host(), anna.playing() as region, deployment.admin() as admin:
            assert region == "frankfurt"
            await admin.put("/api/v1/drains/frankfurt", {})
            async with ben.playing() as elsewhere:
                assert elsewhere == "new-york"
            assert len(await deployment.sessions()) == 1
            await deployment.restart_edge()
            await deployment.wait_for_backends(3)
            assert (await explained(deployment, "127.11.0.3"))["region"] == "new-york"
            (drain,) = await admin.get_all("/api/v1/drains")
            assert (drain["target"], drain["sessions"]) == ("frankfurt", 1)
            await admin.put("/api/v1/drains/frankfurt", {"deadline_s": 0})
            await deployment.edge.upkeep.end_overdue()
            assert await deployment.sessions() == []
            await admin.delete("/api/v1/drains/frankfurt")
            assert (await explained(deployment, "127.11.0.3"))["region"] == "frankfurt"


async def test_a_launch_goes_on_where_its_host_is_dead(tmp_path: Path) -> None:
    async with deployed(tmp_path, *hosts(), settings=REGIONS) as deployment:
        anna = await Player.at(deployment, "127.11.0.1")
        deployment.hosts["frankfurt"].crash()
        # Nobody knows yet: its agent is there, and no probe has been missed.
        assert (await explained(deployment, anna.address))["region"] == "frankfurt"
        with trio.fail_after(20):
            async with anna.playing() as region:
                assert region == "new-york"
        assert sum(deployment.edge.fleet.failovers.values()) == 1
