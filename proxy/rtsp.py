"""RTSP between clients and hosts: each message is matched, carried over, and made the edge's own.

A client opens one TCP connection a message and reads until the edge closes it. Towards the host
the message gets target and ``Host`` as the host's own ``sessionUrl0`` had them, which some hosts
match sessions by; towards the client the answer gets the edge's ports and secrets.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable
from typing import Final

import structlog
import trio

from moonlight.announce import StreamSettings
from moonlight.errors import Malformed, ProtocolError
from moonlight.flows import Flow
from moonlight.ping import new_ping_payload
from moonlight.rtsp import RtspParser, RtspRequest, RtspResponse, rewrite_request
from proxy import leg_encryption
from proxy.errors import EdgeError, HostUnavailable, Refused
from proxy.fleet import Fleet, host_name
from proxy.leg_encryption import EncryptVideo
from proxy.matching import NoMatch, RtspOrigin, match_rtsp
from proxy.session_keeper import SessionKeeper
from proxy.sessions import FlowTerms, Session, VideoEncryptor
from revdial.errors import TunnelError, refusal_behind

_log = structlog.get_logger()

request_timeout_s: Final = 10.0
host_answer_timeout_s: Final = 12.0
close_timeout_s: Final = 2.0
receive_bytes: Final = 65_536
ok: Final = 200
max_connect_data: Final = 0xFFFFFFFF


class RtspProxy:
    """Serves the RTSP connections of clients.

    Args:
        keeper: the sessions.
        fleet: leads to their hosts.
        udp_ports: the ports that clients are told, by flow.
        start_flow: begins the media of a flow once its terms are settled.
        note_rate: hears of a session whose client has said what stream it wants.
        launch_window_s: see `proxy.matching.match_rtsp`.
        encrypt_video: which clients video is encrypted for.
        seal_video: hears of a session whose video the edge has to encrypt from now on.

    """

    def __init__(
        self,
        keeper: SessionKeeper,
        fleet: Fleet,
        udp_ports: dict[Flow, int],
        start_flow: Callable[[Session, Flow, FlowTerms], None],
        note_rate: Callable[[Session], None],
        launch_window_s: float,
        encrypt_video: EncryptVideo = "never",
        seal_video: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self._keeper = keeper
        self._fleet = fleet
        self._udp_ports = udp_ports
        self._start_flow = start_flow
        self._note_rate = note_rate
        self._launch_window_s = launch_window_s
        self._encrypt_video: EncryptVideo = encrypt_video
        self._seal_video = seal_video

    async def serve(self, stream: trio.abc.HalfCloseableStream, address: str, port: int) -> None:
        """Answer the one message of a connection from `address` to our `port`."""
        try:
            with trio.fail_after(request_timeout_s):
                request = await _read_request(stream)
            if request is None:
                return  # a client testing that the port is open
            answer = await self._answer(request, address, port)
        except trio.TooSlowError:
            _log.info("rtsp_refused", client_address=address, reason="too_slow")
            return
        except ProtocolError as error:
            _log.info("rtsp_refused", client_address=address, reason=error.reason, why=str(error))
            answer = RtspResponse(400, "Bad Request")
        with trio.move_on_after(close_timeout_s):
            await stream.send_all(answer.encode())
            await _close_gracefully(stream)

    async def _answer(self, request: RtspRequest, address: str, port: int) -> RtspResponse:
        origin = RtspOrigin(port, address, request.session_host)
        session = match_rtsp(
            origin,
            self._keeper.table,
            now=trio.current_time(),
            launch_window_s=self._launch_window_s,
        )
        if isinstance(session, NoMatch):
            _log.warning(
                "rtsp_refused", client_address=address, rtsp_port=port, reason=str(session)
            )
            return request.answer(status=454, reason="Session Not Found")
        try:
            host_url = session.host_rtsp
            self._keeper.apart.check(session)
            answer = await self._ask_host(session, request)
            if self._keeper.table.get(session.id) is not session or session.host_rtsp != host_url:
                raise Refused(454, "session_gone", "the session ended or was resumed meanwhile")
            return await self._make_own(session, request, answer)
        except EdgeError as error:
            _log.warning(
                "rtsp_failed",
                session=session.id,
                method=request.method,
                reason=error.reason,
                why=str(error),
            )
            if isinstance(error, Refused):
                return request.answer(status=error.status, reason="Session Not Found")
            return request.answer(status=503, reason="Service Unavailable")

    async def _ask_host(self, session: Session, request: RtspRequest) -> RtspResponse:
        request = leg_encryption.for_host(request, session.video)
        rewritten = rewrite_request(request, session_url=session.host_rtsp)
        try:
            with trio.fail_after(host_answer_timeout_s):
                stream = await self._fleet.tunnel(session.backend).open_stream(
                    host_name(session.backend),
                    "rtsp",
                    origin=session.id,
                    port=session.host_rtsp.port,
                )
                try:
                    await stream.send_all(rewritten.encode())
                    return await _read_response(stream)
                finally:
                    # Whole or not wanted any more: do not make the client wait for a polite end.
                    await trio.aclose_forcefully(stream)
        except trio.TooSlowError:
            raise HostUnavailable("rtsp_timeout", "the host did not answer in time") from None
        except (TunnelError, ProtocolError) as error:
            raise HostUnavailable(error.reason, str(error)) from error
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
            if (refused := refusal_behind(error)) is not None:
                raise HostUnavailable(refused.reason, str(refused)) from error
            raise HostUnavailable("rtsp_broken", "the connection to the host broke") from error

    async def _make_own(
        self, session: Session, request: RtspRequest, answer: RtspResponse
    ) -> RtspResponse:
        if answer.status != ok:
            _log.warning(
                "rtsp_refused_by_host",
                session=session.id,
                method=request.method,
                status=answer.status,
            )
            return answer
        if request.method == "DESCRIBE":
            wanted = leg_encryption.is_wanted(self._encrypt_video, session.client_address)
            answer, session.video = leg_encryption.offer(answer, session.video, wanted=wanted)
        if request.method == "ANNOUNCE":
            self._note_settings(session, request.body)
            self._note_encryption(session, request)
        if request.method == "PLAY":
            await self._keeper.note_streaming(session)
        flow = request.stream
        if request.method != "SETUP" or flow is None:
            return answer
        return await self._set_up(session, flow, answer)

    def _note_settings(self, session: Session, body: bytes) -> None:
        try:
            session.kbps = StreamSettings.parse(body).bitrate_kbps
        except ProtocolError as error:
            # The host has accepted it, so it is none of our business.
            _log.info("announcement_not_understood", session=session.id, reason=error.reason)
            return
        self._note_rate(session)

    def _note_encryption(self, session: Session, request: RtspRequest) -> None:
        before, session.video = session.video, leg_encryption.announced(request, session.video)
        if session.video.by is VideoEncryptor.EDGE:
            self._seal_video(session)
        elif before.by is VideoEncryptor.OFFERED:
            _log.warning("video_not_encrypted", session=session.id, why="the client cannot")

    async def _set_up(self, session: Session, flow: Flow, answer: RtspResponse) -> RtspResponse:
        try:
            host_port = answer.server_port
            host_secret: str | int | None
            edge_secret: str | int
            if flow is Flow.CONTROL:
                host_secret, edge_secret = (
                    answer.connect_data,
                    1 + secrets.randbelow(max_connect_data),
                )
            else:
                host_secret, edge_secret = answer.ping_payload, new_ping_payload()
        except ProtocolError as error:
            raise HostUnavailable(error.reason, f"SETUP of {flow}: {error}") from error
        if host_port is None:
            raise HostUnavailable("no_server_port", f"the host named no port for {flow}")
        self._keeper.apart.set_up(session, secret=host_secret is not None)
        terms = FlowTerms(host_port, edge_secret, host_secret)
        self._start_flow(session, flow, terms)
        await self._keeper.note_flow(session, flow, terms)
        own = answer.with_transport_port(session.own_udp_ports.get(flow, self._udp_ports[flow]))
        if isinstance(edge_secret, str):
            return own.with_ping_payload(edge_secret)
        return own.with_connect_data(edge_secret)


async def _read_request(stream: trio.abc.ReceiveStream) -> RtspRequest | None:
    parser = RtspParser("request")
    while (request := parser.next()) is None:
        try:
            data = await stream.receive_some(receive_bytes)
        except trio.BrokenResourceError:
            return None
        if not data:
            if parser.idle:
                return None
            parser.end()
            return parser.next()
        parser.receive(data)
    return request


async def _read_response(stream: trio.abc.ReceiveStream) -> RtspResponse:
    parser = RtspParser("response")
    while (response := parser.next()) is None:
        data = await stream.receive_some(receive_bytes)
        if data:
            parser.receive(data)
        elif parser.idle:
            raise Malformed("rtsp_no_answer", "the host closed the connection without an answer")
        else:
            parser.end()
    return response


async def _close_gracefully(stream: trio.abc.HalfCloseableStream) -> None:
    """Send FIN and let the client close: closing with unread bytes would send RST instead."""
    try:
        await stream.send_eof()
        while await stream.receive_some(receive_bytes):
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
