"""RTSP between clients and hosts: each message is matched, carried over, and made the edge's own.

A client opens one TCP connection a message and reads until the edge closes it. Towards the host
the message gets target and ``Host`` as the host's own ``sessionUrl0`` had them, which some hosts
match sessions by; towards the client the answer gets the edge's ports and secrets.
"""

from __future__ import annotations

import enum
import secrets
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import structlog
import trio

from moonlight.announce import StreamSettings
from moonlight.errors import Malformed, ProtocolError
from moonlight.flows import Flow
from moonlight.ping import new_ping_payload
from moonlight.rtsp import (
    RtspParser,
    RtspRequest,
    RtspResponse,
    parse_request,
    parse_response,
    rewrite_request,
)
from moonlight.rtsp_encryption import SealedMessage, SealedReader, is_sealed
from proxy import leg_encryption
from proxy.errors import EdgeError, HostUnavailable, Refused
from proxy.fleet import Fleet, host_name
from proxy.leg_encryption import EncryptVideo
from proxy.matching import NoMatch, RtspOrigin, match_rtsp
from proxy.sealed_rtsp import Exchange, SealRefusal, open_answer, open_sealed
from proxy.session_keeper import SessionKeeper
from proxy.sessions import FlowTerms, Session, VideoEncryptor
from proxy.tallies import other
from revdial.errors import TunnelError, refusal_behind

_log = structlog.get_logger()

request_timeout_s: Final = 10.0
host_answer_timeout_s: Final = 12.0
close_timeout_s: Final = 2.0
receive_bytes: Final = 65_536
ok: Final = 200
max_connect_data: Final = 0xFFFFFFFF
METHODS: Final = ("OPTIONS", "DESCRIBE", "SETUP", "ANNOUNCE", "PLAY")
"""What clients send; any other method is counted as ``other``."""
TOO_SLOW: Final = "too_slow"


class RtspOutcome(enum.StrEnum):
    """What came of a message that was a session's."""

    ANSWERED = "answered"
    REFUSED_BY_HOST = "refused_by_host"
    FAILED = "failed"
    """The host could not be asked, or the session ended meanwhile."""


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
        self.apply(launch_window_s, encrypt_video)
        self._seal_video = seal_video
        self.refused: Counter[str] = Counter()
        """Messages that were not taken for any session's, by reason."""
        self.malformed: Counter[str] = Counter()
        """What came to the ports of RTSP and is none, or came too slowly, by reason."""
        self.messages: Counter[tuple[str, RtspOutcome]] = Counter()
        """Messages that were a session's, by method (see `METHODS`) and outcome."""

    def apply(self, launch_window_s: float, encrypt_video: EncryptVideo) -> None:
        """Go by other settings, for handshakes that begin from now on."""
        self._launch_window_s = launch_window_s
        self._encrypt_video: EncryptVideo = encrypt_video

    async def serve(self, stream: trio.abc.HalfCloseableStream, address: str, port: int) -> None:
        """Answer the one message of a connection from `address` to our `port`."""
        try:
            with trio.fail_after(request_timeout_s):
                message = await _read_message(stream)
            if message is None:
                return  # a client testing that the port is open
            if isinstance(message, SealedMessage):
                answer = await self._answer_sealed(message, address, port)
            else:
                answer = (await self._answer(message, address, port)).encode()
        except trio.TooSlowError:
            self.malformed[TOO_SLOW] += 1
            _log.info("rtsp_refused", client_address=address, reason=TOO_SLOW)
            return
        except ProtocolError as error:
            self.malformed[error.reason] += 1
            _log.info("rtsp_refused", client_address=address, reason=error.reason, why=str(error))
            answer = RtspResponse(400, "Bad Request").encode()
        with trio.move_on_after(close_timeout_s):
            await stream.send_all(answer)
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
            self._note_refusal(origin, session)
            return request.answer(status=454, reason="Session Not Found")
        if session.rtsp_encrypted:
            self._note_refusal(origin, SealRefusal.IN_THE_CLEAR)
            return request.answer(status=400, reason="Bad Request")
        exchange = Exchange.of(session, session.rtsp_sequence + 1)
        if session.host_rtsp.encrypted:
            await self._keeper.note_rtsp_sequence(session, session.rtsp_sequence + 1)
        return await self._exchange(exchange, request)

    async def _answer_sealed(self, message: SealedMessage, address: str, port: int) -> bytes:
        origin = RtspOrigin(port, address, "")
        opened = open_sealed(message, origin, self._keeper.table)
        if isinstance(opened, SealRefusal):
            self._note_refusal(origin, opened)
            # In the clear: under the number of this message something may have been sealed already.
            return RtspResponse(400, "Bad Request").encode()
        exchange = Exchange.of(opened.session, message.sequence)
        await self._keeper.note_rtsp_sequence(opened.session, message.sequence)
        try:
            answer = await self._exchange(exchange, parse_request(opened.plain))
        except ProtocolError as error:
            self.malformed[error.reason] += 1
            _log.info("rtsp_refused", **opened.session.names, reason=error.reason)
            answer = RtspResponse(400, "Bad Request")
        return exchange.seal("host", answer.encode())

    def _count(self, method: str, outcome: RtspOutcome) -> None:
        self.messages[method if method in METHODS else other, outcome] += 1

    def _note_refusal(self, origin: RtspOrigin, reason: NoMatch | SealRefusal) -> None:
        self.refused[reason] += 1
        _log.warning(
            "rtsp_refused",
            client_address=origin.client_address,
            rtsp_port=origin.local_port,
            reason=str(reason),
        )

    async def _exchange(self, exchange: Exchange, request: RtspRequest) -> RtspResponse:
        session = exchange.session
        outcome = RtspOutcome.FAILED
        try:
            self._check_goes_on(exchange)
            self._keeper.apart.check(session)
            answer = await self._ask_host(exchange, request)
            self._check_goes_on(exchange)
            own = await self._make_own(session, request, answer)
            outcome = RtspOutcome.ANSWERED if own.status == ok else RtspOutcome.REFUSED_BY_HOST
            return own
        except EdgeError as error:
            _log.warning(
                "rtsp_failed",
                **session.names,
                method=request.method,
                reason=error.reason,
                why=str(error),
            )
            if isinstance(error, Refused):
                return request.answer(status=error.status, reason="Session Not Found")
            if isinstance(error, HostUnavailable):
                self._fleet.note_connection_failure(session.backend, error)
            return request.answer(status=503, reason="Service Unavailable")
        finally:
            self._count(request.method, outcome)

    def _check_goes_on(self, exchange: Exchange) -> None:
        session = exchange.session
        if self._keeper.table.get(session.id) is not session or exchange.is_over:
            raise Refused(454, "session_gone", "the session ended or was resumed meanwhile")

    async def _ask_host(self, exchange: Exchange, request: RtspRequest) -> RtspResponse:
        session, url = exchange.session, exchange.host_rtsp
        request = leg_encryption.for_host(request, session.video)
        asked = rewrite_request(request, session_url=url).encode()
        try:
            with trio.fail_after(host_answer_timeout_s):
                stream = await self._fleet.tunnel(session.backend).open_stream(
                    host_name(session.backend),
                    "rtsp",
                    origin=session.id,
                    port=url.port,
                )
                try:
                    if url.encrypted:
                        await stream.send_all(exchange.seal("client", asked))
                        return _opened(await _read_answer(stream, SealedReader()), exchange)
                    await stream.send_all(asked)
                    return await _read_answer(stream, RtspParser("response"))
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
                **session.names,
                method=request.method,
                status=answer.status,
            )
            return answer
        if request.method == "DESCRIBE":
            answer = await self._offer_encryption(session, answer)
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
            settings = StreamSettings.parse(body)
        except ProtocolError as error:
            # The host has accepted it, so it is none of our business.
            _log.info("announcement_not_understood", **session.names, reason=error.reason)
            return
        session.kbps, session.codec = settings.bitrate_kbps, settings.codec.name
        session.audio_channels = settings.audio_channels
        self._note_rate(session)

    async def _offer_encryption(self, session: Session, answer: RtspResponse) -> RtspResponse:
        wanted = leg_encryption.is_wanted(self._encrypt_video, session.client_address)
        before = session.video
        answer, session.video = leg_encryption.offer(answer, before, wanted=wanted)
        if session.video != before:
            # An edge that restarts now has to know what the client will have been told.
            await self._keeper.note_video(session)
        return answer

    def _note_encryption(self, session: Session, request: RtspRequest) -> None:
        before, session.video = session.video, leg_encryption.announced(request, session.video)
        if session.video.by is VideoEncryptor.EDGE:
            self._seal_video(session)
        elif before.by is VideoEncryptor.OFFERED:
            _log.warning("video_not_encrypted", **session.names, why="the client cannot")

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
        self._keeper.table.set_up(session)
        self._start_flow(session, flow, terms)
        await self._keeper.note_flow(session, flow, terms)
        own = answer.with_transport_port(session.own_udp_ports.get(flow, self._udp_ports[flow]))
        if isinstance(edge_secret, str):
            return own.with_ping_payload(edge_secret)
        return own.with_connect_data(edge_secret)


_M_co = TypeVar("_M_co", covariant=True)


class _Reader(Protocol[_M_co]):
    """What cuts the bytes of a connection into messages, sealed ones or not."""

    @property
    def idle(self) -> bool: ...
    def receive(self, data: bytes | bytearray) -> None: ...
    def end(self) -> None: ...
    def next(self) -> _M_co | None: ...


async def _read_message(stream: trio.abc.ReceiveStream) -> RtspRequest | SealedMessage | None:
    reader: _Reader[RtspRequest | SealedMessage] | None = None
    while True:
        try:
            data = await stream.receive_some(receive_bytes)
        except trio.BrokenResourceError:
            return None
        if reader is None:
            reader = SealedReader() if is_sealed(data) else RtspParser("request")
        if data:
            reader.receive(data)
        elif reader.idle:
            return None
        else:
            reader.end()
        message = reader.next()
        if message is not None or not data:
            return message


async def _read_answer(stream: trio.abc.ReceiveStream, reader: _Reader[_M_co]) -> _M_co:
    while (answer := reader.next()) is None:
        data = await stream.receive_some(receive_bytes)
        if data:
            reader.receive(data)
        elif reader.idle:
            raise Malformed("rtsp_no_answer", "the host closed the connection without an answer")
        else:
            reader.end()
    return answer


def _opened(answer: SealedMessage, exchange: Exchange) -> RtspResponse:
    plain = open_answer(exchange, answer)
    if not exchange.is_over:
        exchange.session.host_rtsp_sequence = answer.sequence
    return parse_response(plain)


async def _close_gracefully(stream: trio.abc.HalfCloseableStream) -> None:
    """Send FIN and let the client close: closing with unread bytes would send RST instead."""
    try:
        await stream.send_eof()
        while await stream.receive_some(receive_bytes):
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
