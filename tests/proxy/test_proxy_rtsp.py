from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import structlog.testing
import trio
import trio.testing
from proxy_fakes import (
    BACKEND,
    FakeFlows,
    FakeStore,
    FakeTunnel,
    NoTls,
    new_fleet,
    new_play,
    serving,
    session,
)

from backends.model import BackendId
from moonlight.announce import StreamSettings
from moonlight.flows import Flow
from moonlight.identity import ClientId
from moonlight.ping import is_ping_payload
from moonlight.rtsp import RtspParser, RtspRequest, RtspResponse
from proxy import rtsp
from proxy.config import ProxyConfig
from proxy.fleet import Fleet
from proxy.play import Play
from proxy.rtsp import RtspProxy
from proxy.session_records import from_record, to_record
from proxy.sessions import FlowTerms, Session, SessionPorts, SessionState, VideoEncryptor
from revdial.errors import DialRefused, TunnelClosed
from revdial.messages import HostOffer

HOME = "192.0.2.1"
HOST_PAYLOAD = "HOST-HOST-HOST-0"
PORTS = {Flow.VIDEO: 1998, Flow.CONTROL: 1999, Flow.AUDIO: 2000}

Answer = Callable[[RtspRequest], Awaitable[bytes]]


def ok(*headers: tuple[str, str], body: bytes = b"") -> bytes:
    return RtspResponse(200, "OK", headers=(("CSeq", "1"), *headers), body=body).encode()


@dataclass
class Stage:
    """One session, its host by script, and the edge's RTSP between them."""

    proxy: RtspProxy
    play: Play
    store: FakeStore
    tunnel: FakeTunnel
    nursery: trio.Nursery
    session: Session
    heard: list[bytes] = field(default_factory=list)
    started: list[tuple[str, Flow, FlowTerms]] = field(default_factory=list)
    rates: list[int | None] = field(default_factory=list)
    answer: Callable[[bytes], Any] = lambda _: ok()
    sealed: list[Session] = field(default_factory=list)

    async def host(self, name: str, service: str, stream: trio.StapledStream[Any, Any]) -> None:
        parser = RtspParser("request")
        raw = b""
        while parser.next() is None:
            data = await stream.receive_some(65_536)
            if not data:
                return
            raw += data
            parser.receive(data)
        self.heard.append(raw)
        said = self.answer(raw)
        if said is None:
            await trio.sleep_forever()
        try:
            await stream.send_all(said)
            await stream.aclose()
        except trio.BrokenResourceError:
            return

    def connect(self, address: str = HOME, port: int = 48010) -> trio.StapledStream[Any, Any]:
        ours, theirs = trio.testing.memory_stream_pair()

        async def run() -> None:
            async with theirs:
                with suppress(trio.BrokenResourceError):  # as the doors do
                    await self.proxy.serve(theirs, address, port)

        self.nursery.start_soon(run)
        return ours

    async def ask(
        self, data: bytes, *, address: str = HOME, port: int = 48010, eof: bool = False
    ) -> bytes:
        stream = self.connect(address, port)
        await stream.send_all(data)
        if eof:
            await stream.send_eof()
        answer = b""
        while piece := await stream.receive_some(65_536):
            answer += piece
        await stream.aclose()
        return answer


@pytest.fixture
async def stage(nursery: trio.Nursery, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    store = FakeStore()
    fleet: Fleet = new_fleet(store)
    tunnel = FakeTunnel(nursery)
    play = new_play(ProxyConfig(hostname="h"), store, fleet, NoTls(), FakeFlows())
    one = session("s1", since=trio.current_time())
    play.keeper.table.add(one)
    store.sessions[one.id] = to_record(one)
    started: list[tuple[str, Flow, FlowTerms]] = []

    def start(session: Session, flow: Flow, terms: FlowTerms) -> None:
        started.append((session.id, flow, terms))

    rates: list[int | None] = []
    sealed: list[Session] = []
    proxy = RtspProxy(
        *(play.keeper, fleet, PORTS, start, lambda told: rates.append(told.kbps), 30.0),
        encrypt_video=getattr(request, "param", "never"),
        seal_video=sealed.append,
    )
    made = Stage(
        proxy, play, store, tunnel, nursery, one, started=started, rates=rates, sealed=sealed
    )
    tunnel.on_stream = made.host
    async with serving(fleet, tunnel):
        yield made


def message(method: str, target: str, host: str = "0.0.0.0", body: bytes = b"") -> bytes:
    length = f"Content-length: {len(body)}\r\n" if body else ""
    return (
        f"{method} {target} RTSP/1.0\r\nCSeq: 1\r\nX-GS-ClientVersion: 14\r\n"
        f"Host: {host}\r\n{length}\r\n".encode()
        + body
    )


SETUP = {flow: message("SETUP", f"streamid={flow}/0/0") for flow in Flow}


# To the host


@pytest.mark.parametrize("host", ["0.0.0.0", "label-of-s1"])
async def test_the_host_sees_what_its_own_session_url_said(stage: Stage, host: str) -> None:
    await stage.ask(message("OPTIONS", f"rtsp://{host}:48010", host))
    await stage.ask(message("PLAY", "/", host))
    assert stage.heard == [
        message("OPTIONS", "rtsp://203.0.113.9:48010", "203.0.113.9"),
        message("PLAY", "/", "203.0.113.9"),
    ]
    assert stage.tunnel.dials == [("wolf", "rtsp", "s1", 48010)] * 2


async def test_announce_in_three_segments_arrives_whole(stage: Stage) -> None:
    body = b"v=0\r\n" + b"a=x-nv-video[0].maxFPS:60\r\n" * 50
    whole = message("ANNOUNCE", "streamid=control/13/0", body=body)
    stream = stage.connect()
    for piece in (whole[:100], whole[100:900], whole[900:]):
        await stream.send_all(piece)
        await trio.testing.wait_all_tasks_blocked()
    assert b"200 OK" in await stream.receive_some(65_536)
    assert stage.heard[0].endswith(body)


async def test_what_a_client_asks_for_is_noted_where_the_announcement_tells_it(
    stage: Stage,
) -> None:
    settings = StreamSettings(
        width=1920,
        height=1080,
        fps=60,
        packet_size=1024,
        bitrate_kbps=20_000,
        audio_channels=6,
    )
    await stage.ask(message("ANNOUNCE", "streamid=control/13/0", body=b"a=nothing:1\r\n"))
    assert stage.rates == []
    await stage.ask(message("ANNOUNCE", "streamid=control/13/0", body=settings.encode()))
    assert (stage.rates, stage.session.kbps) == ([20_000], 20_000)
    assert (stage.session.codec, stage.session.audio_channels) == ("H264", 6)


async def test_describe_passes_whole_and_ends_with_the_connection(stage: Stage) -> None:
    body = b"a=fmtp:97 surround-params=21101\r\n" * 300
    stage.answer = lambda _: ok(body=body)
    answer = await stage.ask(message("DESCRIBE", "rtsp://0.0.0.0:48010"))
    assert answer == ok(body=body)


# Encrypted video

ANNOUNCED = replace(
    StreamSettings(width=1920, height=1080, fps=60, packet_size=992, bitrate_kbps=20_000),
    encryption_enabled=3,
).encode()
IN_THE_CLEAR = ANNOUNCED.replace(b"Enabled:3", b"Enabled:1")


def announce(body: bytes) -> bytes:
    return message("ANNOUNCE", "streamid=control/13/0", body=body)


async def describe(stage: Stage, body: bytes = b"a=host:1\r\n") -> bytes:
    stage.answer = lambda _: ok(body=body)
    answer = await stage.ask(message("DESCRIBE", "rtsp://0.0.0.0:48010"))
    stage.answer = lambda _: ok()
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("stage", ["auto", "always"], indirect=True)
async def test_video_is_offered_to_the_client_and_hidden_from_the_host(stage: Stage) -> None:
    assert await describe(stage) == (
        b"a=host:1\r\n"
        b"a=x-ss-general.encryptionSupported:2\r\na=x-ss-general.encryptionRequested:2\r\n"
    )
    assert (stage.session.video.by, stage.sealed) == (VideoEncryptor.OFFERED, [])
    kept = from_record(stage.store.sessions["s1"], stage.session.reservation, now=0)
    assert kept.video == stage.session.video, "or an edge that restarts here forgets its offer"
    await stage.ask(announce(ANNOUNCED))
    assert stage.heard[1].endswith(IN_THE_CLEAR)
    assert (stage.session.video.by, stage.sealed) == (VideoEncryptor.EDGE, [stage.session])
    await stage.ask(message("PLAY", "/"))
    kept = from_record(stage.store.sessions["s1"], stage.session.reservation, now=0)
    assert kept.video == stage.session.video


@pytest.mark.parametrize("stage", ["never"], indirect=True)
async def test_video_is_not_offered_where_the_edge_must_not(stage: Stage) -> None:
    assert await describe(stage) == b"a=host:1\r\n"
    await stage.ask(announce(IN_THE_CLEAR))
    assert stage.heard[1].endswith(IN_THE_CLEAR)
    assert (stage.session.video.by, stage.sealed) == (VideoEncryptor.NOBODY, [])


@pytest.mark.parametrize("stage", ["always"], indirect=True)
async def test_a_host_that_encrypts_video_does_so_end_to_end(stage: Stage) -> None:
    offered = b"a=x-ss-general.encryptionSupported:7\na=x-ss-general.encryptionRequested:1\n"
    assert await describe(stage, offered) == offered
    await stage.ask(announce(ANNOUNCED))
    assert stage.heard[1].endswith(ANNOUNCED)
    assert (stage.session.video.by, stage.sealed) == (VideoEncryptor.HOST, [])


@pytest.mark.parametrize("stage", ["always"], indirect=True)
async def test_a_client_that_cannot_encrypt_plays_and_is_logged_once(stage: Stage) -> None:
    await describe(stage)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            assert b"200 OK" in await stage.ask(announce(IN_THE_CLEAR))
    assert [log["session"] for log in logs if log["event"] == "video_not_encrypted"] == ["s1"]
    assert (stage.session.video.by, stage.sealed) == (VideoEncryptor.NOBODY, [])


@pytest.mark.parametrize("stage", ["always"], indirect=True)
async def test_a_host_that_refuses_the_announcement_settles_nothing(stage: Stage) -> None:
    await describe(stage)
    stage.answer = lambda _: RtspResponse(400, "Bad Request").encode()
    await stage.ask(announce(ANNOUNCED))
    assert (stage.session.video.by, stage.sealed) == (VideoEncryptor.OFFERED, [])


# To the client


async def test_setup_is_answered_with_the_edges_port_and_secret(stage: Stage) -> None:
    stage.answer = lambda _: ok(
        ("Session", "DEADBEEFCAFE;timeout = 90"),
        ("Transport", "server_port=47998"),
        ("X-SS-Ping-Payload", HOST_PAYLOAD),
    )
    answer = (await stage.ask(SETUP[Flow.VIDEO])).decode()
    assert "Transport: server_port=1998" in answer
    assert "Session: DEADBEEFCAFE;timeout = 90" in answer
    assert HOST_PAYLOAD not in answer
    ((name, flow, terms),) = stage.started
    assert (name, flow) == ("s1", Flow.VIDEO)
    assert terms == FlowTerms(47998, terms.edge_secret, HOST_PAYLOAD)
    assert f"X-SS-Ping-Payload: {terms.edge_secret}" in answer
    assert is_ping_payload(str(terms.edge_secret))
    assert stage.session.flows == {Flow.VIDEO: terms}
    assert stage.store.sessions["s1"] == replace(
        to_record(stage.session), updated_at=stage.store.sessions["s1"].updated_at
    )


async def test_a_client_with_own_ports_that_is_late_is_told_them_for_as_long_as_they_are_its(
    stage: Stage,
) -> None:
    stage.answer = lambda _: ok(("Transport", "server_port=48100"))
    one, table = stage.session, stage.play.keeper.table
    setup = message("SETUP", "streamid=video/0/0", "label-of-s1")

    def choose(client: str, now: float) -> SessionPorts:
        return table.choose_ports(ClientId(client), HOME, now, own_udp=True)

    table.await_handshake(one, HOME, choose(one.client, 0.0), 0.0)
    own = dict(one.own_udp_ports)
    table.move(one, SessionState.PAUSED, 0.0)
    assert f"server_port={own[Flow.VIDEO]}" in (await stage.ask(setup)).decode()
    assert not set(own.values()) & set(choose("other", 1_000.0).own_udp.values())

    table.move(one, SessionState.PAUSED, 0.0)
    other = session("other", port=48_011)
    other.own_udp_ports = choose(other.client, 1_000.0).own_udp
    assert other.own_udp_ports == own
    table.add(other)
    assert f"server_port={PORTS[Flow.VIDEO]}" in (await stage.ask(setup)).decode()


async def test_control_gets_connect_data_of_the_edge(stage: Stage) -> None:
    stage.answer = lambda _: ok(("Transport", "server_port=47999"), ("X-SS-Connect-Data", "77"))
    answer = (await stage.ask(SETUP[Flow.CONTROL])).decode()
    ((_, flow, terms),) = stage.started
    assert (flow, terms.host_port, terms.host_secret) == (Flow.CONTROL, 47999, 77)
    assert f"X-SS-Connect-Data: {terms.edge_secret}" in answer
    assert isinstance(terms.edge_secret, int)
    assert 0 < terms.edge_secret < 2**32


async def test_a_host_without_secrets_has_them_added_towards_the_client(stage: Stage) -> None:
    stage.answer = lambda _: ok(("Transport", "server_port=48200"))
    answer = (await stage.ask(SETUP[Flow.AUDIO])).decode()
    assert re.search("X-SS-Ping-Payload: .{16}\r\n", answer)
    assert stage.started[0][2].host_secret is None


@pytest.mark.parametrize("others", [0, 1])
async def test_a_host_that_mixes_sessions_up_is_not_set_up_for_two(
    stage: Stage, nursery: trio.Nursery, others: int
) -> None:
    """It gives no secrets, and sees all sessions at one address."""
    hosts = (HostOffer("wolf", own_addresses=False),)
    tunnel = FakeTunnel(nursery, "agent-2", hosts, on_stream=stage.host)
    backend = BackendId("agent-2/wolf")
    stage.answer = lambda _: ok(("Transport", "server_port=48200"))
    async with serving(stage.proxy._fleet, tunnel):
        stage.play.keeper.table.remove(stage.session.id, 0)
        one = session("s2", backend=backend, since=trio.current_time())
        stage.play.keeper.table.add(one)
        for number in range(others):
            other = session(f"s3{number}", backend=backend, state=SessionState.PAUSED)
            stage.play.keeper.table.add(other)
        answer = await stage.ask(SETUP[Flow.AUDIO])
        assert answer.startswith(b"RTSP/1.0 503" if others else b"RTSP/1.0 200")
        assert len(stage.started) == 1 - others


async def test_a_client_whose_turn_at_its_host_is_over_reaches_it_no_more(
    stage: Stage, nursery: trio.Nursery
) -> None:
    """Its messages would be taken for those of the one whose turn it is."""
    tunnel = FakeTunnel(
        nursery, "agent-2", (HostOffer("wolf", kind="sunshine"),), on_stream=stage.host
    )
    backend = BackendId("agent-2/wolf")
    async with serving(stage.proxy._fleet, tunnel):
        stage.play.keeper.table.remove(stage.session.id, 0)
        one = session("s2", backend=backend, since=trio.current_time())
        stage.play.keeper.table.add(one)
        assert (await stage.ask(message("OPTIONS", "/"))).startswith(b"RTSP/1.0 200")
        stage.heard.clear()
        await stage.play.keeper.note_streaming(one)
        ports = SessionPorts(one.rtsp_port)
        table = stage.play.keeper.table
        table.await_handshake(one, HOME, ports, trio.current_time())
        next_one = session("s3", address="192.0.2.9", backend=backend)
        async with stage.play.keeper.apart.starting(backend, next_one.id, timeout_s=1):
            assert (await stage.ask(message("OPTIONS", "/"))).startswith(b"RTSP/1.0 503")
        assert stage.heard == []


async def test_secrets_are_new_at_every_setup(stage: Stage) -> None:
    stage.answer = lambda _: ok(("Transport", "server_port=1"))
    for _ in range(3):
        await stage.ask(SETUP[Flow.VIDEO])
    assert len({terms.edge_secret for _, _, terms in stage.started}) == 3


async def test_play_makes_the_session_stream(stage: Stage) -> None:
    await stage.ask(message("PLAY", "/"))
    assert stage.session.state is SessionState.STREAMING


async def test_what_the_host_refuses_is_refused_by_it(stage: Stage) -> None:
    stage.answer = lambda _: RtspResponse(404, "NOT FOUND", headers=(("CSeq", "1"),)).encode()
    assert (await stage.ask(message("PLAY", "/"))).startswith(b"RTSP/1.0 404 NOT FOUND")
    assert stage.session.state is SessionState.LAUNCHED
    assert (await stage.ask(SETUP[Flow.VIDEO])).startswith(b"RTSP/1.0 404")
    assert stage.started == []


async def test_a_store_that_is_away_does_not_stop_a_handshake(stage: Stage) -> None:
    stage.store.away = True
    stage.answer = lambda _: ok(("Transport", "server_port=1"))
    for flow in Flow:
        assert b"200 OK" in await stage.ask(SETUP[flow])
    assert b"200 OK" in await stage.ask(message("PLAY", "/"))
    assert stage.session.state is SessionState.STREAMING


# Which session


async def test_nobodys_message_is_454_and_reaches_no_host(stage: Stage) -> None:
    for address, port in ((HOME, 48011), ("198.51.100.1", 48010)):
        answer = await stage.ask(message("OPTIONS", "/"), address=address, port=port)
        assert answer.startswith(b"RTSP/1.0 454 ")
        assert b"CSeq: 1" in answer
    assert stage.tunnel.dials == []


async def test_two_that_cannot_be_told_apart_are_both_refused(stage: Stage) -> None:
    stage.play.keeper.table.add(session("s2", since=trio.current_time()))
    assert b" 454 " in await stage.ask(message("OPTIONS", "/"))
    assert stage.tunnel.dials == []
    assert b" 200 " in await stage.ask(message("OPTIONS", "/", "label-of-s2"))
    assert stage.tunnel.dials[0][2] == "s2"


@pytest.mark.parametrize("method", ["SETUP", "PLAY"])
@pytest.mark.parametrize("how", ["ended", "resumed"])
async def test_an_answer_for_a_session_that_has_moved_on_starts_nothing(
    stage: Stage, method: str, how: str
) -> None:
    def meanwhile(_: bytes) -> bytes:
        if how == "ended":
            stage.play.keeper.table.remove(stage.session.id, 0)
        else:
            stage.session.host_rtsp = session(host_rtsp="rtsp://203.0.113.77:1").host_rtsp
        return ok(("Transport", "server_port=1"))

    stage.answer = meanwhile
    stored = dict(stage.store.sessions)
    target = "/" if method == "PLAY" else "streamid=video/0/0"
    assert b" 454 " in await stage.ask(message(method, target))
    assert stage.started == []
    assert stage.session.flows == {}
    assert stage.session.state is SessionState.LAUNCHED
    assert stage.store.sessions == stored


# Hosts that fail


async def test_a_silent_host_is_503_before_the_client_gives_up(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    stage.answer = lambda _: None
    assert b" 503 " in await stage.ask(message("OPTIONS", "/"))
    assert trio.current_time() == rtsp.host_answer_timeout_s < 15


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x00\xff\x13\x37\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-length: 10\r\n\r\nx",
        b"RTSP/1.0 200 OK\r\nX: " + b"x" * 100_000,
        ok(body=b"x" * 100_000),
        ok(("Transport", "server_port=0")),
        ok(("Transport", "server_port=70000")),
        ok(("Transport", "unicast")),
        ok(("Transport", "server_port=1"), ("X-SS-Ping-Payload", "short")),
    ],
    ids=[
        "nothing",
        "noise",
        "HTTP",
        "cut short",
        "endless head",
        "endless body",
        "port 0",
        "port 70000",
        "no port",
        "bad payload",
    ],
)
async def test_garbage_of_a_host_is_503_at_once_and_starts_nothing(
    stage: Stage, said: bytes
) -> None:
    stage.answer = lambda _: said
    begun = trio.current_time()
    answer = await stage.ask(SETUP[Flow.VIDEO])
    assert trio.current_time() - begun < rtsp.host_answer_timeout_s / 2
    assert answer.startswith(b"RTSP/1.0 503 ")
    assert stage.started == []
    assert stage.session.flows == {}


@pytest.mark.parametrize("error", [DialRefused("host_down", "no"), TunnelClosed()])
async def test_a_host_that_cannot_be_reached_is_503(stage: Stage, error: Exception) -> None:
    stage.tunnel.refuse = error
    assert b" 503 " in await stage.ask(message("OPTIONS", "/"))


async def test_a_backend_that_has_gone_is_503(stage: Stage) -> None:
    stage.session.backend = type(BACKEND)("agent-9/wolf")
    assert b" 503 " in await stage.ask(message("OPTIONS", "/"))


# Clients that do otherwise


async def test_a_port_test_without_a_byte_is_no_event(stage: Stage) -> None:
    with structlog.testing.capture_logs() as events:
        assert await stage.ask(b"", eof=True) == b""
    assert events == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"OPTIONS / RTSP/1.0\r\nno header\r\n\r\n",
        b"OPTIONS / RTSP/1.0\r\nContent-length: -1\r\n\r\n",
        b"OPTIONS / RTSP/1.0\r\nContent-length: 999999999\r\n\r\n",
        b"OPTIONS / RTSP/1.0\r\nX: " + b"x" * 100_000,
        b"OPTIONS / RTSP/1.0\r\n" + b"A: b\r\n" * 100 + b"\r\n",
        message("ANNOUNCE", "/", body=b"cut short")[:-3],
        b"OPTIONS",
    ],
    ids=[
        "noise",
        "HTTP",
        "no header",
        "length",
        "endless length",
        "endless head",
        "headers",
        "cut in the body",
        "cut in the head",
    ],
)
async def test_bad_input_is_400_and_one_line_of_the_log(stage: Stage, data: bytes) -> None:
    with structlog.testing.capture_logs() as events:
        answer = await stage.ask(data, eof=True)
    assert answer == b"RTSP/1.0 400 Bad Request\r\n\r\n"
    (event,) = events
    assert event["event"] == "rtsp_refused"
    assert stage.proxy.malformed == {event["reason"]: 1}
    assert stage.tunnel.dials == []


async def test_who_drips_is_let_go_in_time(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    stream = stage.connect()
    await stream.send_all(b"OPT")
    assert await stream.receive_some(1) == b""
    assert trio.current_time() == rtsp.request_timeout_s
    assert stage.proxy.malformed == {"too_slow": 1}


async def test_the_end_is_a_fin_and_what_a_client_sends_late_is_read(stage: Stage) -> None:
    stream = stage.connect()
    await stream.send_all(message("OPTIONS", "/"))
    assert b"200 OK" in await stream.receive_some(65_536)
    assert await stream.receive_some(65_536) == b""
    await stream.send_all(b"late")
    await stream.aclose()
    await trio.testing.wait_all_tasks_blocked()


async def test_a_client_that_never_closes_is_closed(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    stream = stage.connect()
    await stream.send_all(message("OPTIONS", "/"))
    while await stream.receive_some(65_536):
        pass
    with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
        await trio.sleep(rtsp.close_timeout_s + 0.1)
        await stream.send_all(b"x")


async def test_a_client_that_hangs_up_amid_its_message_is_no_error(stage: Stage) -> None:
    stream = stage.connect()
    await stream.send_all(b"OPTIONS / RT")
    await trio.testing.wait_all_tasks_blocked()
    await stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert stage.tunnel.dials == []


async def test_no_secret_is_logged(stage: Stage) -> None:
    stage.answer = lambda _: ok(("Transport", "server_port=1"), ("X-SS-Ping-Payload", HOST_PAYLOAD))
    with structlog.testing.capture_logs() as events:
        await stage.ask(message("SETUP", "streamid=video/0/0", "label-of-s1"))
        await stage.ask(message("PLAY", "/", "label-of-s1"))
        await stage.ask(message("PLAY", "/", "label-of-s1"), port=48011)
    shown = repr(events)
    assert "label-of-s1" not in shown
    assert HOST_PAYLOAD not in shown
    assert str(stage.started[0][2].edge_secret) not in shown
