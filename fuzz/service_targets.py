"""Targets of edge and agent: the tunnel between them, translation, settings, Wolf, old sessions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx
import msgspec
import trio
from pydantic import BaseModel

from agent.config import AgentConfig
from agent.errors import HostApiError
from agent.wolf import WolfApi
from backends.model import BackendId
from backends.records import SessionRecord
from backends.slots import Reservation
from fuzz import captures
from fuzz.media_targets import MEDIA_TARGETS
from fuzz.target import Target, as_datagrams, check_error, chunks, datagrams, promise
from moonlight.enet import NO_PEER, Connect, parse_packet
from moonlight.enet_glance import glance
from moonlight.errors import ProtocolError
from moonlight.flows import Flow
from moonlight.identity import ClientId
from moonlight.launch import RtspUrl
from moonlight.ping import build_ping, parse_ping
from proxy.config import ProxyConfig
from proxy.control_rtt import ControlWatch
from proxy.rtp_loss import SequenceGaps
from proxy.session_records import from_record, to_record
from proxy.sessions import FlowTerms, Session, SessionId, SessionState, StreamKey
from proxy.translation import ConnectTranslation, PingTranslation
from revdial import messages, probes
from revdial.errors import BadMessage
from revdial.frames import FrameSplitter, binary_frame
from revdial.framing import Buffer, FlowKind, Preamble, decode_batch, encode_batch, encode_runs
from settings.loader import ConfigError, load_toml

_EDGE_PAYLOAD: Final = "0123456789abcdef"
_HOST_PAYLOAD: Final = "fedcba9876543210"
_RESERVATION: Final = Reservation(BackendId("agent/host"))
_VIDEO_PORT: Final = 48100
_max_message_bytes: Final = 70_000

# -- the tunnel --------------------------------------------------------------------------------


def _messages(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for decode in (messages.decode_from_agent, messages.decode_from_edge):
        with suppress(BadMessage):
            decode(data)
            promise(False, "binary messages are refused")
        with suppress(BadMessage):
            message = decode(text)
            repr(message)
            try:
                written = messages.encode(message)
            except BadMessage as error:
                promise(error.reason == "too_large", "what was decoded can be sent")
            else:
                promise(decode(written) == message, "a control message round-trips")


def _probes(data: bytes) -> None:
    nonce = probes.nonce_of(data)
    if nonce is not None:
        promise(probes.probe_datagram(nonce) == data, "a probe is its nonce and nothing else")
        promise(parse_ping(data) is None, "a probe is no ping")
        promise(not glance(data), "a probe is no ENet packet")
    with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
        told = msgspec.json.decode(data, type=dict[str, object])
        with suppress(BadMessage):
            request = probes.read_request(told)
            promise(len(bytes.fromhex(request.nonce)) == probes.nonce_bytes, "a nonce is one")
            promise(0 < len(request.ports) <= probes.max_probed_ports, "ports are few")
            promise(request.nonce not in repr(request), "a nonce is not shown")
        with suppress(BadMessage):
            promise(probes.read_sent(told).sent >= 0, "nobody sends less than nothing")


def _probes_seeds() -> list[bytes]:
    nonce = bytes(range(probes.nonce_bytes))
    request = {"nonce": nonce.hex(), "ports": [47998, 47999, 48000]}
    return [
        probes.probe_datagram(nonce),
        msgspec.json.encode(request),
        msgspec.json.encode({"host": "play.example.org", "sent": 9}),
    ]


def _messages_seeds() -> list[bytes]:
    app = messages.AppOffer("Desktop", 1, hdr=True)
    examples = (
        messages.Hello(
            "agent", "eu", 1.5, -2.5, "moonhost", (messages.HostOffer("h", apps=(app,)),)
        ),
        messages.Heartbeat(
            (
                messages.HostReport(
                    "h",
                    reachable=True,
                    ports={"47989": True},
                    apps=(app,),
                    gpus=(messages.GpuReport("gpu", "v", 1, 2),),
                ),
            ),
            cpu_percent=12.5,
        ),
        messages.DialFailed("id", "refused", "no"),
        messages.Reply("id", ok=True, result={"a": [1, None, {"b": 1.5}]}),
        messages.Welcome(10.0),
        messages.Dial("id", "flow", "h", "udp", "origin", 47998, "video", "s"),
        messages.Request("id", "confirm_pin", {"pin": "1234"}),
    )
    return [messages.encode(example).encode() for example in examples]


def _framing(data: bytes) -> None:
    with suppress(BadMessage):
        preamble = Preamble.decode(data)
        promise(preamble.encode() == data, "a preamble round-trips")
    with suppress(BadMessage):
        batch = decode_batch(data)
        promise(encode_runs(batch.microseconds, batch.runs) == data, "a batch round-trips")
        sent = [bytes(datagram) for datagram in batch.datagrams()]
        promise(len(sent) == sum(map(len, batch.runs)), "runs know their number")
        with suppress(BadMessage):  # other runs may need more headers
            again = decode_batch(encode_batch(0, sent))
            promise([bytes(each) for each in again.datagrams()] == sent, "datagrams are kept")


def _framing_seeds() -> list[bytes]:
    return [
        Preamble("session", FlowKind.VIDEO, "192.0.2.1").encode(),
        encode_batch(7, [b"aaaa", b"bbbb", b"c", b"", b"dddddd"]),
        encode_batch(7, [bytes(1400)] * 5),
    ]


def _split(pieces: list[bytes], *, masked: bool) -> tuple[list[bytes], bytes]:
    """Give the messages that are taken directly, and what is left to the library."""
    taken: list[bytes] = []
    left = bytearray()

    def leave(frame: Buffer) -> bool:
        left.extend(frame)
        return True

    splitter = FrameSplitter(
        masked=masked, on_message=lambda message: taken.append(bytes(message)), on_other=leave
    )
    for piece in pieces:
        splitter.feed(piece, _max_message_bytes)
    return taken, bytes(left)


def _frames(data: bytes) -> None:
    """Take a stream of WebSocket frames apart, however it is cut, as both sides see it."""
    whole, pieces = chunks(data)
    for masked in (True, False):
        at_once, in_pieces = _split([whole], masked=masked), _split(pieces, masked=masked)
        promise(at_once[0] == in_pieces[0], "messages do not depend on the cut")
        # The beginning of a header may be kept back, after a refusal too.
        promise(at_once[1].startswith(in_pieces[1]), "nor does what the library gets")


def _frames_seeds() -> list[bytes]:
    made = [
        binary_frame(bytes(size), masked=masked) for size in (0, 5, 300) for masked in (False, True)
    ]
    ping = bytes([0x89, 0x00])
    return [b"\0" + b"".join(made), b"\1" + made[2] + ping + made[4], b"\7" + made[3] + ping]


# -- the edge ----------------------------------------------------------------------------------


def _control_rtt(data: bytes) -> None:
    seen = glance(data)
    watch = ControlWatch()
    watch.to_host(data, 0.0)
    watch.to_client(data, 0.0)
    try:
        kinds = [command.kind for command in parse_packet(data).commands]
    except ProtocolError:
        kinds = []
    promise([one.kind for one in seen] == kinds, "a glance sees what a parser sees")


def _translation(data: bytes) -> None:
    _control_rtt(data)
    ping = PingTranslation(_EDGE_PAYLOAD, _HOST_PAYLOAD).to_host(data)
    if isinstance(ping, bytes) and (seen := parse_ping(data)):
        promise(seen.payload == _EDGE_PAYLOAD, "only the edge's payload gets through")
        promise(ping == build_ping(_HOST_PAYLOAD, seen.counter), "the host gets its own")
    connect = ConnectTranslation(1, 2).to_host(data)
    if not isinstance(connect, bytes):
        return
    promise(len(connect) == len(data), "a datagram keeps its length")
    with suppress(ProtocolError):
        before, after = parse_packet(data), parse_packet(connect)
        if before.peer_id == NO_PEER and before.commands:
            offered, given = before.commands[0].body, after.commands[0].body
            if isinstance(offered, Connect) and isinstance(given, Connect):
                promise((offered.data, given.data) == (1, 2), "no CONNECT gets past the edge")


def _translation_seeds() -> list[bytes]:
    enet = next(target for target in MEDIA_TARGETS if target.name == "enet")
    return [build_ping(_EDGE_PAYLOAD, 9), build_ping(_HOST_PAYLOAD, 9), *enet.seeds()]


def _rtp_loss(data: bytes) -> None:
    every, audio = SequenceGaps(), SequenceGaps(97)
    sent = list(datagrams(data))
    for gaps in (every, audio):
        gaps.note(sent)
        promise(gaps.missing >= 0, "there are not fewer than none missing")
    promise(audio.received <= every.received <= len(sent), "what came is counted once")


def _rtp_loss_seeds() -> list[bytes]:
    recorded = [data[:16] for up, data in captures.udp(_VIDEO_PORT) if not up][:40]
    orders = ([1, 2, 5, 4, 3], [65_535, 0, 3], list(range(0, 65_536, 4_095)))
    made = [
        as_datagrams(b"\x80\x61" + number.to_bytes(2, "big") + bytes(8) for number in order)
        for order in orders
    ]
    return [*made, *([as_datagrams(recorded)] if recorded else [])]


def _session_records(data: bytes) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    record = SessionRecord(
        "id", "client", BackendId("agent/host"), "app", "paused", now, now, details=data
    )
    session = from_record(record, _RESERVATION, now=0)
    again = from_record(to_record(session), _RESERVATION, now=0)
    promise(again == session, "a session round-trips")


def _session_record_seeds() -> list[bytes]:
    session = Session(
        id=SessionId("id"),
        client=ClientId("client"),
        client_address="192.0.2.1",
        backend=BackendId("agent/host"),
        app_id=1,
        app_title="app",
        mode="1280x720x60",
        key=StreamKey(bytes(16), 1),
        corever=1,
        label="label",
        rtsp_port=48_010,
        host_rtsp=RtspUrl(True, "192.0.2.2"),
        state=SessionState.STREAMING,
        since=0,
        reservation=_RESERVATION,
        flows={
            Flow.VIDEO: FlowTerms(47_998, _EDGE_PAYLOAD, _HOST_PAYLOAD),
            Flow.CONTROL: FlowTerms(47_999, 1, None),
        },
        control_client=("192.0.2.1", 5),
    )
    return [to_record(session).details, b"[" * 2000, b"{}"]


# -- settings and the host's API ---------------------------------------------------------------


def _settings(data: bytes) -> None:
    """Read a file, and behind a zero byte variables, each ended by another."""
    content, *variables = data.split(b"\0")
    pairs = (each.decode("utf-8", "surrogateescape").partition("=") for each in variables)
    environ = {f"M__{name}": value for name, _, value in pairs}
    models: tuple[type[BaseModel], ...] = (AgentConfig, ProxyConfig)
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        for model in models:
            try:
                load_toml(Path(file.name), model, "M", environ=environ)
            except ConfigError as error:
                check_error(error)


def _settings_seeds() -> list[bytes]:
    root = Path(__file__).resolve().parents[1]
    examples = [
        (root / name).read_bytes() for name in ("agent.example.toml", "config.example.toml")
    ]
    return [
        *examples,
        b'a.b = [1, 2.5, 1979-05-27, "\\u00e9"]\n[[c]]\nd = {e = true}\n',
        examples[0] + b"\0HOSTS__0__NAME=x\0EDGE__URL=wss://h\0HOSTS=[{}]",
        b"a = " + b"[" * 500 + b"]" * 500,
        b"a = 0x" + b"f" * 40 + b"\nb = " + b"9" * 5000,
        b"\0A=[1]\0A__0__B={c=1}\0A__" + b"9" * 5000 + b"=1",
    ]


def _wolf(data: bytes) -> None:
    trio.run(_ask_wolf, data)


async def _ask_wolf(body: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=httpx.ByteStream(body)))
    async with httpx.AsyncClient(transport=transport, base_url="http://wolf") as client:
        api = WolfApi(client, Path("wolf.sock"), timeout_s=60, max_answer_bytes=1 << 20)
        with suppress(HostApiError):
            for offer in await api.apps():
                promise(offer.title.isprintable() and 0 < offer.id < 2**31, "offers are clean")
        with suppress(HostApiError):
            for pairing in await api.pending_pairings():
                repr(pairing)
        with suppress(HostApiError):
            promise(await api.session_count() >= 0, "sessions are counted")


def _wolf_seeds() -> list[bytes]:
    return [
        (
            b'{"success":true,"apps":[{"title":"Desktop","id":"1","support_hdr":true},'
            b'{"title":"\\u0007","id":2147483648}]}'
        ),
        (
            b'{"success":true,"requests":[{"pair_secret":"s","pin":"::ffff:127.64.0.1"},'
            b'{"pair_secret":"t","client_ip":"fe80::1%eth0"}]}'
        ),
        b'{"success":true,"sessions":[{"client_id":"1","app":{"a":[1e9]}}]}',
        b'{"sessions":[' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"]}",
        b'{"apps":[{"title":"x","id":' + b"9" * 4200 + b"}]}",
    ]


def _target(
    name: str,
    module: str,
    drive: Callable[[bytes], None],
    seeds: Callable[[], list[bytes]],
    *errors: type[Exception],
) -> Target:
    return Target(name, (module,), drive, errors, seeds)


SERVICE_TARGETS: Final = (
    _target("messages", "revdial.messages", _messages, _messages_seeds),
    _target("probes", "revdial.probes", _probes, _probes_seeds),
    _target("framing", "revdial.framing", _framing, _framing_seeds),
    _target("frames", "revdial.frames", _frames, _frames_seeds),
    _target("translation", "proxy.translation", _translation, _translation_seeds),
    _target("rtp_loss", "proxy.rtp_loss", _rtp_loss, _rtp_loss_seeds),
    _target(
        "session_records",
        "proxy.session_records",
        _session_records,
        _session_record_seeds,
        ValueError,
        ProtocolError,
    ),
    _target("settings", "settings.loader", _settings, _settings_seeds),
    _target("wolf", "agent.wolf", _wolf, _wolf_seeds),
)
