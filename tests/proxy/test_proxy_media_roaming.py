"""A client that moves, and what only looks like one, at real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest
import trio

from moonlight.flows import Flow
from moonlight.ping import build_ping
from proxy import client_flow
from proxy.client_flow import ClientFlow
from proxy.control_proof import ControlTrail
from proxy.roaming import RoamingLimits
from proxy.sessions import SessionId
from proxy.translation import ConnectTranslation, PingTranslation
from proxy.udp_port import Endpoint
from revdial.flow import DatagramChannel
from tests.proxy.test_proxy_control_proof import KEY, Sealing, packet
from tests.proxy.test_proxy_media import (
    HOST_SECRET,
    LOOPBACK,
    Client,
    Edge,
    FakeChannel,
    Tunnels,
    connect,
    running,
)
from tests.waiting import until

silence_s = 0.1
LIMITS = RoamingLimits(min_silence_s=silence_s, min_lone_silence_s=2 * silence_s)
PAYLOADS = {Flow.VIDEO: "video-video-vide", Flow.AUDIO: "audio-audio-audi"}
CONNECT_DATA = 7
ROAMED = "127.0.0.2"


@pytest.fixture
async def edge(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Edge]:
    monkeypatch.setattr(client_flow, "min_rebind_interval_s", 0.0)
    async with running(LIMITS) as made:
        yield made


class Streaming:
    """One session with its three flows, and a client that has proven them all."""

    def __init__(self, edge: Edge, name: str = "a", key: bytes = KEY) -> None:
        self.edge = edge
        self.sealing = Sealing(key)
        self.counter = 0
        self.sent: list[tuple[Flow, bytes]] = []
        self.at: dict[Flow, Client] = {}
        self.tunnels = {kind: Tunnels() for kind in Flow}
        self.told: list[Endpoint] = []
        self.name = name
        secrets = {kind: f"{name}{payload[1:]}" for kind, payload in PAYLOADS.items()}
        self.payloads = secrets
        self.flows = {
            kind: ClientFlow(
                session=SessionId(name),
                kind=kind,
                secret=secrets.get(kind, CONNECT_DATA),
                client_address=LOOPBACK,
                translation=PingTranslation(secrets[kind], HOST_SECRET)
                if kind in secrets
                else ConnectTranslation(CONNECT_DATA, 99),
                open_channel=cast(
                    "Callable[[], Awaitable[DatagramChannel]]", self.tunnels[kind].open
                ),
                silence_timeout_s=30.0,
                tunnel_grace_s=30.0,
                on_bound=self.told.append,
                trail=ControlTrail(key) if kind is Flow.CONTROL else None,
            )
            for kind in Flow
        }

    async def start(self) -> Streaming:
        for kind, flow in self.flows.items():
            self.edge.media.add(flow)
            await self.tunnels[kind].channel()
        await self.move_to(LOOPBACK)
        await self.at[Flow.CONTROL].send(connect(CONNECT_DATA))
        await until(lambda: self.flows[Flow.CONTROL].bound_to is not None)
        await self.speak()
        await until(self.is_followed)
        await self.until_heard()
        return self

    async def move_to(self, ip: str) -> None:
        """Have new ports, as behind a NAT that forgot the old ones."""
        self.at = {kind: await self.edge.client(kind, ip) for kind in Flow}

    async def speak(self) -> None:
        """Send what a client sends all the time."""
        self.counter += 1
        for kind in Flow:
            datagram = (
                packet(self.sealing.next(), first=self.counter)
                if kind is Flow.CONTROL
                else build_ping(self.payloads[kind], self.counter)
            )
            self.sent.append((kind, datagram))
            await self.at[kind].send(datagram)

    def is_followed(self) -> bool:
        return all(flow.bound_to == self.at[kind].endpoint for kind, flow in self.flows.items())

    async def until_followed(self) -> None:
        async def spoke() -> bool:
            await self.speak()
            return self.is_followed()

        await until(spoke)

    async def until_heard(self) -> None:
        """Wait until everything sent so far has been noted."""
        await self.speak()
        last = dict(self.sent)[Flow.CONTROL]
        control = await self.tunnels[Flow.CONTROL].channel()
        await until(lambda: control.to_host[-1:] == [last])

    async def channel(self, kind: Flow) -> FakeChannel:
        return await self.tunnels[kind].channel()


@pytest.mark.parametrize("ip", [LOOPBACK, ROAMED], ids=["new port", "new address"])
async def test_all_flows_follow_their_client_and_nothing_is_sent_to_where_it_was(
    edge: Edge, ip: str
) -> None:
    client = await Streaming(edge).start()
    before = client.at
    await client.move_to(ip)
    await client.until_followed()
    for kind in Flow:
        (await client.channel(kind)).from_host(b"for where it is now")
        assert await client.at[kind].receive() == b"for where it is now"
    assert all(old.nothing_came() for old in before.values())
    assert client.told[-1].ip == ip
    assert client.flows[Flow.CONTROL].client_address == ip


async def test_what_was_sent_before_moves_nothing_when_it_comes_from_elsewhere(edge: Edge) -> None:
    client = await Streaming(edge).start()
    neighbours = {kind: await edge.client(kind) for kind in Flow}
    strangers = {kind: await edge.client(kind, ROAMED) for kind in Flow}
    sent = list(client.sent)
    await trio.sleep(2 * silence_s)  # even where the client is silent
    for kind, datagram in sent:
        await neighbours[kind].send(datagram)
        await strangers[kind].send(datagram)
    await neighbours[Flow.CONTROL].send(connect(CONNECT_DATA))
    drops = edge.media.dropped
    each = len(sent) // 3
    await until(lambda: drops["connected_elsewhere"] == 1)
    await until(lambda: drops["ping_replayed"] == 4 * each)
    await until(lambda: drops["control_replayed"] == each)
    await until(lambda: drops["control_of_unknown"] == each)
    assert client.is_followed()
    for kind in Flow:
        assert neighbours[kind].nothing_came()
        assert strangers[kind].nothing_came()


async def test_two_sessions_of_one_nat_that_forgot_their_ports_are_not_mixed_up(edge: Edge) -> None:
    clients = [
        await Streaming(edge, name, bytes([number] * 16)).start()
        for number, name in enumerate("ab", 1)
    ]
    for client in clients:
        await client.move_to(ROAMED)
    for client in clients:
        await client.until_followed()
    for client in clients:
        for kind in Flow:
            (await client.channel(kind)).from_host(client.name.encode())
    for client in clients:
        for kind in Flow:
            assert await client.at[kind].receive() == client.name.encode()
            assert client.at[kind].nothing_came()


async def test_a_flood_of_wrong_datagrams_moves_nothing_and_leaves_the_stream_whole(
    edge: Edge,
) -> None:
    client = await Streaming(edge).start()
    ips = [LOOPBACK, ROAMED, *(f"127.0.0.{number}" for number in range(100, 110))]
    flooders = [await edge.client(kind, ip) for ip in ips for kind in Flow]
    wrong = [
        build_ping("wrong-wrong-wron", 99_999),
        build_ping(client.payloads[Flow.VIDEO], 1),
        packet(Sealing(bytes(16)).next()),
        packet(b"no seal at all"),
        b"\x00\x01" + bytes(1_200),
        b"PING",
    ]
    sent, frames = 0, 0
    video = await client.channel(Flow.VIDEO)
    for _ in range(30):
        for flooder in flooders:
            for datagram in wrong:
                await flooder.send(datagram)
                sent += 1
        for _ in range(10):
            frames += 1
            sent_us = int(trio.current_time() * 1e6) % 2**32
            video.from_host(frames.to_bytes(4, "big") * 250, sent_us=sent_us)
        for number in range(frames - 9, frames + 1):
            got = await client.at[Flow.VIDEO].receive()
            assert got == number.to_bytes(4, "big") * 250
        await client.speak()
    await client.until_heard()
    assert sent == 6_480
    assert client.is_followed()
    assert all(flooder.nothing_came() for flooder in flooders)
    heard = [(await client.channel(kind)).to_host for kind in PAYLOADS]
    for kind, datagrams in zip(PAYLOADS, heard, strict=True):
        counters = range(1, client.counter + 1)
        await (await client.channel(kind)).until_host_heard(client.counter)
        assert datagrams == [build_ping(HOST_SECRET, counter) for counter in counters]
    drops = edge.media.dropped
    assert drops["unknown_secret"] > 0
    assert drops["control_of_unknown"] > 0
