"""A crowd behind one address: what hosts cannot tell apart, the edge can."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from backends.records import ClientRecord, PairingRecord
from moonlight.identity import ClientId, Identity, PeerCertificate
from proxy.host_pairing import HostPairing
from simulator.config import Traps
from simulator.light_client import COMMON_NAME, LightClient, Playing, StreamWish
from simulator.light_errors import ClientFailed
from simulator.light_http import Target
from simulator.ownership import Ownership, Whose
from tests.e2e.deployment import Deployment, HostPlan, deployed
from tests.waiting import until

players = 64
passers_by = 8
at_once = 16
address = "127.64.9.9"
everything_timeout_s = 120.0
settle_timeout_s = 30.0
only_own = Ownership(Whose.OWN, Whose.OWN, Whose.OWN)
slots = (players + passers_by) // 2 + 2
plans = tuple(
    HostPlan(
        name, traps=traps, picture="noise", max_sessions=slots, max_bitrate_kbps=500, slowdown=45
    )
    for name, traps in (("new", Traps.wolf_2026()), ("old", Traps.wolf_2024()))
)


def wish(number: int, app_id: int) -> StreamWish:
    """Return what a client asks for: from 15 Mbit/s on RTSP names its session, if in the clear."""
    return StreamWish(
        app_id=app_id,
        mode="320x200x30",
        bitrate_kbps=(1_000, 15_000, 14_999, 40_000)[number // 4 % 4],
        corever=number // 16 % 2,
        audio_packet_ms=10,
        control_ping_interval_s=0.5,
    )


def new_identity(key: RSAPrivateKey) -> Identity:
    """Make an identity with a key that others have too: making keys takes longest."""
    return Identity.generate(COMMON_NAME, now=datetime.now(UTC), key=key)


@dataclass
class Crowd:
    """Clients of one address, who come by different ways.

    Of every four, one launches anew after it has launched and cancelled, one resumes what it has
    launched and not played, one launches that again, and one comes for the first time.
    """

    deployment: Deployment
    key: RSAPrivateKey
    identities: dict[ClientId, Identity] = field(default_factory=dict)
    """Towards hosts: loading a key for each client, checked as keys are, would take seconds."""
    limiter: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(at_once))
    playing: dict[int, Playing] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    all_came: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)
    app_id: int = 0

    async def client(self) -> LightClient:
        """Return a client that edge and hosts know, without the many requests of pairing."""
        edge, listen = self.deployment.edge, self.deployment.config.listen
        store = edge.store
        mine, towards_hosts = new_identity(self.key), new_identity(self.key)
        me, now = mine.certificate, datetime.now(UTC)
        await store.put_client(ClientRecord(me.id, "light", me.der, now))
        self.identities[me.id] = towards_hosts
        for plan in plans:
            host = self.deployment.hosts[plan.name]
            host._desk._state.add_client(towards_hosts.certificate)
            await store.put_pairing(PairingRecord(me.id, plan.backend, host.certificate.der, now))
        kept = await store.get_edge_identity()
        assert kept is not None
        client = LightClient(Target("127.0.0.1", listen.http_port, address), mine)
        client._http._https_port = listen.https_port
        client._http._server = PeerCertificate.from_pem(kept.certificate_pem)
        return client

    async def identity(self, client: ClientId) -> Identity:
        """Stand in for what the edge keeps."""
        return self.identities[client]

    async def come(self, number: int, client: LightClient) -> None:
        """Come a first time, if at all: launch, and go no further."""
        if number % 4 == 3:
            return
        async with self.limiter:
            await client.abandon(wish(number, self.app_id))
            if number % 4 == 0:
                await client.cancel()

    async def play(self, number: int, client: LightClient) -> None:
        """Play until all is over."""
        try:
            async with AsyncExitStack() as stack:
                async with self.limiter:
                    self.playing[number] = await stack.enter_async_context(
                        client.playing(
                            wish(number, self.app_id), resume=number % 4 == 1, quit_app=False
                        )
                    )
                self._count()
                await self.over.wait()
        except ClientFailed as failure:
            self.playing.pop(number, None)
            self.failed.append(f"client {number}: {failure.reason}: {failure}")
            self._count()

    def _count(self) -> None:
        if len(self.playing) + len(self.failed) == players:
            self.all_came.set()

    def seen(self) -> Counter[Ownership]:
        """Count whose was what the clients that play have seen so far."""
        return Counter(playing.figures().ownership for playing in self.playing.values())

    def is_settled(self) -> bool:
        """Tell whether everybody has seen something of everything, or failed."""
        missing = {Whose.NOTHING, Whose.UNNAMED}
        return not any(missing & {one.video, one.audio, one.control} for one in self.seen())


async def test_sixty_four_clients_of_one_address_have_only_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Identity.generate(COMMON_NAME, now=datetime.now(UTC)).key
    ports = players + passers_by
    with trio.fail_after(everything_timeout_s):
        async with deployed(tmp_path, *plans, rtsp_ports=ports) as deployment:
            crowd = Crowd(deployment, key)
            monkeypatch.setattr(HostPairing, "_identity", crowd.identity)
            clients = [await crowd.client() for _ in range(players + passers_by)]
            crowd.app_id = (await clients[0].apps())[0].id
            async with trio.open_nursery() as nursery:
                for number, client in enumerate(clients[:players]):
                    nursery.start_soon(crowd.come, number, client)

            async with trio.open_nursery() as nursery:
                for client in clients[players:]:
                    nursery.start_soon(client.abandon, wish(0, crowd.app_id))
                for number, client in enumerate(clients[:players]):
                    nursery.start_soon(crowd.play, number, client)
                await crowd.all_came.wait()
                await until(crowd.is_settled, settle_timeout_s)
                seen, sessions = crowd.seen(), await deployment.sessions()
                crowd.over.set()

    mixed_up = [
        number
        for number, client in enumerate(clients)
        if client.latest is not None and client.latest.figures().ownership.mixed_up
    ]
    assert (mixed_up, crowd.failed) == ([], [])
    assert seen == {only_own: players}
    playing_at = Counter(one["backend"] for one in sessions if one["state"] == "streaming")
    assert set(playing_at) == {plan.backend for plan in plans}
    assert playing_at.total() == players
