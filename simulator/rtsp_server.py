"""The host's RTSP: seven messages, each on a connection of its own, that set a session up."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import structlog
import trio

from moonlight.announce import Encryption, HostCapabilities, StreamSettings
from moonlight.errors import AuthenticationFailed, ProtocolError
from moonlight.flows import Flow
from moonlight.rtsp import RtspParser, RtspRequest, RtspResponse, parse_request
from moonlight.rtsp_encryption import SealedMessage, SealedReader, is_sealed
from simulator.config import Traps
from simulator.lifecycle import Lifecycle
from simulator.matching import match_rtsp
from simulator.media import MediaPorts
from simulator.sessions import Session
from simulator.stream import check_settings

_SESSION: Final = ("Session", "DEADBEEFCAFE;timeout = 90")
# The digits tell how Opus packs two, six and eight channels: channels, streams, coupled streams,
# and where in them each channel is.
_CAPABILITIES: Final = HostCapabilities(
    surround_params=("21101", "642014235", "85301645237"), feature_flags=3
)
_ENCRYPTING: Final = replace(
    _CAPABILITIES,
    encryption_supported=Encryption.VIDEO.value,
    encryption_requested=Encryption.VIDEO.value,
)
_BAD_REQUEST: Final = RtspResponse(400, "Bad Request")
_RECEIVE_BYTES: Final = 8192
_CLOSE_TIMEOUT_S: Final = 2.0

_log = structlog.get_logger("simulator.rtsp")


class RtspServer:
    """Answers RTSP messages for all sessions of a host."""

    def __init__(
        self, *, traps: Traps, lifecycle: Lifecycle, media: MediaPorts, control_port: int
    ) -> None:
        self._traps = traps
        self._lifecycle = lifecycle
        self._media = media
        self._control_port = control_port

    async def serve(self, stream: trio.SocketStream, source: str, timeout_s: float) -> None:
        """Serve one connection: one message, its answer, the end."""
        with trio.move_on_after(timeout_s):
            try:
                answer = await self._exchange(stream, source)
                if answer is None:
                    return
                await stream.send_all(answer)
                await _end(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _exchange(self, stream: trio.SocketStream, source: str) -> bytes | None:
        if self._traps.rtsp_for_last_launch and self._lifecycle.sessions.launched() is None:
            return None
        try:
            message = await _read(stream)
            if message is None:
                return None  # a client that only tried whether the port is open
            if isinstance(message, SealedMessage):
                return self._answer_sealed(message, source)
            return self._answer_plain(message, source)
        except ProtocolError as error:
            _log.info("rtsp_refused", reason=error.reason, client_address=source)
            return _BAD_REQUEST.encode()

    def _answer_plain(self, request: RtspRequest, source: str) -> bytes:
        session = self._session_of(request, source)
        if session is not None and session.sealing is not None:
            _log.info("rtsp_refused", reason="rtsp_not_sealed", client_address=source)
            return session.sealing.seal(_BAD_REQUEST.encode())
        return self.answer(request, session).encode()

    def _answer_sealed(self, message: SealedMessage, source: str) -> bytes:
        """Answer a message of the session whose key opens it. Raises ProtocolError."""
        for session in self._lifecycle.sessions.all():
            if session.sealing is not None:
                try:
                    plain = session.sealing.unseal(message)
                except AuthenticationFailed as error:
                    if error.reason == "rtsp_tag":
                        continue
                    raise
                return session.sealing.seal(self.answer(parse_request(plain), session).encode())
        raise AuthenticationFailed("rtsp_tag", "no session has the key of this message")

    def _session_of(self, request: RtspRequest, source: str) -> Session | None:
        sessions = self._lifecycle.sessions
        return sessions.get(
            match_rtsp(
                sessions.claims(), host=request.session_host, source=source, traps=self._traps
            )
        )

    def answer(self, request: RtspRequest, session: Session | None) -> RtspResponse:
        """Do what one message asks, and give its answer."""
        if session is None:
            return request.answer(status=404, reason="Not Found")
        match request.method:
            case "OPTIONS":
                return request.answer()
            case "DESCRIBE":
                offered = _ENCRYPTING if self._traps.encrypts_video else _CAPABILITIES
                return request.answer(body=offered.encode())
            case "SETUP":
                return self._set_up(request, session)
            case "ANNOUNCE":
                return self._announce(request, session)
            case "PLAY":
                return self._play(request, session)
        return request.answer(status=501, reason="Not Implemented")

    def _set_up(self, request: RtspRequest, session: Session) -> RtspResponse:
        video_port, audio_port = self._media.ports(session.id)
        match request.stream:
            case Flow.VIDEO:
                port = video_port
            case Flow.AUDIO:
                port = audio_port
            case Flow.CONTROL:
                port = self._control_port
            case _:
                return request.answer(status=404, reason="Not Found")
        answer = request.answer(_SESSION, ("Transport", f"server_port={port}"))
        if request.stream is Flow.CONTROL:
            known = session.connect_data
            return answer if known is None else answer.with_connect_data(known)
        payload = session.ping_payload
        return answer if payload is None else answer.with_ping_payload(payload)

    def _announce(self, request: RtspRequest, session: Session) -> RtspResponse:
        try:
            settings = StreamSettings.parse(request.body)
            check_settings(settings)
        except (ProtocolError, ValueError) as error:
            _log.info("announce_refused", session=session.id, why=str(error))
            return request.answer(status=400, reason="Bad Request")
        session.settings = settings
        return request.answer()

    def _play(self, request: RtspRequest, session: Session) -> RtspResponse:
        if session.settings is None:
            return request.answer(status=455, reason="Method Not Valid in This State")
        self._lifecycle.play(session)
        return request.answer()


async def _read(stream: trio.SocketStream) -> RtspRequest | SealedMessage | None:
    """Read one message; None where the connection ends without a byte. Raises ProtocolError."""
    data = bytes(await stream.receive_some(_RECEIVE_BYTES))
    reader = SealedReader() if is_sealed(data) else RtspParser("request")
    while data:
        reader.receive(data)
        if (message := reader.next()) is not None:
            return message
        data = bytes(await stream.receive_some(_RECEIVE_BYTES))
    reader.end()
    return reader.next()


async def _end(stream: trio.SocketStream) -> None:
    """Close with FIN: what the client still sends is read, since unread bytes make it a reset."""
    with trio.move_on_after(_CLOSE_TIMEOUT_S):
        await stream.send_eof()
        while await stream.receive_some(_RECEIVE_BYTES):
            continue
