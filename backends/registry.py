"""Which hosts are there now: what connected agents offered, and the slots given out at each.

No I/O and no waiting: the edge feeds it what its tunnels tell, and since a call cannot be
interrupted, `snapshot`, `select` and `reserve` in a row are one step.

A host's sessions are counted in two ways. The host reports a number, late; the edge knows at once
the slots that it gave out itself. A slot counts on its own until a report that came after its
session had started must have included it. So neither a session started just now nor one that
somebody started at the host directly is missed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NewType

from backends.apps import display_title
from backends.errors import InvalidOffer, NoBackend
from backends.model import AppOffer, Backend, BackendId, backend_id, is_valid_name
from backends.selection import Refusal

ConnectionId = NewType("ConnectionId", int)
"""Names one connection of one agent, so that news of an older one cannot harm a newer."""


@dataclass(frozen=True, slots=True)
class HostOffering:
    """A host as its agent offers it when it connects."""

    name: str
    kind: str
    max_sessions: int
    apps: tuple[AppOffer, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentOffering:
    """An agent as it introduces itself; `agent_id` is the one that its token proves."""

    agent_id: str
    region: str
    latitude: float | None
    longitude: float | None
    hosts: tuple[HostOffering, ...]


@dataclass(frozen=True, slots=True)
class HostStatus:
    """What a heartbeat says of a host; None is for what the agent cannot tell."""

    name: str
    reachable: bool
    sessions: int | None = None
    apps: tuple[AppOffer, ...] | None = None
    gpu_memory_share: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """One slot at a backend, from the decision until the session's end; equal to itself only."""

    backend_id: BackendId


@dataclass(slots=True)
class _Host:
    offer: HostOffering
    healthy: bool = True
    apps: tuple[AppOffer, ...] = ()
    reported_sessions: int = 0
    gpu_memory_share: float | None = None


@dataclass(slots=True)
class _Agent:
    offer: AgentOffering
    connection: ConnectionId
    hosts: dict[BackendId, _Host]
    heard_at: float
    rtt_s: float | None = None


@dataclass(slots=True)
class _Slots:
    """`started` are sessions, the others launches under way; `included` are in the last report."""

    taken: set[Reservation] = field(default_factory=set)
    started: set[Reservation] = field(default_factory=set)
    included: set[Reservation] = field(default_factory=set)


class Registry:
    """The table of connected agents, their hosts, drains, and the slots given out.

    `now` is a monotonic clock in seconds. Slots and drains outlive the agents' connections.
    """

    def __init__(
        self,
        *,
        max_agents: int = 4_096,
        max_hosts_per_agent: int = 64,
        max_apps_per_host: int = 1_024,
        telemetry_max_age_s: float = 30.0,
    ) -> None:
        self._max_agents = max_agents
        self._max_hosts_per_agent = max_hosts_per_agent
        self._max_apps_per_host = max_apps_per_host
        self._telemetry_max_age_s = telemetry_max_age_s
        self._agents: dict[str, _Agent] = {}
        self._slots: dict[BackendId, _Slots] = {}
        self._drains: frozenset[str] = frozenset()
        self._connections = itertools.count(1)

    def agent_connected(self, offer: AgentOffering, *, now: float) -> ConnectionId:
        """Enter an agent's hosts in place of what an older connection of it offered.

        Hosts count as healthy until the first heartbeat, so that an edge that has just started
        can launch at once. `InvalidOffer` leaves the table as it was.
        """
        if offer.agent_id not in self._agents and len(self._agents) >= self._max_agents:
            raise InvalidOffer("too_many_agents", f"More than {self._max_agents} agents.")
        hosts = self._hosts(offer)
        connection = ConnectionId(next(self._connections))
        self._agents[offer.agent_id] = _Agent(offer, connection, hosts, heard_at=now)
        return connection

    def heartbeat(
        self,
        agent_id: str,
        connection: ConnectionId,
        statuses: Iterable[HostStatus],
        *,
        now: float,
        rtt_s: float | None = None,
    ) -> tuple[Backend, ...]:
        """Take in a heartbeat; give the backends whose health it changed.

        Heartbeats of replaced connections, and hosts that were never offered, are ignored.
        """
        agent = self._agents.get(agent_id)
        if agent is None or agent.connection != connection:
            return ()
        agent.heard_at, agent.rtt_s = now, rtt_s
        changed = []
        for status in statuses:
            identifier = BackendId(f"{agent_id}/{status.name}")
            host = agent.hosts.get(identifier)
            if host is not None and self._update(identifier, host, status):
                changed.append(self._backend(agent, identifier, host, now))
        return tuple(changed)

    def agent_gone(self, agent_id: str, connection: ConnectionId) -> bool:
        """Take an agent out, unless a newer connection has replaced this one."""
        agent = self._agents.get(agent_id)
        if agent is None or agent.connection != connection:
            return False
        del self._agents[agent_id]
        return True

    def set_drains(self, targets: Iterable[str]) -> None:
        """Say which backend ids and agent ids take no new sessions, as the store lists them."""
        self._drains = frozenset(targets)

    def snapshot(self, *, now: float) -> tuple[Backend, ...]:
        """Give all backends as they are now, by id."""
        backends = (
            self._backend(agent, identifier, host, now)
            for agent in self._agents.values()
            for identifier, host in agent.hosts.items()
        )
        return tuple(sorted(backends, key=lambda backend: backend.id))

    def reserve(self, identifier: BackendId) -> Reservation:
        """Take a slot; `NoBackend` if the backend is gone or its last slot has been taken."""
        host = self._host(identifier)
        if host is None:
            raise NoBackend(Refusal.NO_BACKENDS, "The chosen computer has just gone offline.")
        if self._sessions(identifier, host) >= host.offer.max_sessions:
            raise NoBackend(Refusal.ALL_FULL, "The chosen computer has just become full.")
        return self._take(identifier)

    def restore(self, identifier: BackendId) -> Reservation:
        """Take the slot of a session that was running before the edge restarted, full or not."""
        reservation = self._take(identifier)
        self.started(reservation)
        return reservation

    def started(self, reservation: Reservation) -> None:
        """Say that the host accepted the launch: its next report will include this session."""
        slots = self._slots.get(reservation.backend_id)
        if slots is not None and reservation in slots.taken:
            slots.started.add(reservation)

    def release(self, reservation: Reservation) -> None:
        """Give a slot back, for a launch that failed or a session that ended; twice is harmless."""
        slots = self._slots.get(reservation.backend_id)
        if slots is None:
            return
        if reservation in slots.included:
            host = self._host(reservation.backend_id)
            if host is not None:
                # Or the slot would stay taken until the next report.
                host.reported_sessions = max(0, host.reported_sessions - 1)
        for group in (slots.taken, slots.started, slots.included):
            group.discard(reservation)
        if not slots.taken:
            del self._slots[reservation.backend_id]

    def _hosts(self, offer: AgentOffering) -> dict[BackendId, _Host]:
        if len(offer.hosts) > self._max_hosts_per_agent:
            raise InvalidOffer(
                "too_many_hosts", f"An agent may offer {self._max_hosts_per_agent} hosts at most."
            )
        if not is_valid_name(offer.region):
            raise InvalidOffer("bad_name", "The region must be 1-64 letters, digits or dashes.")
        if not (_within(offer.latitude, 90) and _within(offer.longitude, 180)):
            raise InvalidOffer("bad_place", "The agent's coordinates are nowhere on earth.")
        hosts: dict[BackendId, _Host] = {}
        for host in offer.hosts:
            identifier = backend_id(offer.agent_id, host.name)
            if identifier in hosts:
                raise InvalidOffer("duplicate_host", f"The host {host.name} is offered twice.")
            hosts[identifier] = _Host(host, apps=self._apps(host.apps))
        return hosts

    def _apps(self, apps: tuple[AppOffer, ...]) -> tuple[AppOffer, ...]:
        shown = (replace(app, title=display_title(app.title)) for app in apps)
        return tuple(itertools.islice(shown, self._max_apps_per_host))

    def _update(self, identifier: BackendId, host: _Host, status: HostStatus) -> bool:
        was_healthy, host.healthy = host.healthy, status.reachable
        host.gpu_memory_share = status.gpu_memory_share
        if status.apps is not None:
            host.apps = self._apps(status.apps)
        if status.sessions is not None:
            host.reported_sessions = max(0, status.sessions)
            slots = self._slots.get(identifier)
            if slots is not None:
                slots.included = set(slots.started)
        return was_healthy != host.healthy

    def _backend(self, agent: _Agent, identifier: BackendId, host: _Host, now: float) -> Backend:
        fresh = now - agent.heard_at <= self._telemetry_max_age_s
        return Backend(
            id=identifier,
            agent_id=agent.offer.agent_id,
            host=host.offer.name,
            kind=host.offer.kind,
            region=agent.offer.region,
            latitude=agent.offer.latitude,
            longitude=agent.offer.longitude,
            apps=host.apps,
            sessions=self._sessions(identifier, host),
            max_sessions=host.offer.max_sessions,
            healthy=host.healthy,
            draining=not self._drains.isdisjoint((identifier, agent.offer.agent_id)),
            gpu_memory_share=host.gpu_memory_share if fresh else None,
            rtt_s=agent.rtt_s if fresh else None,
        )

    def _sessions(self, identifier: BackendId, host: _Host) -> int:
        slots = self._slots.get(identifier)
        if slots is None:
            return host.reported_sessions
        # A report can be older than the start of a session that we take it to include.
        return max(
            len(slots.taken), host.reported_sessions + len(slots.taken) - len(slots.included)
        )

    def _host(self, identifier: BackendId) -> _Host | None:
        agent = self._agents.get(identifier.partition("/")[0])
        return None if agent is None else agent.hosts.get(identifier)

    def _take(self, identifier: BackendId) -> Reservation:
        reservation = Reservation(identifier)
        self._slots.setdefault(identifier, _Slots()).taken.add(reservation)
        return reservation


def _within(degrees: float | None, limit: int) -> bool:
    return degrees is None or -limit <= degrees <= limit
