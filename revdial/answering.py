"""What an agent does while it is connected: beat, dial back when asked, answer requests.

Everything the edge asks for is checked by the agent's own code first. What that refuses is refused
on the control WebSocket, and nothing is dialled; on a connection that was spare, by its close code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import structlog
import trio
from structlog.typing import FilteringBoundLogger
from websockets.exceptions import ConnectionClosed

from revdial.backlog import Classify, each_alone, limits_of
from revdial.connector import Connector, NotConnected
from revdial.errors import (
    BadMessage,
    DialRefused,
    RequestFailed,
    TunnelError,
    printable,
    token,
    where,
)
from revdial.flow import DatagramChannel
from revdial.framing import FlowKind, Preamble
from revdial.limits import DialerLimits
from revdial.messages import (
    CloseCode,
    Dial,
    DialFailed,
    FromEdge,
    Heartbeat,
    Hello,
    Json,
    Reply,
    Request,
    Spare,
    Welcome,
    decode_from_edge,
)
from revdial.observer import Loss, TunnelObserver
from revdial.outbox import Outbox
from revdial.stream import WebSocketStream
from revdial.websocket import TunnelWebSocket, data_path, why_closed

max_close_reason_bytes = 120
max_told_length = 500
normal_closure = 1000
internal_error = 1011


# How a stream or a flow may end without anybody's fault.
_ENDS = (
    TunnelError,
    ConnectionClosed,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
)
_E = TypeVar("_E", bound=Exception)


def _first(error: Exception, kind: type[_E]) -> _E | None:
    """The error, or the first in its group, that is of this kind."""
    if isinstance(error, ExceptionGroup):
        return next((found for e in error.exceptions if (found := _first(e, kind))), None)
    return error if isinstance(error, kind) else None


def _only(error: Exception, kinds: tuple[type[Exception], ...]) -> bool:
    """Whether the error, or each in its group, is of these kinds."""
    if isinstance(error, ExceptionGroup):
        return error.split(kinds)[1] is None
    return isinstance(error, kinds)


def _refusal(refused: DialRefused) -> tuple[int, str]:
    """How a connection ends that the agent will not join to a host."""
    text = f"{refused.reason}: {refused.message}".encode()[:max_close_reason_bytes]
    return CloseCode.DIAL_FAILED, text.decode(errors="ignore")


@dataclass(frozen=True, slots=True)
class AgentSide:
    """The agent's own code, as `TunnelDialer` was given it."""

    hello: Callable[[], Hello]
    heartbeat: Callable[[], Awaitable[Heartbeat]]
    check: Callable[[Dial], Awaitable[None]]
    on_stream: Callable[[Dial, WebSocketStream], Awaitable[None]]
    on_flow: Callable[[Dial, DatagramChannel, Preamble], Awaitable[None]]
    on_request: Callable[[str, dict[str, Json]], Awaitable[dict[str, Json]]]
    classify: Mapping[str, Classify]


class Answering:
    """One control WebSocket from hello to its end, and all that was dialled because of it."""

    def __init__(
        self,
        websocket: TunnelWebSocket,
        connector: Connector,
        agent: AgentSide,
        limits: DialerLimits,
        observer: TunnelObserver,
    ) -> None:
        self._websocket = websocket
        self._connector = connector
        self._agent = agent
        self._limits = limits
        self._observer = observer
        self._outbox = Outbox(websocket, observer)
        self._log = structlog.get_logger()
        self._dials = 0
        self._requests = 0

    async def run(self, on_welcome: Callable[[Hello], None]) -> str:
        """Serve until the connection ends; returns why, as a short reason."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._outbox.run)
            try:
                hello = self._agent.hello()
                await self._outbox.put(hello)
                welcome = await self._welcome()
                on_welcome(hello)
                nursery.start_soon(self._beat, welcome.heartbeat_interval_s)
                while True:
                    self._receive(decode_from_edge(await self._websocket.recv()), nursery)
            except (ConnectionClosed, trio.TooSlowError):
                reason = why_closed(self._websocket)
                if self._websocket.is_open:
                    reason = "welcome_timeout"
            except BadMessage as error:
                reason = error.reason
                await self._websocket.close_politely(CloseCode.PROTOCOL_ERROR, error.message)
            nursery.cancel_scope.cancel()
        return reason

    async def _welcome(self) -> Welcome:
        with trio.fail_after(self._limits.hello_timeout_s):
            message = decode_from_edge(await self._websocket.recv())
        if not isinstance(message, Welcome):
            raise BadMessage("no_welcome", "the edge's first message must be a welcome")
        return message

    async def _beat(self, interval_s: float) -> None:
        while True:
            try:
                with trio.move_on_after(interval_s):
                    await self._outbox.put(await self._agent.heartbeat())
            except TunnelError as error:
                self._log.warning("heartbeat_not_sent", reason=error.reason)
            except Exception as error:
                # Telemetry that fails must not cost the tunnel its sessions.
                self._log.error("heartbeat_failed", error=where(error))
            await trio.sleep(interval_s)

    def _receive(self, message: FromEdge, nursery: trio.Nursery) -> None:
        match message:
            case Dial():
                nursery.start_soon(self._answer_dial, message)
            case Spare():
                nursery.start_soon(self._answer_spare, message)
            case Request():
                nursery.start_soon(self._answer_request, message)
            case Welcome():
                raise BadMessage("second_welcome", "the edge welcomes only once")

    async def _answer_dial(self, dial: Dial) -> None:
        log = self._log.bind(kind=dial.kind, host=printable(dial.host), service=dial.service)

        async def serve() -> None:
            await self._check(dial)
            async with self._connector.open(data_path + quote(dial.id, safe="")) as websocket:
                await self._serve_data(dial, websocket)

        await self._answer_open(dial.id, log, serve)

    async def _answer_spare(self, spare: Spare) -> None:
        log = self._log.bind(kind="spare")

        async def serve() -> None:
            async with self._connector.open(data_path + quote(spare.id, safe="")) as websocket:
                await self._serve_spare(log, websocket)

        await self._answer_open(spare.id, log, serve)

    async def _answer_open(
        self,
        asked_id: str,
        log: structlog.typing.FilteringBoundLogger,
        serve: Callable[[], Awaitable[None]],
    ) -> None:
        """Open what the edge asked for and serve it, or say on the control WebSocket why not."""
        self._dials += 1
        try:
            if self._dials > self._limits.max_data_connections:
                self._observer.lost(Loss.REQUEST_REFUSED)
                raise DialRefused("too_many_connections", "the agent has too many connections")
            await serve()
        except DialRefused as error:
            log.info("dial_refused", reason=error.reason)
            await self._tell(
                DialFailed(asked_id, token(error.reason), printable(error.message, max_told_length))
            )
        except NotConnected as error:
            log.warning("dial_back_failed", why=error.message)
            await self._tell(DialFailed(asked_id, "dial_back_failed", error.message))
        except trio.TooSlowError:
            await self._tell(DialFailed(asked_id, "timeout", "the agent was too slow"))
        except Exception as error:
            log.error("dial_failed", error=where(error))
            await self._tell(DialFailed(asked_id, "internal_error", "the agent failed"))
        finally:
            self._dials -= 1

    async def _check(self, dial: Dial) -> None:
        with trio.fail_after(self._limits.handshake_timeout_s):
            await self._agent.check(dial)

    async def _serve_spare(self, log: FilteringBoundLogger, websocket: TunnelWebSocket) -> None:
        """Wait until the edge says what the connection is for; refusals are told by its end."""
        try:
            dial = decode_from_edge(await websocket.recv())
            if not isinstance(dial, Dial):
                raise BadMessage("no_dial", "a spare connection begins with a dial")
        except ConnectionClosed:
            return
        except BadMessage as error:
            await websocket.close_politely(CloseCode.PROTOCOL_ERROR, error.message)
            return
        code, text = await self._guarded(self._check(dial))
        if code == normal_closure:
            await self._serve_data(dial, websocket)
        else:
            log.info("dial_refused", host=printable(dial.host), why=text)
            await websocket.close_politely(code, text)

    async def _serve_data(self, dial: Dial, websocket: TunnelWebSocket) -> None:
        if dial.kind == "stream":
            websocket.be_patient(self._limits.stream_user_timeout_ms)
            close = await self._guarded(self._agent.on_stream(dial, WebSocketStream(websocket)))
        else:
            close = await self._guarded(self._serve_flow(dial, websocket))
        await websocket.close_politely(*close)

    async def _serve_flow(self, dial: Dial, websocket: TunnelWebSocket) -> None:
        with trio.fail_after(self._limits.hello_timeout_s):
            first = await websocket.recv()
        if isinstance(first, str):
            raise BadMessage("bad_preamble", "a flow does not begin with a preamble")
        preamble = Preamble.decode(first)
        if (preamble.session, preamble.flow) != (dial.session, dial.flow):
            raise BadMessage("bad_preamble", "a flow's preamble is not what was asked for")
        classify = self._agent.classify.get(preamble.flow, each_alone)
        channel = DatagramChannel(
            websocket,
            limits_of(preamble.flow),
            self._observer,
            classify,
            steady=preamble.flow is FlowKind.VIDEO,
        )
        failed: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.run)
            try:
                await self._agent.on_flow(dial, channel, preamble)
            except Exception as error:
                # Raised again below: the nursery would wrap it in a group.
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _guarded(self, work: Awaitable[None]) -> tuple[int, str]:
        """Run the agent's code; how the data connection is to be closed after it."""
        try:
            await work
        except Exception as error:
            refused = _first(error, DialRefused)
            if refused is not None:
                return _refusal(refused)
            if (bad := _first(error, BadMessage)) is not None:
                return CloseCode.PROTOCOL_ERROR, bad.message
            if not _only(error, _ENDS):
                self._log.error("data_connection_failed", error=where(error))
                return internal_error, "the agent failed"
            self._log.debug("data_connection_ended", error=where(error))
            return internal_error, "the connection to the host broke"
        return normal_closure, ""

    async def _answer_request(self, request: Request) -> None:
        self._requests += 1
        try:
            await self._tell(await self._reply_to(request))
        finally:
            self._requests -= 1

    async def _reply_to(self, request: Request) -> Reply:
        try:
            if self._requests > self._limits.max_requests:
                self._observer.lost(Loss.REQUEST_REFUSED)
                raise RequestFailed("too_many_requests", "the agent has too many requests")
            with trio.fail_after(request.timeout_s):
                result = await self._agent.on_request(request.method, request.params)
            return Reply(request.id, ok=True, result=result)
        except RequestFailed as error:
            return Reply(
                request.id,
                ok=False,
                reason=token(error.reason),
                message=printable(error.message, max_told_length),
            )
        except trio.TooSlowError:
            return Reply(request.id, ok=False, reason="timeout", message="the agent was too slow")
        except Exception as error:
            self._log.error("request_failed", error=where(error), method=printable(request.method))
            return Reply(request.id, ok=False, reason="internal_error", message="the agent failed")

    async def _tell(self, message: DialFailed | Reply) -> None:
        """Answer the edge, where it is still there to be told."""
        try:
            await self._outbox.put(message)
        except BadMessage as error:
            await self._outbox.put(
                Reply(message.id, ok=False, reason=error.reason, message=error.message)
            )
        except TunnelError:
            self._log.debug("answer_not_sent")
