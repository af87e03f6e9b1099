"""UDP flows between the tunnel and a host, on sockets that outlive a broken data WebSocket.

The host knows a flow by the address and port it comes from. So when the tunnel breaks, the socket
is held for `flow_grace_s`: the edge dials the same flow of the same session again, and the host
never notices. What the host sends meanwhile is discarded and counted: late is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import structlog
import trio

from agent.addresses import SourceAddresses
from agent.config import LimitsConfig
from agent.targets import Target
from revdial.errors import DialRefused, TunnelError, printable
from revdial.flow import DatagramChannel
from revdial.messages import FlowReport
from revdial.observer import AgentLoss
from revdial.udp import DatagramSocket

_Key = tuple[str, str]


@dataclass(slots=True)
class FlowCounters:
    """What became of flows, and of datagrams that had nowhere to go."""

    opened: int = 0
    resumed: int = 0
    expired: int = 0
    evicted: int = 0
    discarded_datagrams: int = 0
    """From the host, while no data WebSocket carried the flow."""
    losses: Counter[str] = field(default_factory=Counter)
    """Datagrams that closed sockets did not take, by `AgentLoss`."""


class _Flow:
    """One socket towards a host, and whoever reads it now: a relay, or the one who holds it."""

    def __init__(self, target: Target, origin: str, socket: DatagramSocket, lease: ExitStack):
        self.target = target
        self.origin = origin
        self.socket = socket
        self.lease = lease
        self.turn = 0
        self.held = False
        self.reader = trio.CancelScope()
        # Only one task may read a socket, and a cancelled one takes a moment to let go.
        self.reading = trio.Lock()
        self.channel: DatagramChannel | None = None
        self.dropped: Counter[str] = Counter()
        self.dropped_frames = 0

    def take_over(self) -> int:
        """Stop whoever reads; only the holder of the newest turn may keep the flow afterwards."""
        self.turn += 1
        self.reader.cancel()
        self.reader = trio.CancelScope()
        self.held = False
        return self.turn

    def leave(self, channel: DatagramChannel) -> None:
        """Keep the figures of a data WebSocket that carries the flow no more."""
        self.dropped.update({str(why): count for why, count in channel.dropped.items()})
        self.dropped_frames += channel.dropped_frames
        if self.channel is channel:
            self.channel = None

    def report(self, session: str, flow: str) -> FlowReport:
        """Tell what was dropped of it, and what has waited for how long."""
        dropped, frames, age_s = Counter(self.dropped), self.dropped_frames, 0.0
        if self.channel is not None:
            dropped.update({str(why): count for why, count in self.channel.dropped.items()})
            frames += self.channel.dropped_frames
            age_s = self.channel.take_peak_age_s()
        return FlowReport(session, flow, dict(dropped), frames, round(age_s * 1000))

    def close(self) -> None:
        """Close the socket and give the source address back."""
        self.turn += 1
        self.reader.cancel()
        self.socket.close()
        self.lease.close()


class FlowRelay:
    """Joins flows of the tunnel to hosts; made by ``async with FlowRelay.open(…)``.

    There are at most `limits.max_flows`, held ones included; the longest held makes room.
    """

    def __init__(
        self, nursery: trio.Nursery, addresses: SourceAddresses, limits: LimitsConfig
    ) -> None:
        self._nursery = nursery
        self._addresses = addresses
        self._limits = limits
        self._flows: dict[_Key, _Flow] = {}
        self._log = structlog.get_logger()
        self.counters = FlowCounters()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, addresses: SourceAddresses, limits: LimitsConfig
    ) -> AsyncIterator[FlowRelay]:
        """Relay flows until the end of the block; then all sockets are closed."""
        async with trio.open_nursery() as nursery:
            relay = cls(nursery, addresses, limits)
            try:
                yield relay
            finally:
                nursery.cancel_scope.cancel()
                for key in list(relay._flows):
                    relay._close(key)

    def __len__(self) -> int:
        return len(self._flows)

    async def serve(
        self, target: Target, origin: str, session: str, flow_kind: str, channel: DatagramChannel
    ) -> None:
        """Copy datagrams both ways until the data WebSocket or the tunnel goes away.

        A flow that another data WebSocket still carries is taken from it: the newer dial is right.
        At the end the log tells what was dropped before the tunnel, in datagrams by reason.
        Raises `DialRefused` where there is no socket to be had.
        """
        key = (session, flow_kind)
        flow = self._flow_for(key, target, origin)
        turn = flow.take_over()
        reader = flow.reader
        try:
            async with flow.reading:
                with reader:
                    flow.channel = channel
                    channel.on_rate(flow.socket.expect)
                    await _relay(flow.socket, channel)
        finally:
            flow.leave(channel)
            self._log.info(
                "flow_ended",
                session=printable(session),
                flow=flow_kind,
                dropped={str(reason): count for reason, count in channel.dropped.items()},
                frames_dropped=channel.dropped_frames,
            )
            if flow.turn == turn:
                flow.held = True
                self._nursery.start_soon(self._hold, key, flow, turn)

    def losses(self) -> Counter[str]:
        """Return what was dropped beside tunnels, since the agent started, by `AgentLoss`."""
        losses = Counter(self.counters.losses)
        losses[AgentLoss.HELD] += self.counters.discarded_datagrams
        for flow in self._flows.values():
            _count_socket(losses, flow.socket)
        return losses

    def reports(self) -> list[FlowReport]:
        """Tell of the flows that lost something or make something wait; the latest first."""
        reports = (flow.report(*key) for key, flow in self._flows.items())
        telling = [one for one in reports if one.dropped or one.backlog_age_ms]
        return sorted(telling, key=lambda one: -one.backlog_age_ms)

    def _flow_for(self, key: _Key, target: Target, origin: str) -> _Flow:
        flow = self._flows.get(key)
        if flow is not None and (flow.target, flow.origin) == (target, origin):
            self.counters.resumed += 1
            return flow
        if flow is not None:
            # A new launch of the session on other ports; the host has left the old ones.
            self._close(key)
        self._make_room()
        flow = self._flows[key] = self._open(target, origin)
        self.counters.opened += 1
        return flow

    def _make_room(self) -> None:
        if len(self._flows) < self._limits.max_flows:
            return
        held = next((key for key, flow in self._flows.items() if flow.held), None)
        if held is None:
            raise DialRefused("too_many_flows", f"more than {self._limits.max_flows} flows at once")
        self._close(held)
        self.counters.evicted += 1

    def _open(self, target: Target, origin: str) -> _Flow:
        with ExitStack() as stack:
            local = None
            if target.host.takes_source_addresses:
                local = (stack.enter_context(self._addresses.lease(origin)), 0)
            try:
                socket = DatagramSocket.open(local, (target.address, target.port))
            except OSError as error:
                raise DialRefused(
                    "no_socket", f"no UDP socket towards {target.host.name}: {error.strerror}"
                ) from error
            return _Flow(target, origin, socket, stack.pop_all())

    async def _hold(self, key: _Key, flow: _Flow, turn: int) -> None:
        if flow.turn != turn:
            return
        turn = flow.take_over()
        flow.held = True
        # To the end of the table: room is made from its beginning.
        self._flows[key] = self._flows.pop(key)
        reader = flow.reader
        async with flow.reading:
            with reader, trio.move_on_after(self._limits.flow_grace_s):
                await self._discard(flow.socket)
        if flow.turn == turn:
            self.counters.expired += 1
            self._close(key)

    async def _discard(self, socket: DatagramSocket) -> None:
        while True:
            try:
                runs = await socket.receive_batch()
            except trio.ClosedResourceError:
                # Closed to make room, in the moment between readable and read.
                return
            except OSError:
                # Unreadable for now; the host may be back before the grace time is over.
                await trio.sleep_forever()
            self.counters.discarded_datagrams += sum(map(len, runs))

    def _close(self, key: _Key) -> None:
        flow = self._flows.pop(key)
        _count_socket(self.counters.losses, flow.socket)
        flow.close()


def _count_socket(losses: Counter[str], socket: DatagramSocket) -> None:
    counters = socket.counters
    losses[AgentLoss.HOST_SOCKET_FULL] += counters.send_would_block
    losses[AgentLoss.HOST_REFUSED] += counters.send_refused
    losses[AgentLoss.HOST_UNREACHABLE] += counters.send_failed + counters.send_too_large


async def _relay(socket: DatagramSocket, channel: DatagramChannel) -> None:
    async def to_edge() -> None:
        while True:
            channel.send_batch(await socket.receive_batch())

    async def to_host() -> None:
        while True:
            socket.send_runs((await channel.receive_batch()).runs)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(to_edge)
            nursery.start_soon(to_host)
    except* (TunnelError, OSError, trio.ClosedResourceError):
        # The data WebSocket is gone, or the network under the socket: hold it and wait.
        pass
