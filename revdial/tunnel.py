"""One agent as the edge has it: what can be asked of it while its control WebSocket lives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
import trio
from websockets.exceptions import ConnectionClosed

from revdial.backlog import BacklogLimits, limits_of
from revdial.errors import (
    BadMessage,
    DialRefused,
    PickupTimeout,
    RequestFailed,
    TunnelClosed,
    printable,
    token,
    where,
)
from revdial.flow import DatagramChannel
from revdial.framing import FlowKind, Preamble
from revdial.limits import ListenerLimits
from revdial.messages import (
    CloseCode,
    Dial,
    DialFailed,
    FromAgent,
    Heartbeat,
    Hello,
    Json,
    Reply,
    Request,
    Spare,
    StreamService,
    Welcome,
    decode_from_agent,
    encode,
)
from revdial.observer import Loss, Refusal, TunnelObserver
from revdial.outbox import Outbox
from revdial.pending import Pending, PendingTable
from revdial.spares import SparePool
from revdial.stream import WebSocketStream
from revdial.websocket import TunnelWebSocket, why_closed

going_away = 1001


class AgentTunnel:
    """The tunnel to one connected agent. Made by the listener; ends with its control WebSocket."""

    def __init__(
        self,
        websocket: TunnelWebSocket,
        hello: Hello,
        serial: int,
        dials: PendingTable[TunnelWebSocket],
        limits: ListenerLimits,
        observer: TunnelObserver,
    ) -> None:
        self.agent_id = hello.agent_id
        self.hello = hello
        self.serial = serial
        """Larger for a later tunnel, of this or any other agent."""
        self.remote_address = websocket.peer
        self.connected_at = trio.current_time()
        self.closed = trio.Event()
        self.last_heartbeat: Heartbeat | None = None
        self.last_heartbeat_at: float | None = None
        self.heartbeats: trio.MemoryReceiveChannel[Heartbeat]
        self._heartbeats_in, self.heartbeats = trio.open_memory_channel[Heartbeat](1)
        self._websocket = websocket
        self._dials = dials
        self._limits = limits
        self._observer = observer
        self._outbox = Outbox(websocket, observer)
        self._requests: PendingTable[dict[str, Json]] = PendingTable()
        self._spares = SparePool(
            self._open_spare, count=limits.spare_connections, linger_s=limits.spare_linger_s
        )
        self._keeps_spares = False
        self.warm_dials = 0
        """How many data connections were ready when they were needed."""
        self.cold_dials = 0
        """How many had to be waited for."""
        self._data: set[trio.CancelScope] = set()
        self._opening = 0
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._close_code = going_away
        self._reason = "edge_stopping"
        self._log = structlog.get_logger().bind(agent=printable(self.agent_id), tunnel=serial)

    def __repr__(self) -> str:
        return f"AgentTunnel({printable(self.agent_id)!r}, serial={self.serial})"

    @property
    def reason(self) -> str:
        """Why the tunnel ended, once it has."""
        return self._reason

    @property
    def rtt_s(self) -> float | None:
        """The round trip of the last ping; None before the first answer."""
        return self._websocket.latency or None

    @property
    def data_connections(self) -> int:
        """How many data WebSockets are open or being opened."""
        return len(self._data) + self._opening

    async def open_stream(
        self, host: str, service: StreamService, *, origin: str, port: int | None = None
    ) -> WebSocketStream:
        """A byte stream to a service of one of the agent's hosts, as from `origin`.

        Raises `DialRefused`, `PickupTimeout` or `TunnelClosed`. Where the agent finds the host
        unreachable only later, the stream breaks with a `DialRefused` as its cause.
        """
        websocket = await self._dial(
            lambda dial_id: Dial(
                id=dial_id, kind="stream", host=host, service=service, origin=origin, port=port
            )
        )
        websocket.be_patient(self._limits.stream_user_timeout_ms)
        return WebSocketStream(websocket)

    async def open_flow(
        self,
        host: str,
        port: int,
        *,
        origin: str,
        session: str,
        flow: str,
        client_address: str = "",
        limits: BacklogLimits | None = None,
    ) -> DatagramChannel:
        """A UDP flow to a port of one of the agent's hosts; raises as `open_stream` does."""
        preamble = Preamble(session, FlowKind(flow), client_address).encode()
        websocket = await self._dial(
            lambda dial_id: Dial(
                id=dial_id,
                kind="flow",
                host=host,
                service="udp",
                origin=origin,
                port=port,
                flow=flow,
                session=session,
            )
        )
        try:
            websocket.send_nowait(preamble)
        except ConnectionClosed as error:
            raise TunnelClosed("data_connection_lost", "the data connection was lost") from error
        channel = DatagramChannel(websocket, limits or limits_of(flow), self._observer)
        self._start(channel.run)
        return channel

    async def request(
        self, method: str, params: dict[str, Json], timeout_s: float = 10.0
    ) -> dict[str, Json]:
        """Ask the agent to do something; raises `RequestFailed` or `TunnelClosed`."""
        self._check_open()
        if len(self._requests) >= self._limits.max_requests:
            raise RequestFailed("too_many_requests", "too many requests wait for this agent")
        with (
            self._requests.waiting(self.serial) as (request_id, pending),
            trio.move_on_after(timeout_s),
        ):
            await self._outbox.put(
                Request(id=request_id, method=method, params=params, timeout_s=timeout_s)
            )
            return await pending.wait()
        raise RequestFailed("timeout", f"the agent did not answer {method!r} in {timeout_s:g} s")

    def close(self, code: int = CloseCode.DONE, reason: str = "closed") -> None:
        """Begin to end this tunnel, with everything that runs in it; the first reason stays."""
        if self._scope.cancel_called:
            return
        self._close_code, self._reason = code, reason
        self._scope.cancel()

    async def aclose(self) -> None:
        """End this tunnel and wait until it has ended. Not from within `on_agent`: return there."""
        self.close()
        await self.closed.wait()

    async def run(self, on_agent: Callable[[AgentTunnel], Awaitable[None]]) -> None:
        """Serve until the tunnel ends. Only the listener calls this."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._outbox.run)
                    nursery.start_soon(self._handle, on_agent)
                    await self._outbox.put(
                        Welcome(
                            heartbeat_interval_s=self._limits.heartbeat_interval_s,
                            software=self._limits.software,
                        )
                    )
                    self.close(*await self._receive_all())
        finally:
            await self._end()

    async def hold(self, websocket: TunnelWebSocket, pending: Pending[TunnelWebSocket]) -> None:
        """Keep a picked-up data WebSocket for who asked; only the listener calls this."""
        with trio.CancelScope() as scope:
            self._data.add(scope)
            try:
                if self.closed.is_set():
                    pending.fail(TunnelClosed())
                elif pending.deliver(websocket):
                    await websocket.stream_closed.wait()
                else:
                    self._observer.lost(Loss.PICKUP_ABANDONED)
            finally:
                self._data.discard(scope)

    def _check_open(self) -> None:
        if self.closed.is_set() or self._scope.cancel_called:
            raise TunnelClosed("tunnel_closed", "the agent is not connected any more")

    def _start(self, task: Callable[[], Awaitable[None]]) -> None:
        self._check_open()
        assert self._nursery is not None  # noqa: S101 - open as long as the tunnel is
        self._nursery.start_soon(task)

    async def _dial(self, make: Callable[[str], Dial]) -> TunnelWebSocket:
        self._keep_spares()
        told = encode(make("spare"))
        while (spare := await self._spares.take()) is not None:
            with suppress(ConnectionClosed):
                spare.send_nowait(told)
                self.warm_dials += 1
                return spare
        self._check_open()
        self.cold_dials += 1
        return await self._open_data(make)

    def _keep_spares(self) -> None:
        """Begin to, at the first dial: the many agents that are never used need no task for it."""
        self._check_open()
        if not self._keeps_spares:
            self._keeps_spares = True
            self._start(self._spares.run)

    async def _open_spare(self) -> TunnelWebSocket:
        return await self._open_data(Spare)

    async def _open_data(self, make: Callable[[str], Dial | Spare]) -> TunnelWebSocket:
        """Have the agent open a data connection."""
        if self.data_connections >= self._limits.max_data_connections:
            raise DialRefused("too_many_connections", "this agent has too many data connections")
        self._opening += 1
        try:
            with self._dials.waiting(self.serial) as (dial_id, pending):
                return await self._pick_up(make(dial_id), pending)
        finally:
            self._opening -= 1

    async def _pick_up(
        self, asked: Dial | Spare, pending: Pending[TunnelWebSocket]
    ) -> TunnelWebSocket:
        try:
            with trio.move_on_after(self._limits.pickup_timeout_s):
                await self._outbox.put(asked)
                return await pending.wait()
        except BaseException:
            if (late := pending.abandon()) is not None:
                await late.abort()
            raise
        if (late := pending.abandon()) is not None:
            return late
        self._observer.lost(Loss.PICKUP_TIMEOUT)
        raise PickupTimeout(
            "pickup_timeout",
            f"the agent did not dial back in {self._limits.pickup_timeout_s:g} s",
        )

    async def _handle(self, on_agent: Callable[[AgentTunnel], Awaitable[None]]) -> None:
        """Run the owner's code; its bugs end this tunnel, not the listener."""
        try:
            await on_agent(self)
        except Exception as error:
            self._log.error("agent_handler_failed", error=where(error))
            self.close(CloseCode.DONE, "handler_failed")
        else:
            self.close(CloseCode.DONE, "handler_returned")

    async def _receive_all(self) -> tuple[int, str]:
        """Take messages until the connection ends; returns the code and reason to close with."""
        while True:
            try:
                self._receive(decode_from_agent(await self._websocket.recv()))
            except ConnectionClosed:
                reason = why_closed(self._websocket)
                if reason == "message_too_large":
                    self._observer.refused(Refusal.MESSAGE_TOO_LARGE)
                return going_away, reason
            except BadMessage as error:
                self._observer.refused(Refusal.BAD_MESSAGE)
                self._log.warning("bad_control_message", reason=error.reason)
                return CloseCode.PROTOCOL_ERROR, error.reason

    def _receive(self, message: FromAgent) -> None:
        match message:
            case Heartbeat():
                self._keep(message)
            case DialFailed():
                self._settle_dial(message)
            case Reply():
                self._settle_request(message)
            case Hello():
                raise BadMessage("second_hello", "an agent says hello only once")

    def _keep(self, heartbeat: Heartbeat) -> None:
        self.last_heartbeat, self.last_heartbeat_at = heartbeat, trio.current_time()
        try:
            self._heartbeats_in.send_nowait(heartbeat)
        except trio.WouldBlock:
            self.heartbeats.receive_nowait()
            self._heartbeats_in.send_nowait(heartbeat)
            self._observer.lost(Loss.HEARTBEAT_UNREAD)
        except trio.BrokenResourceError:
            # The owner closed its end: nobody wants them.
            return

    def _settle_dial(self, failed: DialFailed) -> None:
        pending = self._dials.claim(failed.id, self.serial)
        error = DialRefused(token(failed.reason), printable(failed.message))
        if pending is None or not pending.fail(error):
            self._observer.lost(Loss.LATE_ANSWER)

    def _settle_request(self, reply: Reply) -> None:
        pending = self._requests.claim(reply.id, self.serial)
        if pending is None:
            self._observer.lost(Loss.LATE_ANSWER)
        elif reply.ok:
            pending.deliver(reply.result)
        else:
            pending.fail(RequestFailed(token(reply.reason), printable(reply.message)))

    async def _end(self) -> None:
        """Let go of everybody who waits, then tell the agent why, if it still listens."""
        self.closed.set()
        self._nursery = None
        self._heartbeats_in.close()
        error = TunnelClosed("tunnel_closed", f"the tunnel ended: {self._reason}")
        self._dials.fail_all(self.serial, error)
        self._requests.fail_all(self.serial, error)
        for scope in self._data:
            scope.cancel()
        with trio.CancelScope(shield=True):
            await self._websocket.close_politely(self._close_code, self._reason)
