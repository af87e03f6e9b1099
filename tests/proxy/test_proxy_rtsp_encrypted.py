"""Encrypted RTSP through the edge: sealed on one leg, on the other, on both or on neither."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog.testing
import trio
import trio.testing
from proxy_fakes import (
    RIKEY,
    FakeFlows,
    FakeStore,
    FakeTunnel,
    NoTls,
    new_fleet,
    new_play,
    serving,
    session,
)
from test_proxy_rtsp import HOST_PAYLOAD, PORTS, Stage, message, ok

from moonlight.flows import Flow
from moonlight.launch import RtspUrl
from moonlight.rtsp import RtspResponse, parse_response
from moonlight.rtsp_encryption import EncryptedRtsp, SealedMessage, SealedReader, seal
from proxy.config import ProxyConfig
from proxy.rtsp import RtspProxy
from proxy.session_records import to_record
from proxy.sessions import SessionState, StreamKey

KEY = bytes.fromhex(RIKEY)
OTHER_KEY = bytes(16)
PLAIN_HOST = RtspUrl.parse("rtsp://203.0.113.9:48010")
SEALED_HOST = RtspUrl.parse("rtspenc://203.0.113.9:48010")
OPTIONS = message("OPTIONS", "rtsp://0.0.0.0:48010")
PLAY = message("PLAY", "/")
SETUP = message("SETUP", "streamid=video/0/0")


def read(data: bytes) -> SealedMessage:
    """Read all that a peer sent as one sealed message, with nothing behind it."""
    reader = SealedReader()
    reader.receive(data)
    reader.end()
    (found, rest) = (reader.next(), reader.idle)
    assert found is not None
    assert rest
    return found


@dataclass
class SealedStage(Stage):
    """A client and a host that can both seal."""

    client: EncryptedRtsp = field(default_factory=lambda: EncryptedRtsp(KEY, "client"))
    sealing: EncryptedRtsp = field(default_factory=lambda: EncryptedRtsp(KEY, "host"))
    raw: list[bytes] = field(default_factory=list)
    """What came to the host."""
    answered: list[bytes] = field(default_factory=list)
    """What the host sent, when it sealed."""

    async def host(self, name: str, service: str, stream: trio.StapledStream[Any, Any]) -> None:
        if not self.session.host_rtsp.encrypted:
            await super().host(name, service, stream)
            return
        reader = SealedReader()
        while (asked := reader.next()) is None:
            data = await stream.receive_some(65_536)
            self.raw.append(data)
            reader.receive(data)
        plain = self.sealing.unseal(asked)
        self.heard.append(plain)
        said = self.answer(plain)
        self.answered.append(said if said[:1] > b"\x7f" else self.sealing.seal(said))
        await stream.send_all(self.answered[-1])
        await stream.aclose()

    async def ask_sealed(self, plain: bytes, **where: Any) -> RtspResponse:
        answer = await self.ask(self.client.seal(plain), **where)
        return parse_response(self.client.unseal(read(answer)))


@pytest.fixture
async def stage(nursery: trio.Nursery) -> AsyncIterator[SealedStage]:
    store, tunnel = FakeStore(), FakeTunnel(nursery)
    fleet = new_fleet(store)
    play = new_play(ProxyConfig(hostname="h"), store, fleet, NoTls(), FakeFlows())
    one = session("s1", since=trio.current_time(), rtsp_encrypted=True)
    play.keeper.table.add(one)
    store.sessions[one.id] = to_record(one)
    started: list[Any] = []
    proxy = RtspProxy(
        play.keeper, fleet, PORTS, lambda *what: started.append(what), lambda _: None, 30.0
    )
    made = SealedStage(proxy, play, store, tunnel, nursery, one, started=started)
    tunnel.on_stream = made.host
    async with serving(fleet, tunnel):
        yield made


def reasons(events: list[Any]) -> list[str]:
    return [event["reason"] for event in events]


# Every pair of legs


@pytest.mark.parametrize("host", [PLAIN_HOST, SEALED_HOST], ids=["plain host", "sealed host"])
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed client", "plain client"])
async def test_a_message_goes_there_and_back_whatever_is_sealed(
    stage: SealedStage, host: RtspUrl, sealed: bool
) -> None:
    stage.session.host_rtsp, stage.session.rtsp_encrypted = host, sealed
    stage.answer = lambda _: ok(("Transport", "server_port=1"), ("X-SS-Ping-Payload", HOST_PAYLOAD))
    for asked in (OPTIONS, SETUP, PLAY):
        if sealed:
            answer = await stage.ask_sealed(asked)
        else:
            answer = parse_response(await stage.ask(asked))
        assert answer.status == 200
        if asked is SETUP:
            assert answer.server_port == PORTS[Flow.VIDEO]
            assert answer.ping_payload != HOST_PAYLOAD
    assert stage.heard == [
        message("OPTIONS", str(host), host.host),
        message("SETUP", "streamid=video/0/0", host.host),
        message("PLAY", "/", host.host),
    ]
    assert stage.session.state is SessionState.STREAMING
    secret = str(stage.session.flows[Flow.VIDEO].edge_secret)
    assert secret not in b"".join(stage.raw).decode("latin-1")


async def test_a_sealed_message_in_single_bytes_is_whole(stage: SealedStage) -> None:
    stream = stage.connect()
    for byte in stage.client.seal(OPTIONS):
        await stream.send_all(bytes([byte]))
    answer = await stream.receive_some(65_536)
    assert parse_response(stage.client.unseal(read(answer))).status == 200


async def test_a_client_at_a_new_address_is_known_by_its_key(stage: SealedStage) -> None:
    other = session("s2", rikey="00" * 16, rtsp_encrypted=True, since=trio.current_time())
    stage.play.keeper.table.add(other)
    assert (await stage.ask_sealed(OPTIONS, address="198.51.100.7")).status == 200
    assert stage.tunnel.dials[0][2] == "s1"


async def test_no_number_seals_two_messages_under_one_key(stage: SealedStage) -> None:
    """The client, the host and the edge seal under the same key, in two directions."""
    stage.session.host_rtsp = SEALED_HOST
    numbers: dict[str, list[int]] = {"client": [], "host": []}
    for _ in range(3):
        asked = stage.client.seal(OPTIONS)
        answer = await stage.ask(asked)
        numbers["client"] += [read(asked).sequence, read(stage.raw[-1]).sequence]
        numbers["host"] += [read(answer).sequence, read(stage.answered[-1]).sequence]
    assert all(len(set(used)) == len(used) == 6 for used in numbers.values())


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed client", "plain client"])
async def test_an_edge_that_restarts_goes_on_behind_what_it_has_said(
    stage: SealedStage, sealed: bool
) -> None:
    stage.session.host_rtsp, stage.session.rtsp_encrypted = SEALED_HOST, sealed
    old = stage.client.seal(OPTIONS) if sealed else OPTIONS
    first = await stage.ask(old)
    stored = stage.store.sessions[stage.session.id]
    stage.play.keeper.table.remove(stage.session.id, 0)
    await stage.play.keeper.restore()
    (again,) = stage.play.keeper.table
    assert again is not stage.session
    assert to_record(again).details == stored.details
    stage.session = again

    second = await stage.ask(stage.client.seal(OPTIONS) if sealed else OPTIONS)
    asked = [read(raw).sequence for raw in stage.raw]
    assert asked == sorted(set(asked))
    if sealed:
        assert read(first).sequence < read(second).sequence
        with structlog.testing.capture_logs() as events:
            assert b" 400 " in await stage.ask(old)
        assert reasons(events) == ["rtsp_replay"]


# What is refused


async def refused(stage: SealedStage, data: bytes) -> str:
    """Send something that must reach no host; give the reason that is logged and counted."""
    before = (len(stage.tunnel.dials), stage.session.rtsp_sequence)
    with structlog.testing.capture_logs() as events:
        answer = await stage.ask(data)
    assert answer.startswith(b"RTSP/1.0 400 "), "nothing is sealed for who is not known"
    assert (len(stage.tunnel.dials), stage.session.rtsp_sequence) == before
    (reason,) = reasons(events)
    assert stage.proxy.refused[reason] == 1
    assert RIKEY not in repr(events)
    return reason


async def test_a_wrong_tag_is_refused_and_the_next_message_goes_through(stage: SealedStage) -> None:
    bent = bytearray(stage.client.seal(OPTIONS))
    bent[-1] ^= 1
    assert await refused(stage, bytes(bent)) == "rtsp_tag"
    stage.proxy.refused.clear()
    assert await refused(stage, seal(OTHER_KEY, "client", 9, OPTIONS)) == "rtsp_tag"
    stage.proxy.refused.clear()
    assert await refused(stage, seal(KEY, "host", 9, OPTIONS)) == "rtsp_tag"
    assert (await stage.ask_sealed(OPTIONS)).status == 200


async def test_a_replay_is_refused_on_a_new_connection(stage: SealedStage) -> None:
    asked = stage.client.seal(OPTIONS)
    await stage.ask(asked)
    assert await refused(stage, asked) == "rtsp_replay"
    assert (await stage.ask_sealed(OPTIONS)).status == 200


async def test_a_replay_of_a_message_that_is_being_answered_is_refused(stage: SealedStage) -> None:
    stage.answer = lambda _: None
    asked = stage.client.seal(OPTIONS)
    first = stage.connect()
    await first.send_all(asked)
    await trio.testing.wait_all_tasks_blocked()
    assert await refused(stage, asked) == "rtsp_replay"
    await first.aclose()


async def test_plain_text_where_the_client_was_told_to_seal_is_refused(stage: SealedStage) -> None:
    assert await refused(stage, OPTIONS) == "rtsp_not_sealed"


async def test_a_sealed_message_where_the_client_was_told_not_to_is_refused(
    stage: SealedStage,
) -> None:
    stage.session.rtsp_encrypted = False
    assert await refused(stage, stage.client.seal(OPTIONS)) == "rtsp_sealed_unasked"


async def test_an_endless_length_is_refused_by_its_header(stage: SealedStage) -> None:
    with structlog.testing.capture_logs() as events:
        assert b" 400 " in await stage.ask(b"\xff\xff\xff\xff" + bytes(20))
    assert reasons(events) == ["rtsp_message"]


@pytest.mark.parametrize("plain", [b"", b"\x00\r\n\r\n", OPTIONS[:-3]])
async def test_noise_of_a_client_that_has_the_key_is_400_under_its_seal(
    stage: SealedStage, plain: bytes
) -> None:
    assert (await stage.ask_sealed(plain)).status == 400
    assert stage.tunnel.dials == []


async def test_a_port_test_without_a_byte_is_no_event(stage: SealedStage) -> None:
    with structlog.testing.capture_logs() as events:
        assert await stage.ask(b"", eof=True) == b""
    assert events == []


# Hosts that seal badly


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (ok(), "rtsp_not_sealed"),
        (b"", "rtsp_no_answer"),
        (seal(OTHER_KEY, "host", 9, ok()), "rtsp_tag"),
        (seal(KEY, "client", 9, ok()), "rtsp_tag"),
        (seal(KEY, "host", 3, ok()), "rtsp_replay"),
        (seal(KEY, "host", 9, ok())[:-1], "rtsp_truncated"),
        (seal(KEY, "host", 9, b"HTTP/1.1 200 OK\r\n\r\n"), "rtsp_first_line"),
    ],
    ids=["plain", "nothing", "other key", "own message", "replay", "cut short", "HTTP"],
)
async def test_an_answer_that_is_not_properly_sealed_is_503(
    stage: SealedStage, said: bytes, reason: str
) -> None:
    stage.session.host_rtsp = SEALED_HOST
    stage.session.host_rtsp_sequence = 3

    async def host(name: str, service: str, stream: trio.StapledStream[Any, Any]) -> None:
        await stream.receive_some(65_536)
        await stream.send_all(said)
        await stream.aclose()

    stage.tunnel.on_stream = host
    with structlog.testing.capture_logs() as events:
        assert (await stage.ask_sealed(OPTIONS)).status == 503
    assert reasons(events) == [reason]


@pytest.mark.parametrize("when", ["asking", "noting"])
async def test_a_session_resumed_meanwhile_is_over_though_its_host_names_the_same_url(
    stage: SealedStage, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resume() -> None:
        stage.session.take_key(StreamKey(OTHER_KEY, 1), corever=1, rtsp_encrypted=True)

    def meanwhile(_: bytes) -> bytes:
        resume()
        return ok(("Transport", "server_port=1"))

    if when == "asking":
        stage.answer = meanwhile
    else:
        note = stage.play.keeper.note_rtsp_sequence

        async def noting(*what: Any) -> None:
            await note(*what)
            resume()

        monkeypatch.setattr(stage.play.keeper, "note_rtsp_sequence", noting)
    assert (await stage.ask_sealed(SETUP)).status == 454
    assert stage.started == []
    assert len(stage.tunnel.dials) == (when == "asking")


async def test_a_store_that_is_away_does_not_stop_a_handshake(stage: SealedStage) -> None:
    stage.session.host_rtsp = SEALED_HOST
    stage.store.away = True
    assert (await stage.ask_sealed(OPTIONS)).status == 200
    assert (await stage.ask_sealed(PLAY)).status == 200


async def test_no_secret_is_logged(stage: SealedStage) -> None:
    with structlog.testing.capture_logs() as events:
        await stage.ask_sealed(PLAY)
        await stage.ask(seal(OTHER_KEY, "client", 9, OPTIONS))
    assert RIKEY not in repr(events)
    assert repr(KEY) not in repr(events)
