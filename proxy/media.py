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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import structlog
import trio

from moonlight.enet import connect_data
from moonlight.flows import Flow
from moonlight.ping import parse_ping
from moonlight.video_encryption import VideoSealer
from proxy.client_flow import Carried, ClientFlow, FlowEnd
from proxy.flow_table import Door, FlowTable, NoFlow
from proxy.following import Following
from proxy.losses import PortDrop
from proxy.roaming import RoamingLimits
from proxy.sessions import SessionId
from proxy.udp_port import Arrival, UdpPort
from revdial.probes import nonce_of

_log = structlog.get_logger()

own_port: Final = "own"
"""What all ports that single flows have for themselves are counted as."""


def _not_taken(_arrival: Arrival) -> bool:
    return False


def _no_probe(_door: Door, _nonce: bytes) -> bool:
    return False


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
        take_magic_packet: Callable[[Arrival], bool] = _not_taken,
        take_probe: Callable[[Door, bytes], bool] = _no_probe,
        roaming: RoamingLimits | None = None,
    ) -> None:
        self._nursery = nursery
        self._take_magic_packet = take_magic_packet
        self._take_probe = take_probe
        self._on_end = on_end
        self._table: FlowTable[ClientFlow] = FlowTable()
        self._running: dict[tuple[SessionId, Flow], _Running] = {}
        self._ended: dict[tuple[SessionId, Flow], ClientFlow] = {}
        self._following = Following(self._flows_running, roaming or RoamingLimits())
        self.dropped: Counter[str] = Counter()
        """Datagrams of strangers, of unproven clients and of flows that ended, by reason."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """Those of strangers and of unproven clients, by port and reason."""
        self.failures = 0
        """Flows that broke: each is a bug, and in the log."""
        self._carried: dict[Flow, Carried] = {kind: Carried() for kind in Flow}

    async def serve(
        self,
        addresses: Iterable[str],
        ports: dict[Flow, int],
        own_ports: Iterable[int] = (),
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen for every flow at its port on all addresses, until cancelled.

        Each of `own_ports` may be the port of one flow alone.

        Raises:
            OSError: an address or port cannot be had.

        """
        opened: list[tuple[UdpPort, Callable[[Arrival], None]]] = []
        with ExitStack() as closing:
            doors: list[tuple[Door, int]] = [
                *ports.items(),
                *((number, number) for number in own_ports),
            ]
            for address in addresses:
                for door, number in doors:
                    port = UdpPort(address, number)
                    closing.callback(port.close)
                    opened.append((port, self._handler(door)))
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
        self._table.add(flow)
        self._following.note_place(flow)
        self._nursery.start_soon(self._run, running)

    def set_rate(self, session: SessionId, kbps: int) -> None:
        """Note what a session's client asked of its host in video."""
        running = self._running.get((session, Flow.VIDEO))
        if running is not None:
            running.flow.set_rate(kbps)

    def set_sealer(self, session: SessionId, sealer: VideoSealer) -> None:
        """Encrypt a session's video from now on."""
        running = self._running.get((session, Flow.VIDEO))
        if running is not None:
            running.flow.sealer = sealer

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

    def heard_from_host(self, session: SessionId) -> int:
        """Return how many datagrams of a session's host have reached its client's side."""
        return sum(flow.datagrams_to_client for flow in self.flows_of(session))

    def drops(self) -> Counter[str]:
        """Return every datagram that was not carried on since the edge started, by reason."""
        drops = Counter(self.dropped)
        for running in self._running.values():
            drops.update(running.flow.drops())
        return drops

    def carried(self) -> dict[Flow, Carried]:
        """Return what was carried since the edge started, by kind of flow."""
        totals = {kind: replace(before) for kind, before in self._carried.items()}
        for (_, kind), running in self._running.items():
            totals[kind].add(running.flow)
        return totals

    def _stop(self, session: SessionId, kind: Flow) -> None:
        running = self._running.pop((session, kind), None)
        if running is not None:
            self.dropped.update(running.flow.drops())
            self._carried[kind].add(running.flow)
            self._ended[session, kind] = running.flow
            self._following.forget(running.flow)
            self._table.remove(running.flow)
            running.cancel.cancel()

    async def _run(self, running: _Running) -> None:
        flow = running.flow
        with running.cancel:
            try:
                end = await flow.run(on_stray=self._handler(flow.own_port or flow.kind))
            except Exception:
                # Whatever it was, the other sessions of this edge have nothing to do with it.
                self.failures += 1
                _log.exception("flow_failed", **flow.names)
                end = FlowEnd.FAILED
            if self._running.get((flow.session, flow.kind)) is running:
                self._stop(flow.session, flow.kind)
                self._on_end(flow.session, flow.kind, end)

    def _handler(self, door: Door) -> Callable[[Arrival], None]:
        """Return what takes a datagram that has no flow's own socket to arrive at."""
        return partial(self._on_arrival, door)

    def _on_arrival(self, door: Door, arrival: Arrival) -> None:
        # Clients that take the edge for a sleeping host try to wake it here.
        if self._take_magic_packet(arrival):
            return
        if (nonce := nonce_of(arrival.datagram)) is not None:
            if not self._take_probe(door, nonce):
                self._refuse(door, PortDrop.UNKNOWN_PROBE)
            return
        ping = None if door is Flow.CONTROL else parse_ping(arrival.datagram)
        if ping is not None:
            found = self._table.of_ping(ping, arrival.client, door)
        elif door in (Flow.VIDEO, Flow.AUDIO):
            self._refuse(door, PortDrop.NOT_A_PING)
            return
        elif (data := connect_data(arrival.datagram)) is not None:
            found = self._table.of_connect(data, arrival.client, door)
        else:
            self._on_control_midway(door, arrival)
            return
        if isinstance(found, NoFlow):
            self._refuse(door, found)
        else:
            self._offer(found, arrival)

    def _on_control_midway(self, door: Door, arrival: Arrival) -> None:
        """Take up a connection that an earlier edge process carried, or whose client has moved."""
        flow = self._table.of_midway(arrival.client)
        if flow is not None and flow.bound_to is None:
            self._offer(flow, arrival)
            return
        now = trio.current_time()
        found = self._following.control_of(arrival.datagram, arrival.client, now)
        if not isinstance(found, ClientFlow):
            self._refuse(door, found)
        elif self._take(found, arrival) and found.bound_to == arrival.client:
            found.client_address = arrival.client.ip
            self._following.note_place(found)

    def _offer(self, flow: ClientFlow, arrival: Arrival) -> None:
        now = trio.current_time()
        refusal = self._following.refusal(flow, arrival.datagram, arrival.client, now)
        if refusal is not None:
            self._refuse(flow.own_port or flow.kind, refusal)
        else:
            self._take(flow, arrival)

    def _take(self, flow: ClientFlow, arrival: Arrival) -> bool:
        taken = flow.offer(arrival)
        if taken:
            self._following.note_place(flow)
        else:
            self._refuse(flow.own_port or flow.kind, PortDrop.REBINDING_TOO_OFTEN)
        return taken

    def _refuse(self, door: Door, reason: str) -> None:
        self.dropped[reason] += 1
        self.refused[own_port if isinstance(door, int) else str(door), reason] += 1

    def _flows_running(self, session: SessionId) -> dict[Flow, ClientFlow]:
        return {
            kind: running.flow
            for kind in Flow
            if (running := self._running.get((session, kind))) is not None
        }
