from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio

from moonlight.flows import Flow
from moonlight.ping import build_ping
from moonlight.rtp import VideoPacketHeader
from moonlight.video import FramePacketiser
from moonlight.video_encryption import VideoOpener, VideoSealer
from moonlight.wake import magic_packet
from proxy import client_flow, udp_port
from proxy.client_flow import ClientFlow, FlowEnd
from proxy.media import Media
from proxy.roaming import RoamingLimits
from proxy.sessions import SessionId
from proxy.translation import ConnectTranslation, PingTranslation, Translation
from proxy.udp_port import Arrival, Endpoint, UdpPort, connect_socket
from revdial.errors import DialRefused, TunnelClosed
from revdial.flow import DatagramChannel
from revdial.framing import Batch, Run, gather
from tests.ports import reserved
from tests.waiting import until

LOOPBACK = "127.0.0.1"
SECRETS = {"a": "aaaaaaaaaaaaaaaa", "b": "bbbbbbbbbbbbbbbb"}
HOST_SECRET = "HOST-HOST-HOST-0"


class FakeChannel:
    """A data WebSocket whose agent is the test."""

    def __init__(self) -> None:
        self.to_host: list[bytes] = []
        self.arrived = trio.Event()
        self.closed = False
        self.rates: list[int] = []
        self._in, self._out = trio.open_memory_channel[Batch | Exception](64)

    def from_host(self, *datagrams: bytes, sent_us: int = 0) -> None:
        self._in.send_nowait(Batch(sent_us, tuple(gather(datagrams))))

    def tell_rate(self, kbps: int) -> None:
        self.rates.append(kbps)

    def break_down(self) -> None:
        self._in.send_nowait(TunnelClosed())

    async def receive_batch(self) -> Batch:
        batch = await self._out.receive()
        if isinstance(batch, Exception):
            raise batch
        return batch

    def send_batch(self, runs: object) -> None:
        for run in cast("list[Run]", list(cast("AsyncIterator[Run]", runs))):  # type: ignore[call-overload]
            self.to_host += map(bytes, run.datagrams())
        self.arrived.set()
        self.arrived = trio.Event()

    async def until_host_heard(self, number: int) -> list[bytes]:
        with trio.fail_after(5):
            while len(self.to_host) < number:
                await self.arrived.wait()
        return self.to_host

    async def __aenter__(self) -> FakeChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True


class Tunnels:
    """Hands out one channel after the other."""

    def __init__(self, *errors: Exception) -> None:
        self.channels: list[FakeChannel] = []
        self.errors = list(errors)
        self.dialled = trio.Event()

    async def open(self) -> DatagramChannel:
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        self.channels.append(FakeChannel())
        self.dialled.set()
        self.dialled = trio.Event()
        return cast("DatagramChannel", self.channels[-1])

    async def channel(self, number: int = 1) -> FakeChannel:
        with trio.fail_after(5):
            while len(self.channels) < number:
                await self.dialled.wait()
        return self.channels[number - 1]


def flow(
    tunnels: Tunnels,
    name: str = "a",
    kind: Flow = Flow.VIDEO,
    *,
    secret: str | int | None = None,
    silence_timeout_s: float = 30.0,
    tunnel_grace_s: float = 30.0,
    last_seen_at: Endpoint | None = None,
    own_port: int | None = None,
) -> ClientFlow:
    secret = SECRETS[name] if secret is None else secret
    translation: Translation
    if isinstance(secret, str):
        translation = PingTranslation(secret, HOST_SECRET, without_payload=own_port is not None)
    else:
        translation = ConnectTranslation(secret, 99, without_data=own_port is not None)
    return ClientFlow(
        session=SessionId(name),
        kind=kind,
        secret=secret,
        client_address=LOOPBACK,
        translation=translation,
        open_channel=cast("Callable[[], Awaitable[DatagramChannel]]", tunnels.open),
        silence_timeout_s=silence_timeout_s,
        tunnel_grace_s=tunnel_grace_s,
        last_seen_at=last_seen_at,
        own_port=own_port,
    )


class Client:
    """A client's UDP socket."""

    def __init__(self, port: int, ip: str = LOOPBACK) -> None:
        self.socket = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port = port
        self.ip = ip

    async def open(self) -> Client:
        await self.socket.bind((self.ip, 0))
        return self

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(*self.socket.getsockname())

    async def send(self, datagram: bytes) -> None:
        await self.socket.sendto(datagram, (LOOPBACK, self.port))

    async def receive(self) -> bytes:
        with trio.fail_after(5):
            datagram, source = await self.socket.recvfrom(65_535)
        assert source == (LOOPBACK, self.port), "clients know the edge by its shared port only"
        return datagram

    def nothing_came(self) -> bool:
        raw = socket.fromfd(self.socket.fileno(), socket.AF_INET, socket.SOCK_DGRAM)
        with raw:
            raw.setblocking(False)
            try:
                raw.recv(65_535)
            except BlockingIOError:
                return True
            return False


class Edge:
    """`Media` at ports of its own."""

    def __init__(self, media: Media, ports: dict[Flow, int], own_port: int) -> None:
        self.media = media
        self.ports = ports
        self.own_port = own_port
        self.ended: list[tuple[SessionId, Flow, FlowEnd]] = []
        self.end = trio.Event()
        self.clients: list[Client] = []

    def on_end(self, session: SessionId, kind: Flow, end: FlowEnd) -> None:
        self.ended.append((session, kind, end))
        self.end.set()

    async def client(
        self, kind: Flow = Flow.VIDEO, ip: str = LOOPBACK, *, own: bool = False
    ) -> Client:
        port = self.own_port if own else self.ports[kind]
        self.clients.append(await Client(port, ip).open())
        return self.clients[-1]


@asynccontextmanager
async def running(roaming: RoamingLimits | None = None) -> AsyncIterator[Edge]:
    with reserved() as block:
        own_port, *shared = block[:4]
        async with _running(roaming, dict(zip(Flow, shared, strict=True)), own_port) as edge:
            yield edge


@asynccontextmanager
async def _running(
    roaming: RoamingLimits | None, ports: dict[Flow, int], own_port: int
) -> AsyncIterator[Edge]:
    async with trio.open_nursery() as nursery:
        edge: Edge

        def on_end(session: SessionId, kind: Flow, end: FlowEnd) -> None:
            edge.on_end(session, kind, end)

        edge = Edge(Media(nursery, on_end=on_end, roaming=roaming), ports, own_port)
        await nursery.start(edge.media.serve, ["0.0.0.0"], ports, [own_port])
        yield edge
        for client in edge.clients:
            client.socket.close()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with running() as made:
        yield made


@pytest.fixture
async def tunnels() -> Tunnels:
    return Tunnels()


def connect(data: int) -> bytes:
    return b"\x8f\xff\x12\x34\x82\xff\x00\x01" + bytes(40) + data.to_bytes(4, "big")


async def test_a_ping_with_the_payload_binds_the_flow_and_reaches_the_host_translated(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(made := flow(tunnels))
    client = await edge.client()
    await client.send(build_ping(SECRETS["a"], 1))
    channel = await tunnels.channel()
    assert await channel.until_host_heard(1) == [build_ping(HOST_SECRET, 1)]
    assert made.bound_to == client.endpoint
    channel.from_host(b"x" * 100, b"x" * 100, b"y" * 40)
    assert [await client.receive() for _ in range(3)] == [b"x" * 100, b"x" * 100, b"y" * 40]
    assert (made.datagrams_to_client, made.bytes_to_client) == (3, 240)
    await client.send(build_ping(SECRETS["a"], 2))
    await channel.until_host_heard(2)
    assert made.datagrams_to_host == 2


@pytest.mark.parametrize("kind", Flow)
async def test_magic_packets_are_handed_over_at_every_port(
    nursery: trio.Nursery, kind: Flow, own_ports: range
) -> None:
    ports, taken = dict(zip(Flow, own_ports, strict=False)), list[bytes]()

    def take(arrival: Arrival) -> bool:
        taken.append(arrival.datagram)
        return len(arrival.datagram) > 4

    media = Media(nursery, on_end=lambda *_: None, take_magic_packet=take)
    await nursery.start(media.serve, [LOOPBACK], ports)
    client = await Client(ports[kind]).open()
    with client.socket:
        await client.send(magic_packet(bytes(6)))
        await client.send(b"else")
        await until(lambda: media.dropped.total() == 1)
    assert taken == [magic_packet(bytes(6)), b"else"]


async def test_nothing_is_sent_before_a_client_has_proven_its_payload(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(made := flow(tunnels))
    client = await edge.client()
    channel = await tunnels.channel()
    for datagram in (b"PING", build_ping("wrong-wrong-wron", 1), b"", b"\xff" * 1_400):
        await client.send(datagram)
    channel.from_host(b"secret picture")
    await until(lambda: made.drops()["client_not_bound"] == 1)
    await until(lambda: edge.media.dropped.total() == 4)
    drops = {reason: number for reason, number in edge.media.drops().items() if number}
    assert drops == {
        "ping_without_payload": 1,
        "unknown_secret": 1,
        "not_a_ping": 2,
        "client_not_bound": 1,
    }
    assert made.bound_to is None
    assert client.nothing_came()
    assert channel.to_host == []


async def test_a_payload_counts_only_for_its_own_kind_of_flow(edge: Edge, tunnels: Tunnels) -> None:
    edge.media.add(made := flow(tunnels))
    await (await edge.client(Flow.AUDIO)).send(build_ping(SECRETS["a"], 1))
    await until(lambda: edge.media.dropped["unknown_secret"] == 1)
    assert made.bound_to is None


async def test_once_bound_a_wrong_payload_is_dropped_and_counted(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(made := flow(tunnels))
    client = await edge.client()
    await client.send(build_ping(SECRETS["a"], 1))
    channel = await tunnels.channel()
    await channel.until_host_heard(1)
    for datagram in (build_ping(SECRETS["b"], 2), b"noise"):
        await client.send(datagram)
    await client.send(build_ping(SECRETS["a"], 3))
    await channel.until_host_heard(2)
    assert (made.dropped["wrong_payload"], made.dropped["not_a_ping"]) == (1, 1)


async def test_two_clients_at_one_port_each_get_only_their_own(edge: Edge) -> None:
    tunnels = {name: Tunnels() for name in SECRETS}
    clients = {}
    for name in SECRETS:
        edge.media.add(flow(tunnels[name], name))
        clients[name] = await edge.client()
        await clients[name].send(build_ping(SECRETS[name], 1))
    channels = {name: await tunnels[name].channel() for name in SECRETS}
    for name, channel in channels.items():
        await channel.until_host_heard(1)
        channel.from_host(*(f"{name}{number}".encode() for number in range(5)))
    for name, client in clients.items():
        assert [await client.receive() for _ in range(5)] == [
            f"{name}{number}".encode() for number in range(5)
        ]
        await client.send(build_ping(SECRETS[name], 2))
    for channel in channels.values():
        assert await channel.until_host_heard(2) == [build_ping(HOST_SECRET, n) for n in (1, 2)]
    assert all(client.nothing_came() for client in clients.values())


async def test_a_client_that_moves_is_followed_and_its_old_address_gets_no_more(
    tunnels: Tunnels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_flow, "min_rebind_interval_s", 0.0)
    async with running(RoamingLimits(min_silence_s=0.0)) as edge:
        edge.media.add(made := flow(tunnels))
        old, new = await edge.client(), await edge.client(ip="127.0.0.2")
        await old.send(build_ping(SECRETS["a"], 1))
        channel = await tunnels.channel()
        await channel.until_host_heard(1)
        await new.send(build_ping(SECRETS["a"], 2))
        await channel.until_host_heard(2)
        assert made.bound_to == new.endpoint
        channel.from_host(b"for the new address")
        assert await new.receive() == b"for the new address"
        assert old.nothing_came()


async def test_a_flow_moves_only_so_often(tunnels: Tunnels) -> None:
    async with running(RoamingLimits(min_silence_s=0.0)) as edge:
        edge.media.add(made := flow(tunnels))
        first, second = await edge.client(), await edge.client()
        await first.send(build_ping(SECRETS["a"], 1))
        await (await tunnels.channel()).until_host_heard(1)
        for counter in range(2, 7):
            await second.send(build_ping(SECRETS["a"], counter))
        await until(lambda: edge.media.dropped["rebinding_too_often"] == 5)
        assert made.bound_to == first.endpoint


async def test_what_a_client_sends_while_its_tunnel_is_being_dialled_is_kept(edge: Edge) -> None:
    may_dial = trio.Event()
    tunnels = Tunnels()
    made = flow(tunnels)

    async def open_late() -> DatagramChannel:
        await may_dial.wait()
        return await tunnels.open()

    made._open_channel = open_late
    edge.media.add(made)
    client = await edge.client()
    await client.send(build_ping(SECRETS["a"], 1))
    await until(lambda: made.bound_to is not None)
    await client.send(build_ping(SECRETS["a"], 2))
    may_dial.set()
    channel = await tunnels.channel()
    assert await channel.until_host_heard(2) == [build_ping(HOST_SECRET, n) for n in (1, 2)]


async def test_a_tunnel_that_breaks_comes_back_and_the_client_stays_bound(
    edge: Edge, tunnels: Tunnels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_flow, "redial_pause_s", 0.01)
    edge.media.add(made := flow(tunnels))
    client = await edge.client()
    await client.send(build_ping(SECRETS["a"], 1))
    first = await tunnels.channel()
    await first.until_host_heard(1)
    tunnels.errors = [TunnelClosed(), TunnelClosed()]
    first.break_down()
    second = await tunnels.channel(2)
    assert first.closed
    second.from_host(b"here again")
    assert await client.receive() == b"here again"
    await client.send(build_ping(SECRETS["a"], 2))
    await second.until_host_heard(1)
    assert made.dropped["tunnel_broke"] == 1
    assert edge.ended == []


async def test_a_tunnel_that_breaks_at_once_every_time_does_not_keep_the_edge_busy(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tunnels = Tunnels()

    async def open_broken() -> DatagramChannel:
        channel = await tunnels.open()
        tunnels.channels[-1].break_down()
        return channel

    made = flow(tunnels)
    made._open_channel = open_broken
    with trio.move_on_after(10.1):
        await made.run(lambda _: None)
    assert len(tunnels.channels) <= 10.1 / client_flow.redial_pause_s + 1


async def test_a_tunnel_that_does_not_come_back_ends_the_flow(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tunnels = Tunnels(*(TunnelClosed() for _ in range(1_000)))
    assert await flow(tunnels, tunnel_grace_s=30).run(lambda _: None) is FlowEnd.TUNNEL_GONE
    assert trio.current_time() == 30


async def test_a_refused_dial_ends_the_flow(edge: Edge) -> None:
    edge.media.add(flow(Tunnels(DialRefused("not_allowed", "no"))))
    with trio.fail_after(5):
        await edge.end.wait()
    assert edge.ended == [(SessionId("a"), Flow.VIDEO, FlowEnd.REFUSED)]


async def test_a_client_that_never_comes_ends_the_flow(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tunnels = Tunnels()
    assert await flow(tunnels, silence_timeout_s=12).run(lambda _: None) is FlowEnd.CLIENT_SILENT
    assert trio.current_time() == 12
    assert tunnels.channels[0].closed


async def test_a_client_that_falls_silent_ends_the_flow_and_its_secret_is_worth_nothing_more(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(made := flow(tunnels, silence_timeout_s=0.2))
    client = await edge.client()
    await client.send(build_ping(SECRETS["a"], 1))
    with trio.fail_after(5):
        await edge.end.wait()
    assert edge.ended == [(SessionId("a"), Flow.VIDEO, FlowEnd.CLIENT_SILENT)]
    assert edge.media.flows_of(SessionId("a")) == [made]
    await client.send(build_ping(SECRETS["a"], 2))
    await until(lambda: edge.media.dropped["unknown_secret"] == 1)
    edge.media.forget(SessionId("a"))
    assert edge.media.flows_of(SessionId("a")) == []
    assert not edge.media._running
    assert len(edge.media._table) == 0
    assert not edge.media._ended


async def test_an_old_client_is_known_by_the_port_that_only_it_was_told(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(flow(tunnels, own_port=edge.own_port))
    stranger = await edge.client(ip="127.0.0.2", own=True)
    await stranger.send(b"PING")
    await until(lambda: edge.media.dropped["ping_without_payload"] == 1)
    client = await edge.client(own=True)
    await client.send(b"PING")
    channel = await tunnels.channel()
    (ping,) = await channel.until_host_heard(1)
    assert ping.startswith(HOST_SECRET.encode())
    channel.from_host(b"picture")
    assert await client.receive() == b"picture"
    assert stranger.nothing_came()


async def test_a_flow_that_fails_harms_no_other(edge: Edge, tunnels: Tunnels) -> None:
    edge.media.add(flow(Tunnels(ZeroDivisionError("a bug")), "b"))
    with trio.fail_after(5):
        await edge.end.wait()
    assert edge.ended == [(SessionId("b"), Flow.VIDEO, FlowEnd.FAILED)]
    edge.media.add(flow(tunnels))
    client = await edge.client()
    await client.send(build_ping(SECRETS["a"], 1))
    await (await tunnels.channel()).until_host_heard(1)


async def test_a_flow_set_up_anew_takes_the_place_of_the_former_one(edge: Edge) -> None:
    former, tunnels = Tunnels(), Tunnels()
    edge.media.add(flow(former))
    client = await edge.client()
    await client.send(build_ping(SECRETS["a"], 1))
    channel = await former.channel()
    await channel.until_host_heard(1)
    edge.media.add(flow(tunnels, secret="new-new-new-new0"))
    await until(lambda: channel.closed)
    await client.send(build_ping("new-new-new-new0", 2))
    await (await tunnels.channel()).until_host_heard(1)
    assert edge.ended == []


async def test_stopped_flows_keep_their_figures_until_they_are_forgotten(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(made := flow(tunnels))
    channel = await tunnels.channel()
    channel.from_host(b"too early", b"too late!")
    await until(lambda: made.drops()["client_not_bound"] == 2)
    edge.media.stop(SessionId("a"))
    assert edge.media.flows_of(SessionId("a")) == [made]
    assert edge.media.drops()["client_not_bound"] == 2
    await until(lambda: channel.closed)
    edge.media.forget(SessionId("a"))
    assert edge.media.flows_of(SessionId("a")) == []
    assert edge.media.drops()["client_not_bound"] == 2


async def test_losses_before_the_tunnel_are_seen_in_the_numbers(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(made := flow(tunnels))
    await (await edge.client()).send(build_ping(SECRETS["a"], 1))
    channel = await tunnels.channel()
    await channel.until_host_heard(1)
    rtp = [bytes([0x90, 0, 0, number]) + bytes(12) for number in (0, 1, 4)]
    channel.from_host(*rtp)
    await until(lambda: made.gaps.received == 3)
    assert made.gaps.missing == 2


async def test_video_is_encrypted_from_when_that_is_settled_on_and_counted_before(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(made := flow(tunnels))
    client = await edge.client()
    await client.send(build_ping(SECRETS["a"], 1))
    channel = await tunnels.channel()
    await channel.until_host_heard(1)
    frames = [FramePacketiser(64).packetise(bytes(90), frame_index=n, idr=False) for n in (1, 2)]
    channel.from_host(*frames[0])
    assert [await client.receive() for _ in frames[0]] == frames[0]
    edge.media.set_sealer(SessionId("nobody"), VideoSealer(bytes(16), 0))
    edge.media.set_sealer(SessionId("a"), VideoSealer(bytes(16), 5))
    channel.from_host(*frames[1], b"")
    sealed = [await client.receive() for _ in [*frames[1], b""]]
    opener = VideoOpener(bytes(16))
    assert [opener.open(each) for each in sealed[:-1]] == frames[1]
    assert [each[0] for each in sealed[:-1]] == list(range(5, 5 + len(frames[1])))
    assert sealed[-1] == b""
    assert made.gaps.received == sum(map(len, frames))
    assert made.bytes_to_client == sum(map(len, [*frames[0], *sealed]))


async def test_what_a_dead_tunnel_held_back_is_not_shown_and_what_was_begun_is_completed(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(made := flow(tunnels))
    client = await edge.client()
    await client.send(build_ping(SECRETS["a"], 1))
    channel = await tunnels.channel()
    await channel.until_host_heard(1)
    frames = [FramePacketiser(64).packetise(bytes(90), frame_index=n, idr=False) for n in (1, 2, 3)]
    # By its own clock the host sent the second frame, and the rest of the first, 0.3 s before
    # the beginning of the first; so all that took longer.
    channel.from_host(frames[0][0], sent_us=1_000_000)
    channel.from_host(*frames[0][1:], *frames[1], sent_us=700_000)
    channel.from_host(*frames[2], sent_us=1_100_000)
    wanted = [frames[0][0], *frames[0][1:-1], *frames[2]]
    got = [await client.receive() for _ in wanted]
    assert [VideoPacketHeader.parse(one).frame_index for one in got] == [
        VideoPacketHeader.parse(one).frame_index for one in wanted
    ]
    data = sum(not VideoPacketHeader.parse(one).is_parity for one in frames[1])
    parity = len(frames[1]) - data + 1
    assert made.drops()["late_stale"] == data
    assert made.drops()["late_parity"] == parity


async def test_the_agent_is_told_the_rate_over_every_data_websocket(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(flow(tunnels))
    edge.media.set_rate(SessionId("nobody"), 1)
    first = await tunnels.channel()
    await until(lambda: edge.media.flows_of(SessionId("a"))[0]._channel is not None)
    edge.media.set_rate(SessionId("a"), 20_000)
    assert first.rates == [20_000]
    first.break_down()
    await until(lambda: len(tunnels.channels) == 2 and tunnels.channels[1].rates == [20_000])


# Control


async def test_connect_data_binds_the_control_flow_and_the_rest_passes(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(flow(tunnels, kind=Flow.CONTROL, secret=7))
    client = await edge.client(Flow.CONTROL)
    await client.send(connect(7))
    channel = await tunnels.channel()
    assert await channel.until_host_heard(1) == [connect(99)]
    await client.send(b"\x00\x01 some ENet")
    assert (await channel.until_host_heard(2))[1] == b"\x00\x01 some ENet"
    channel.from_host(b"answer")
    assert await client.receive() == b"answer"


async def test_a_goodbye_reaches_the_host_and_its_answer_the_client_before_the_flow_ends(
    edge: Edge, tunnels: Tunnels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_flow, "goodbye_linger_s", 0.1)
    edge.media.add(flow(tunnels, kind=Flow.CONTROL, secret=7))
    client = await edge.client(Flow.CONTROL)
    await client.send(connect(7))
    channel = await tunnels.channel()
    await channel.until_host_heard(1)
    goodbye = b"\x00\x01" + bytes([0x44, 0xFF, 0, 9]) + bytes(4)
    await client.send(goodbye)
    assert (await channel.until_host_heard(2))[1] == goodbye
    channel.from_host(b"acknowledged")
    assert await client.receive() == b"acknowledged"
    with trio.fail_after(5):
        await edge.end.wait()
    assert edge.ended == [(SessionId("a"), Flow.CONTROL, FlowEnd.CLIENT_LEFT)]


async def test_connect_data_is_not_enough_from_an_address_that_has_proven_nothing(
    edge: Edge, tunnels: Tunnels
) -> None:
    edge.media.add(made := flow(tunnels, kind=Flow.CONTROL, secret=7))
    stranger = await edge.client(Flow.CONTROL, ip="127.0.0.9")
    await stranger.send(connect(7))
    await stranger.send(connect(8))
    await stranger.send(b"\x00\x01 some ENet")
    await until(lambda: edge.media.dropped.total() == 3)
    assert edge.media.dropped == {
        "control_from_unproven_address": 1,
        "unknown_secret": 1,
        "control_of_unknown": 1,
    }
    assert made.bound_to is None


async def test_a_client_that_roamed_may_connect_from_where_its_video_is(edge: Edge) -> None:
    video, control = Tunnels(), Tunnels()
    edge.media.add(flow(video))
    edge.media.add(made := flow(control, kind=Flow.CONTROL, secret=7))
    await (await edge.client(Flow.VIDEO, ip="127.0.0.2")).send(build_ping(SECRETS["a"], 1))
    await (await video.channel()).until_host_heard(1)
    roamed = await edge.client(Flow.CONTROL, ip="127.0.0.2")
    await roamed.send(connect(7))
    await (await control.channel()).until_host_heard(1)
    assert made.bound_to == roamed.endpoint


async def test_a_connection_of_an_earlier_edge_process_is_taken_up_from_the_same_place(
    edge: Edge, tunnels: Tunnels
) -> None:
    client = await edge.client(Flow.CONTROL)
    stranger = await edge.client(Flow.CONTROL)
    edge.media.add(made := flow(tunnels, kind=Flow.CONTROL, secret=7, last_seen_at=client.endpoint))
    await stranger.send(b"\x00\x01 some ENet")
    await until(lambda: edge.media.dropped["control_of_unknown"] == 1)
    assert made.bound_to is None
    await client.send(b"\x00\x01 some ENet")
    assert await (await tunnels.channel()).until_host_heard(1) == [b"\x00\x01 some ENet"]
    assert made.bound_to == client.endpoint


async def test_two_flows_of_one_secret_do_not_take_each_other_out(edge: Edge) -> None:
    """Connect data has 32 bits: two sessions may draw the same."""
    edge.media.add(flow(Tunnels(), "a", Flow.CONTROL, secret=7))
    tunnels = Tunnels()
    edge.media.add(flow(tunnels, "b", Flow.CONTROL, secret=7))
    edge.media.forget(SessionId("a"))
    await (await edge.client(Flow.CONTROL)).send(connect(7))
    await (await tunnels.channel()).until_host_heard(1)


# Ports and sockets


async def test_what_the_kernel_gave_a_socket_before_it_was_connected_is_redirected(
    own_ports: range,
) -> None:
    port = own_ports[0]
    local = Endpoint(LOOPBACK, port)
    ours, stranger = await Client(port).open(), await Client(port).open()
    strays: list[Arrival] = []
    real_connect = socket.socket.connect
    number = 3 * udp_port.max_datagrams_a_turn

    class Slow(socket.socket):
        """Lets datagrams come between bind and connect."""

        def connect(self, address: object) -> None:
            sender = socket.fromfd(stranger.socket.fileno(), socket.AF_INET, socket.SOCK_DGRAM)
            with sender:
                for _ in range(number):
                    sender.sendto(b"stray", (LOOPBACK, port))
            own = socket.fromfd(ours.socket.fileno(), socket.AF_INET, socket.SOCK_DGRAM)
            with own:
                own.sendto(b"own", (LOOPBACK, port))
            real_connect(self, address)  # type: ignore[arg-type]

    made = udp_port._shared_socket

    def slow(family: int) -> socket.socket:
        return Slow(fileno=made(family).detach())

    udp_port._shared_socket = slow
    try:
        taken = connect_socket(local, ours.endpoint, strays.append)
    finally:
        udp_port._shared_socket = made
    with taken, pytest.raises(BlockingIOError):
        taken.recv(100)
    assert [arrival.datagram for arrival in strays] == [b"stray"] * number + [b"own"]
    assert {arrival.client for arrival in strays} == {stranger.endpoint, ours.endpoint}
    assert all(arrival.local == local for arrival in strays)
    ours.socket.close()
    stranger.socket.close()


async def test_a_client_at_port_0_or_nowhere_cannot_be_bound_and_is_counted(
    tunnels: Tunnels,
) -> None:
    made = flow(tunnels)
    arrival = Arrival(build_ping(SECRETS["a"], 1), Endpoint(LOOPBACK, 9), Endpoint("192.0.2.1", 9))
    assert made.offer(arrival)
    assert made.dropped["cannot_bind"] == 1
    assert made.bound_to is None


async def test_a_move_that_cannot_be_bound_leaves_the_flow_where_it_was(
    tunnels: Tunnels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_flow, "min_rebind_interval_s", 0.0)
    async with running(RoamingLimits(min_silence_s=0.0)) as edge:
        edge.media.add(made := flow(tunnels))
        client = await edge.client()
        await client.send(build_ping(SECRETS["a"], 1))
        channel = await tunnels.channel()
        await channel.until_host_heard(1)
        nowhere = Arrival(
            build_ping(SECRETS["a"], 9), Endpoint(LOOPBACK, 9), Endpoint("192.0.2.1", 9)
        )
        edge.media._on_arrival(Flow.VIDEO, nowhere)
        assert made.dropped["cannot_bind"] == 1
        assert made.bound_to == client.endpoint
        channel.from_host(b"still here")
        assert await client.receive() == b"still here"
        await client.send(build_ping(SECRETS["a"], 2))
        await until(lambda: build_ping(HOST_SECRET, 2) in channel.to_host)


async def test_noise_at_a_port_goes_to_its_handler_and_no_further(nursery: trio.Nursery) -> None:
    port = UdpPort(LOOPBACK, 0)
    arrivals: list[Arrival] = []
    came = trio.Event()

    def on_arrival(arrival: Arrival) -> None:
        arrivals.append(arrival)
        if len(arrivals) == 3:
            came.set()

    nursery.start_soon(port.run, on_arrival)
    client = await Client(port.port).open()
    for datagram in (b"", b"\xff" * 65_000, b"x"):
        await client.send(datagram)
    with trio.fail_after(5):
        await came.wait()
    assert [len(arrival.datagram) for arrival in arrivals] == [0, 65_000, 1]
    assert {arrival.client for arrival in arrivals} == {client.endpoint}
    assert {arrival.local for arrival in arrivals} == {Endpoint(LOOPBACK, port.port)}
    client.socket.close()
    nursery.cancel_scope.cancel()


async def test_ports_are_shared_over_ipv6_too(nursery: trio.Nursery) -> None:
    try:
        port = UdpPort("::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    arrivals: list[Arrival] = []
    came = trio.Event()

    def on_arrival(arrival: Arrival) -> None:
        arrivals.append(arrival)
        came.set()

    nursery.start_soon(port.run, on_arrival)
    with trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        await client.bind(("::1", 0))
        await client.sendto(b"x", ("::1", port.port))
        with trio.fail_after(5):
            await came.wait()
        assert arrivals[0].local == Endpoint("::1", port.port)
        assert str(arrivals[0].local) == f"[::1]:{port.port}"
        taken = connect_socket(arrivals[0].local, arrivals[0].client, lambda _: None)
        with taken:
            taken.send(b"answer")
            with trio.fail_after(5):
                assert (await client.recvfrom(100))[0] == b"answer"
    nursery.cancel_scope.cancel()


async def test_a_port_that_cannot_be_had_leaves_the_others_closed(own_ports: range) -> None:
    port = own_ports[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((LOOPBACK, 0))
        taken = other.getsockname()[1]
        async with trio.open_nursery() as nursery:
            media = Media(nursery, on_end=lambda *_: None)
            with pytest.raises(OSError, match="in use"):
                await media.serve([LOOPBACK], {Flow.VIDEO: port, Flow.AUDIO: taken})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((LOOPBACK, port))


def test_a_datagram_is_in_no_repr() -> None:
    arrival = Arrival(b"a-ping-payload", Endpoint(LOOPBACK, 1), Endpoint(LOOPBACK, 2))
    assert "a-ping-payload" not in repr(arrival)
