"""The light client's RTSP handshake: Moonlight's seven messages, each on a connection of its own.

`Handshake` decides what is asked and keeps what was answered; `shake_hands` does the I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from moonlight.announce import Encryption, HostCapabilities, StreamSettings
from moonlight.errors import Malformed, TooLarge
from moonlight.flows import Flow
from moonlight.launch import RtspUrl, default_rtsp_port
from moonlight.rtsp import Headers, RtspRequest, RtspResponse, parse_response
from moonlight.rtsp_encryption import EncryptedRtsp, SealedReader
from moonlight.video_encryption import ENCRYPTION_OVERHEAD_BYTES
from moonlight.xml import HostRefused
from simulator.light_errors import ClientFailed, failing_at
from simulator.light_http import Target, connect

TARGET_BITRATE_KBPS: Final = 15_000
"""From this bitrate on a client repeats the host text of its URL; below it says 0.0.0.0."""
ANSWER_TIMEOUT_S: Final = 15.0
_NOBODY: Final = "0.0.0.0"  # noqa: S104 - what Moonlight writes, no address to bind to
_SEGMENT_BYTES: Final = 536
_RECEIVE_BYTES: Final = 65_536
_MAX_ANSWER_BYTES: Final = 65_536
_OK: Final = 200
_SETUP: Final = (
    ("Transport", "unicast;X-GS-ClientPort=50000-50001"),
    ("If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
)
_SDP_ACCEPTED: Final = (("Accept", "application/sdp"), _SETUP[1])


@dataclass(frozen=True, slots=True)
class FlowTerms:
    """What SETUP settled for one flow. The payload and the connect data are secrets."""

    port: int
    ping_payload: str | None = field(repr=False)
    connect_data: int | None = field(repr=False)


class Handshake:
    """What to ask next, until there is nothing more; raises `Malformed` and `HostRefused`."""

    def __init__(
        self,
        url: RtspUrl,
        settings: StreamSettings,
        *,
        encrypts_video: bool = True,
        knows_secrets: bool = True,
    ) -> None:
        named = settings.bitrate_kbps >= TARGET_BITRATE_KBPS
        self._host = url.host if named else _NOBODY
        self._url = RtspUrl(url.encrypted and named, self._host, url.port)
        self._session: str | None = None
        self._encrypts_video = encrypts_video
        self._knows_secrets = knows_secrets
        self._done = 0
        self.settings = settings
        """What is announced; after DESCRIBE with the encryption that the host can do."""
        self.terms: dict[Flow, FlowTerms] = {}

    def next_request(self) -> RtspRequest | None:
        """Give the message that is due; None after the last one."""
        messages = (
            ("OPTIONS", str(self._url), (), b""),
            ("DESCRIBE", str(self._url), _SDP_ACCEPTED, b""),
            ("SETUP", "streamid=audio/0/0", _SETUP, b""),
            ("SETUP", "streamid=video/0/0", _SETUP, b""),
            ("SETUP", "streamid=control/13/0", _SETUP, b""),
            ("ANNOUNCE", "streamid=control/13/0", (), self.settings.encode()),
            ("PLAY", "/", (), b""),
        )
        if self._done == len(messages):
            return None
        method, target, headers, body = messages[self._done]
        return RtspRequest(method, target, headers=self._headers(headers, body), body=body)

    def _headers(self, own: Headers, body: bytes) -> Headers:
        cseq = str(self._done + 1)
        headers = [("CSeq", cseq), ("X-GS-ClientVersion", "14"), ("Host", self._host)]
        if self._session is not None:
            headers.append(("Session", self._session))
        headers += own
        if body:
            headers += [("Content-type", "application/sdp"), ("Content-length", str(len(body)))]
        return tuple(headers)

    def receive(self, request: RtspRequest, answer: RtspResponse) -> None:
        """Take the answer to the message given last."""
        if answer.status != _OK:
            raise HostRefused(
                answer.status, f"The host answered {request.method} with status {answer.status}."
            )
        if answer.cseq != self._done + 1:
            raise Malformed("rtsp_cseq", "The host answered another RTSP message.")
        self._done += 1
        if request.method == "DESCRIBE":
            self._choose_encryption(HostCapabilities.parse(answer.body))
        elif request.method == "SETUP":
            self._set_up(request, answer)

    def _choose_encryption(self, host: HostCapabilities) -> None:
        supported, requested = host.encryption_supported or 0, host.encryption_requested or 0
        enabled, packet_size = supported & Encryption.CONTROL_V2.value, self.settings.packet_size
        if self._encrypts_video and (supported | requested) & Encryption.VIDEO.value:
            enabled |= Encryption.VIDEO.value
            packet_size -= ENCRYPTION_OVERHEAD_BYTES
        self.settings = replace(self.settings, encryption_enabled=enabled, packet_size=packet_size)

    def _set_up(self, request: RtspRequest, answer: RtspResponse) -> None:
        port, flow = answer.server_port, request.stream
        if port is None or flow is None:
            raise Malformed("rtsp_port", "The host named no UDP port.")
        payload, data = answer.ping_payload, answer.connect_data
        if not self._knows_secrets:
            payload = data = None
        self.terms[flow] = FlowTerms(port, payload, data)
        if self._session is None:
            self._session = (answer.header("Session") or "").partition(";")[0]


async def shake_hands(
    target: Target,
    url: RtspUrl,
    handshake: Handshake,
    *,
    sealing: EncryptedRtsp | None,
    other_ports: tuple[int, ...],
    on_terms: Callable[[Flow, FlowTerms], None],
) -> None:
    """Go through the handshake. `on_terms` is told of each flow as soon as it is set up.

    `sealing` is our side of encrypted RTSP, None where it was not offered. `other_ports` are tried
    before RTSP's own where that is the standard one, as clients do.
    Raises `ClientFailed`.
    """
    if not url.encrypted:
        sealing = None
    elif sealing is None:
        raise ClientFailed(
            "rtsp_encrypted", "The host wants encrypted RTSP, which was not offered."
        )
    for port in (*other_ports, url.port) if url.port == default_rtsp_port else (url.port,):
        with failing_at("connection_test", timeout_s=ANSWER_TIMEOUT_S):
            await (await connect(target, port)).aclose()
    while (request := handshake.next_request()) is not None:
        known = set(handshake.terms)
        with failing_at(f"rtsp_{request.method.lower()}", timeout_s=ANSWER_TIMEOUT_S):
            handshake.receive(request, await _exchange(target, url.port, request, sealing))
        for flow in handshake.terms.keys() - known:
            on_terms(flow, handshake.terms[flow])


async def _exchange(
    target: Target, port: int, request: RtspRequest, sealing: EncryptedRtsp | None
) -> RtspResponse:
    """Send one message in pieces, read until the host closes."""
    message, answer = request.encode(), b""
    async with await connect(target, port, max_segment_bytes=_SEGMENT_BYTES) as stream:
        await stream.send_all(message if sealing is None else sealing.seal(message))
        while data := await stream.receive_some(_RECEIVE_BYTES):
            answer += data
            if len(answer) > _MAX_ANSWER_BYTES:
                raise TooLarge("rtsp_message", "The host's answer does not end.")
    if not answer:
        raise Malformed("rtsp_no_answer", "The host closed the connection without an answer.")
    return parse_response(answer if sealing is None else _unsealed(answer, sealing))


def _unsealed(answer: bytes, sealing: EncryptedRtsp) -> bytes:
    """Open an answer. As with Moonlight it must be sealed, and nothing may follow it."""
    reader = SealedReader()
    reader.receive(answer)
    reader.end()
    message = reader.next()
    if message is None or not reader.idle:
        raise Malformed("rtsp_excess", "The host sent more than one answer.")
    return sealing.unseal(message)
