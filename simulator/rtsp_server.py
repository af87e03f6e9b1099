"""The host's RTSP: seven messages, each on a connection of its own, that set a session up."""

from __future__ import annotations

from typing import Final

import structlog
import trio

from moonlight.announce import HostCapabilities, StreamSettings
from moonlight.errors import ProtocolError
from moonlight.flows import Flow
from moonlight.rtsp import RtspParser, RtspRequest, RtspResponse
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
).encode()
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
                await stream.send_all(answer.encode())
                await _end(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _exchange(self, stream: trio.SocketStream, source: str) -> RtspResponse | None:
        if self._traps.rtsp_for_last_launch and self._lifecycle.sessions.launched() is None:
            return None
        parser = RtspParser("request")
        try:
            while (request := parser.next()) is None:
                data = bytes(await stream.receive_some(_RECEIVE_BYTES))
                if data:
                    parser.receive(data)
                elif parser.idle:
                    return None  # a client that only tried whether the port is open
                else:
                    parser.end()
        except ProtocolError as error:
            _log.info("rtsp_refused", reason=error.reason, client=source)
            return RtspResponse(400, "Bad Request")
        return self.answer(request, source)

    def answer(self, request: RtspRequest, source: str) -> RtspResponse:
        """Do what one message asks, and give its answer."""
        sessions = self._lifecycle.sessions
        session_id = match_rtsp(
            sessions.claims(), host=request.session_host, source=source, traps=self._traps
        )
        session = sessions.get(session_id)
        if session is None:
            return request.answer(status=404, reason="Not Found")
        match request.method:
            case "OPTIONS":
                return request.answer()
            case "DESCRIBE":
                return request.answer(body=_CAPABILITIES)
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
            _log.info("announce_refused", session=session.id, error=str(error))
            return request.answer(status=400, reason="Bad Request")
        session.settings = settings
        return request.answer()

    def _play(self, request: RtspRequest, session: Session) -> RtspResponse:
        if session.settings is None:
            return request.answer(status=455, reason="Method Not Valid in This State")
        self._lifecycle.play(session)
        return request.answer()


async def _end(stream: trio.SocketStream) -> None:
    """Close with FIN: what the client still sends is read, since unread bytes make it a reset."""
    with trio.move_on_after(_CLOSE_TIMEOUT_S):
        await stream.send_eof()
        while await stream.receive_some(_RECEIVE_BYTES):
            continue
