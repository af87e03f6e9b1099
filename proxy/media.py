"""The UDP side of the edge: clients prove their flows, each flow runs between client and tunnel.

A flow begins unbound: it is registered under the secret that the client was given in the RTSP
handshake, and its data WebSocket is opened at once. The first datagram that carries the secret
binds it to the client's address; a later one from elsewhere moves it there (roaming, NAT
rebinding) where `following` finds that it is the client's. Nothing is ever sent to an address that
has not proven a secret.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
import trio

from moonlight.enet import connect_data
from moonlight.flows import Flow
from moonlight.ping import parse_ping
from proxy.client_flow import ClientFlow, FlowEnd
from proxy.following import Following
from proxy.roaming import RoamingLimits
from proxy.sessions import SessionId
from proxy.udp_port import Arrival, Endpoint, UdpPort

_log = structlog.get_logger()
_Key = TypeVar("_Key")


@dataclass(slots=True)
class _Running:
    flow: ClientFlow
    cancel: trio.CancelScope = field(default_factory=trio.CancelScope)


class Media:
    """All flows of the edge and the shared ports that unproven datagrams arrive at."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        on_end: Callable[[SessionId, Flow, FlowEnd], None],
        roaming: RoamingLimits | None = None,
    ) -> None:
        self._nursery = nursery
        self._on_end = on_end
        self._by_secret: dict[tuple[Flow, str | int], ClientFlow] = {}
        self._running: dict[tuple[SessionId, Flow], _Running] = {}
        self._ended: dict[tuple[SessionId, Flow], ClientFlow] = {}
        self._unclaimed: dict[Endpoint, ClientFlow] = {}
        """Control flows of an earlier edge process, by where their clients were then."""
        self._following = Following(self._flows_running, roaming or RoamingLimits())
        self.dropped: Counter[str] = Counter()
        """Datagrams of strangers, of unproven clients and of flows that ended, by reason."""

    async def serve(
        self,
        addresses: Iterable[str],
        ports: dict[Flow, int],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen for every flow at its port on all addresses, until cancelled.

        Raises:
            OSError: an address or port cannot be had.

        """
        opened: list[tuple[UdpPort, Callable[[Arrival], None]]] = []
        with ExitStack() as closing:
            for address in addresses:
                for flow, number in ports.items():
                    port = UdpPort(address, number)
                    closing.callback(port.close)
                    opened.append((port, self._handler(flow)))
            async with trio.open_nursery() as nursery:
                for port, handler in opened:
                    nursery.start_soon(port.run, handler)
                task_status.started()

    def add(self, flow: ClientFlow) -> None:
        """Start a flow, in place of the session's former one of the same kind."""
        self._stop(flow.session, flow.kind)
        self._ended.pop((flow.session, flow.kind), None)
        running = _Running(flow)
        self._running[flow.session, flow.kind] = running
        self._by_secret[flow.kind, flow.secret] = flow
        if flow.kind is Flow.CONTROL and flow.last_seen_at is not None:
            self._unclaimed[flow.last_seen_at] = flow
        self._following.note_place(flow)
        self._nursery.start_soon(self._run, running)

    def set_rate(self, session: SessionId, kbps: int) -> None:
        """Note what a session's client asked of its host in video."""
        running = self._running.get((session, Flow.VIDEO))
        if running is not None:
            running.flow.set_rate(kbps)

    def stop(self, session: SessionId) -> None:
        """Stop all flows of a session; their figures stay readable until `forget`."""
        for kind in Flow:
            self._stop(session, kind)

    def forget(self, session: SessionId) -> None:
        """Stop all flows of a session that has ended, and forget them."""
        for kind in Flow:
            self._stop(session, kind)
            self._ended.pop((session, kind), None)

    def flows_of(self, session: SessionId) -> list[ClientFlow]:
        """Return the flows of a session that run now, or ran last."""
        found = []
        for kind in Flow:
            running = self._running.get((session, kind))
            flow = running.flow if running else self._ended.get((session, kind))
            if flow is not None:
                found.append(flow)
        return found

    def drops(self) -> Counter[str]:
        """Return every datagram that was not carried on since the edge started, by reason."""
        drops = Counter(self.dropped)
        for running in self._running.values():
            drops.update(running.flow.drops())
        return drops

    def _stop(self, session: SessionId, kind: Flow) -> None:
        running = self._running.pop((session, kind), None)
        if running is not None:
            self.dropped.update(running.flow.drops())
            self._ended[session, kind] = running.flow
            self._following.forget(running.flow)
            _forget(self._by_secret, (kind, running.flow.secret), running.flow)
            if running.flow.last_seen_at is not None:
                _forget(self._unclaimed, running.flow.last_seen_at, running.flow)
            running.cancel.cancel()

    async def _run(self, running: _Running) -> None:
        flow = running.flow
        with running.cancel:
            try:
                end = await flow.run(on_stray=self._handler(flow.kind))
            except Exception:
                # Whatever it was, the other sessions of this edge have nothing to do with it.
                _log.exception("flow_failed", session=flow.session, flow=str(flow.kind))
                end = FlowEnd.FAILED
            if self._running.get((flow.session, flow.kind)) is running:
                self._stop(flow.session, flow.kind)
                self._on_end(flow.session, flow.kind, end)

    def _handler(self, kind: Flow) -> Callable[[Arrival], None]:
        """Return what takes a datagram that has no flow's own socket to arrive at."""
        if kind is Flow.CONTROL:
            return self._on_control
        return lambda arrival: self._on_ping(kind, arrival)

    def _on_ping(self, kind: Flow, arrival: Arrival) -> None:
        ping = parse_ping(arrival.datagram)
        if ping is None:
            self.dropped["not_a_ping"] += 1
        elif ping.payload is None:
            self.dropped["ping_without_payload"] += 1
        else:
            self._offer(self._by_secret.get((kind, ping.payload)), arrival)

    def _on_control(self, arrival: Arrival) -> None:
        data = connect_data(arrival.datagram)
        if data is None:
            self._on_control_midway(arrival)
            return
        flow = self._by_secret.get((Flow.CONTROL, data))
        if flow is not None and not self._has_proven(flow, arrival.client.ip):
            # 32 bits can be guessed by flooding; an address known by other means cannot.
            self.dropped["control_from_unproven_address"] += 1
            return
        self._offer(flow, arrival)

    def _on_control_midway(self, arrival: Arrival) -> None:
        """Take up a connection that an earlier edge process carried, or whose client has moved."""
        flow = self._unclaimed.pop(arrival.client, None)
        if flow is not None and flow.bound_to is None:
            self._offer(flow, arrival)
            return
        now = trio.current_time()
        found = self._following.control_of(arrival.datagram, arrival.client, now)
        if not isinstance(found, ClientFlow):
            self.dropped[found] += 1
        elif self._take(found, arrival) and found.bound_to == arrival.client:
            found.client_address = arrival.client.ip
            self._following.note_place(found)

    def _has_proven(self, control: ClientFlow, ip: str) -> bool:
        return ip == control.client_address or any(
            running.flow.bound_to is not None and running.flow.bound_to.ip == ip
            for (session, _), running in self._running.items()
            if session == control.session
        )

    def _offer(self, flow: ClientFlow | None, arrival: Arrival) -> None:
        if flow is None:
            self.dropped["unknown_secret"] += 1
            return
        now = trio.current_time()
        refusal = self._following.refusal(flow, arrival.datagram, arrival.client, now)
        if refusal is not None:
            self.dropped[refusal] += 1
        else:
            self._take(flow, arrival)

    def _take(self, flow: ClientFlow, arrival: Arrival) -> bool:
        taken = flow.offer(arrival)
        if taken:
            self._following.note_place(flow)
        else:
            self.dropped["rebinding_too_often"] += 1
        return taken

    def _flows_running(self, session: SessionId) -> dict[Flow, ClientFlow]:
        return {
            kind: running.flow
            for kind in Flow
            if (running := self._running.get((session, kind))) is not None
        }


def _forget(table: dict[_Key, ClientFlow], key: _Key, flow: ClientFlow) -> None:
    """Take a flow out of a table, unless its place has gone to another."""
    if table.get(key) is flow:
        del table[key]
