"""Targets of RTSP: both roles, sealed messages, and the bodies that describe a stream."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from fuzz import captures
from fuzz.target import Target, chunks, promise
from moonlight.announce import HostCapabilities, StreamSettings
from moonlight.errors import AuthenticationFailed, ProtocolError
from moonlight.launch import RtspUrl
from moonlight.rtsp import RtspParser, RtspRequest, RtspResponse, rewrite_request
from moonlight.rtsp_encryption import EncryptedRtsp, SealedMessage, SealedReader
from proxy import leg_encryption
from proxy.sessions import VideoEncryption, VideoEncryptor

_RTSP_PORT: Final = 48010
_KEY: Final = bytes(16)
_URL: Final = RtspUrl(False, "2001:db8::1", 48_010)

_Read = tuple[list[RtspRequest | RtspResponse], str | None]


def _read(parser: RtspParser[RtspRequest] | RtspParser[RtspResponse], pieces: list[bytes]) -> _Read:
    messages: list[RtspRequest | RtspResponse] = []
    try:
        for piece in pieces:
            parser.receive(piece)
            while (message := parser.next()) is not None:
                messages.append(message)
        parser.end()
        while (message := parser.next()) is not None:
            messages.append(message)
            promise(len(messages) <= 1 + sum(map(len, pieces)), "an ended parser ends")
    except ProtocolError as error:
        return messages, error.reason
    return messages, None


# What is rewritten can have up to three headers more than what was parsed.
_more_headers: Final = 64 + 3


def _rtsp_request(data: bytes) -> None:
    whole, pieces = chunks(data)
    messages, reason = _read(RtspParser("request"), pieces)
    promise((messages, reason) == _read(RtspParser("request"), [whole]), "chunks do not matter")
    written = b"".join(message.encode() for message in messages)
    promise(whole.startswith(written), "a request is written as it came")
    for message in messages:
        if isinstance(message, RtspRequest):
            _use_request(message)


def _use_request(request: RtspRequest) -> None:
    _ = (request.cseq, request.session_host, request.stream)
    rewritten = rewrite_request(request, session_url=_URL)
    promise(rewritten.session_host == _URL.host, "a rewritten request names the host")
    again, reason = _read(RtspParser("request", max_headers=_more_headers), [rewritten.encode()])
    promise(reason is None and len(again) == 1, "a rewritten request is one")
    promise(again[0].headers == rewritten.headers, "and says what was put into it")
    answer = request.answer(("Session", "x"), body=request.body)
    answers, reason = _read(RtspParser("response"), [answer.encode()])
    promise(reason is None and len(answers) == 1, "an answer to any request is one")


def _rtsp_response(data: bytes) -> None:
    whole, pieces = chunks(data)
    messages, reason = _read(RtspParser("response"), pieces)
    promise((messages, reason) == _read(RtspParser("response"), [whole]), "chunks do not matter")
    written = b"".join(message.encode() for message in messages)
    promise(whole.startswith(written), "an answer is written as it came")
    for message in messages:
        if isinstance(message, RtspResponse):
            _use_response(message)


def _use_response(response: RtspResponse) -> None:
    with suppress(ProtocolError):
        _ = response.server_port
    with suppress(ProtocolError):
        _ = response.ping_payload
    with suppress(ProtocolError):
        _ = response.connect_data
    changed = response.with_transport_port(7).with_ping_payload("0123456789abcdef")
    changed = changed.with_connect_data(8)
    found = changed.server_port, changed.ping_payload, changed.connect_data
    promise(found == (7, "0123456789abcdef", 8), "an answer says what was put into it")
    again, reason = _read(RtspParser("response", max_headers=_more_headers), [changed.encode()])
    promise(reason is None and len(again) == 1, "a changed answer is one")
    promise(again[0].headers == changed.headers, "with the same headers")


def _rtsp_request_seeds() -> list[bytes]:
    return [
        b"\0" + each
        for each in (
            b"OPTIONS rtsp://h:48010 RTSP/1.0\r\nCSeq: 1\r\nHost:h\r\n\r\n",
            b"SETUP streamid=video/0/0 RTSP/1.0\r\nCSeq: 3\r\nHost : \r\nhost:\t[::1]:5\r\n\r\n",
            b"ANNOUNCE streamid=control/13/0 RTSP/1.0\r\nContent-length: 2\r\n\r\nv=PLAY / RTSP",
            *captures.asked(_RTSP_PORT),
        )
    ]


def _rtsp_response_seeds() -> list[bytes]:
    return [
        b"\0" + each
        for each in (
            (
                b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nTransport: server_port=47998\r\n"
                b"X-SS-Ping-Payload: 0123456789abcdef\r\nX-SS-Connect-Data: 4294967295\r\n\r\n"
            ),
            b"RTSP/1.0 404 \r\nContent-Length:1\r\n\r\nxRTSP/1.0 200 OK\r\n\r\nuntil the end",
            *captures.answered(_RTSP_PORT),
        )
    ]


def _sealed(pieces: list[bytes]) -> list[SealedMessage]:
    reader = SealedReader()
    messages: list[SealedMessage] = []
    with suppress(ProtocolError):
        for piece in pieces:
            reader.receive(piece)
            while (message := reader.next()) is not None:
                messages.append(message)
        reader.end()
        promise(reader.next() is None, "an ended reader ends")
        promise(reader.idle, "what is left over is cut short")
    return messages


def _rtsp_encryption(data: bytes) -> None:
    whole, pieces = chunks(data)
    found = _sealed(pieces)
    promise(found == _sealed([whole]), "chunks do not matter")
    host = EncryptedRtsp(_KEY, "host")
    for message in found:
        with suppress(ProtocolError):
            host.unseal(message)
    client, host = EncryptedRtsp(_KEY, "client"), EncryptedRtsp(_KEY, "host")
    sealed = client.seal(whole) + client.seal(b"next")
    step = max(1, len(pieces[0])) if pieces else 1
    sent = _sealed([sealed[at : at + step] for at in range(0, len(sealed), step)])
    promise([host.unseal(message) for message in sent] == [whole, b"next"], "sealed messages open")
    try:
        host.unseal(sent[0])
    except AuthenticationFailed:
        return
    promise(False, "messages open once")


def _rtsp_encryption_seeds() -> list[bytes]:
    client = EncryptedRtsp(_KEY, "client")
    return [b"\0" + client.seal(b"OPTIONS") + client.seal(b""), b"\1plain", b"\0"]


def _announce(data: bytes) -> None:
    with suppress(ProtocolError):
        chosen = StreamSettings.parse(data)
        promise(StreamSettings.parse(chosen.encode()) == chosen, "settings round-trip")
    with suppress(ProtocolError):
        offered = HostCapabilities.parse(data)
        promise(HostCapabilities.parse(offered.encode()) == offered, "capabilities round-trip")


def _announce_seeds() -> list[bytes]:
    chosen = StreamSettings(
        width=1280, height=720, fps=60, packet_size=1024, bitrate_kbps=10_000, encrypted_audio=True
    )
    offered = HostCapabilities(
        hevc=True, av1=True, surround_params=("21101", "642012453"), feature_flags=3
    )
    recorded = captures.asked(_RTSP_PORT) + captures.answered(_RTSP_PORT)
    bodies = {each.partition(b"\r\n\r\n")[2] for each in recorded} - {b""}
    return [chosen.encode(), offered.encode(), *sorted(bodies)]


def _leg_encryption(data: bytes) -> None:
    nobody, length = VideoEncryption(), ("Content-length", str(len(data)))
    answer = RtspResponse(200, "OK", headers=(length,), body=data)
    offered, video = leg_encryption.offer(answer, nobody, wanted=True)
    promise(offered.header("Content-length") == str(len(offered.body)), "lengths stay true")
    promise((offered == answer) == (video.by is VideoEncryptor.HOST), "who is offered it sees so")
    if video.by is VideoEncryptor.OFFERED:
        again, by_host = leg_encryption.offer(offered, nobody, wanted=True)
        promise(again == offered and by_host.by is VideoEncryptor.HOST, "and can read it")
    asked = RtspRequest("ANNOUNCE", "x", headers=(length,), body=data)
    chosen = leg_encryption.announced(asked, VideoEncryption(VideoEncryptor.OFFERED))
    hidden = leg_encryption.for_host(asked, chosen)
    promise(hidden.header("Content-length") == str(len(hidden.body)), "lengths stay true")
    promise((hidden != asked) == (chosen.by is VideoEncryptor.EDGE), "what is on is hidden")
    promise(leg_encryption.for_host(hidden, chosen) == hidden, "and stays so")


RTSP_TARGETS: Final = (
    Target("rtsp_request", ("moonlight.rtsp",), _rtsp_request, (), _rtsp_request_seeds),
    Target("rtsp_response", ("moonlight.rtsp",), _rtsp_response, (), _rtsp_response_seeds),
    Target(
        "rtsp_encryption",
        ("moonlight.rtsp_encryption",),
        _rtsp_encryption,
        (),
        _rtsp_encryption_seeds,
    ),
    Target("announce", ("moonlight.announce",), _announce, (), _announce_seeds),
    Target("leg_encryption", ("proxy.leg_encryption",), _leg_encryption, (), _announce_seeds),
)
