"""Which hosts there are and how they are: what agents offered and told, and the slots given out.

No I/O and no waiting: the edge feeds it what its tunnels tell, and since a call cannot be
interrupted, selecting among `candidates` and `reserve` in a row are one step.

A host stays known for a while after its agent's connection is gone, as unhealthy: agents come back,
operators want to see what is missing, and players' lists of apps shall not flicker.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NewType

from backends.apps import AppOffer, AppOffers, display_title
from backends.candidates import Candidates, GpuLimits
from backends.errors import InvalidOffer, NoBackend
from backends.geography import Place
from backends.health import HealthRules, HostHealth
from backends.model import (
    Backend,
    BackendId,
    Health,
    State,
    agent_of,
    backend_id,
    is_valid_name,
)
from backends.offerings import AgentOffering, GpuMemory, HostOffering, HostStatus
from backends.selection import Refusal
from backends.slots import Reservation, Slots
from backends.telling_apart import Seen, Telling, telling

ConnectionId = NewType("ConnectionId", int)
"""Names one connection of one agent, so that news of an older one cannot harm a newer."""

tunnel_down = "tunnel_down"
launches_fail = "launches_fail"
telemetry_stale = "telemetry_stale"


@dataclass(frozen=True, slots=True)
class Transition:
    """A backend went from one state to another; None for not being known."""

    backend_id: BackendId
    before: State | None
    after: State | None
    trouble: str | None


@dataclass(frozen=True, slots=True)
class RegistryRules:
    """How much there may be, and how long things count."""

    max_agents: int = 4_096
    max_hosts_per_agent: int = 64
    max_apps_per_host: int = 1_024
    telemetry_max_age_s: float = 30.0
    """Three heartbeats."""
    absence_s: float = 600.0
    """How long the hosts of an agent that is gone stay known."""
    lasting_agents: frozenset[str] = frozenset()
    """Whose hosts stay known however long they are away, since they sleep and can be woken."""
    session_gpu_memory_bytes: int = 512 << 20
    """What a session is taken to need, on top of what is measured, while it may still grow."""
    session_growth_s: float = 180.0
    """So long after a session's memory was first measured, it is taken to grow no more."""
    health: HealthRules = field(default_factory=HealthRules)
    gpu: GpuLimits = field(default_factory=GpuLimits)


@dataclass(slots=True)
class _Host:
    offer: HostOffering
    health: HostHealth
    apps: AppOffers
    down: str | None = None
    gpu_memory: GpuMemory | None = None
    seen: Seen = field(default_factory=Seen)
    counts_sessions: bool = False


@dataclass(slots=True)
class _Agent:
    offer: AgentOffering
    place: Place | None
    hosts: dict[BackendId, _Host]
    connection: ConnectionId | None
    """None while it is away."""
    rtt_s: float | None = None
    stale: bool = False


class Registry:
    """The table of agents, their hosts, drains, and the slots given out.

    `now` is a monotonic clock in seconds. Slots and drains outlive the agents' connections.
    `regions` are the configured places of regions; others are where their agents say.
    """

    def __init__(
        self, rules: RegistryRules | None = None, regions: Mapping[str, Place] | None = None
    ) -> None:
        self._rules = rules or RegistryRules()
        self._regions = regions or {}
        self._agents: dict[str, _Agent] = {}
        # When each agent was last heard of whose telemetry counts, and when each that is away went;
        # the longest ago first, so that `refresh` looks at no other.
        self._heard: OrderedDict[str, float] = OrderedDict()
        self._away: OrderedDict[str, float] = OrderedDict()
        self._slots: dict[BackendId, Slots] = {}
        self._drains: frozenset[str] = frozenset()
        self._connections = itertools.count(1)
        self._transitions: list[Transition] = []
        self._candidates = Candidates(limits=self._rules.gpu)

    def apply(self, rules: RegistryRules, regions: Mapping[str, Place]) -> None:
        """Go by other rules and places from now on; who is in the table stays in it."""
        self._rules, self._regions = rules, regions
        self._candidates.apply(rules.gpu)
        for agent in self._agents.values():
            agent.place = self._place(agent.offer)
            self._show(agent)

    def candidates(self, *, now: float) -> Candidates:
        """Give all backends as they are now; good until the next call of another method."""
        self.refresh(now=now)
        return self._candidates

    def transitions(self) -> tuple[Transition, ...]:
        """Give what has changed state since the last call."""
        told, self._transitions = tuple(self._transitions), []
        return told

    def agent_connected(self, offer: AgentOffering, *, now: float) -> ConnectionId:
        """Enter an agent's hosts in place of what an older connection of it offered.

        Hosts count as healthy until their probes say otherwise, so that an edge that has just
        started can launch at once; those that were down already have to recover. `InvalidOffer`
        leaves the table as it was.
        """
        self.refresh(now=now)
        former = self._agents.get(offer.agent_id)
        if former is None and len(self._agents) >= self._rules.max_agents:
            raise InvalidOffer("too_many_agents", f"More than {self._rules.max_agents} agents.")
        hosts = self._hosts(offer, former)
        connection = ConnectionId(next(self._connections))
        agent = _Agent(offer, self._place(offer), hosts, connection)
        self._agents[offer.agent_id] = agent
        self._note_heard(offer.agent_id, now)
        if former is not None:
            for identifier in sorted(former.hosts.keys() - hosts.keys()):
                self._forget(identifier)
        self._show(agent)
        return connection

    def heartbeat(
        self,
        agent_id: str,
        connection: ConnectionId,
        statuses: Iterable[HostStatus],
        *,
        now: float,
        rtt_s: float | None = None,
    ) -> None:
        """Take in a heartbeat: how each host is, and how long the way to the agent is.

        Heartbeats of replaced connections, and hosts that were never offered, are ignored.
        """
        agent = self._agents.get(agent_id)
        if agent is None or agent.connection != connection:
            return
        self._note_heard(agent_id, now)
        agent.rtt_s, agent.stale = rtt_s, False
        for status in statuses:
            identifier = BackendId(f"{agent_id}/{status.name}")
            host = agent.hosts.get(identifier)
            if host is not None:
                self._update(identifier, host, status, now)
        self._show(agent)

    def agent_gone(self, agent_id: str, connection: ConnectionId, *, now: float) -> bool:
        """Note that an agent is away, unless a newer connection has replaced this one."""
        agent = self._agents.get(agent_id)
        if agent is None or agent.connection != connection:
            return False
        agent.connection = None
        self._heard.pop(agent_id, None)
        if agent_id not in self._rules.lasting_agents:
            self._away[agent_id] = now
        self._show(agent)
        return True

    def launch_failed(self, identifier: BackendId, *, now: float) -> None:
        """Note that a host could not be reached for a launch: as good as a missed probe.

        It keeps launches away, and says nothing of the sessions that run there (`is_down`).
        """
        agent, host = self._find(identifier)
        if agent is not None and host is not None:
            host.down = host.down or launches_fail
            host.health.note(answered=False, now=now)
            self._show_host(agent, identifier, host)

    def refresh(self, *, now: float) -> None:
        """Note whose telemetry has become stale, and forget who has been away for too long."""
        for agent_id in _older(self._heard, now - self._rules.telemetry_max_age_s):
            del self._heard[agent_id]
            agent = self._agents[agent_id]
            agent.stale = True
            self._show(agent)
        for agent_id in _older(self._away, now - self._rules.absence_s):
            del self._away[agent_id]
            for identifier in self._agents.pop(agent_id).hosts:
                self._forget(identifier)

    def is_down(self, identifier: BackendId) -> bool:
        """Tell whether a host's own probes say that it is down.

        That its agent is away, or that launches fail there, says nothing of what runs on it.
        """
        agent, host = self._find(identifier)
        if agent is None or host is None or agent.connection is None:
            return False
        return not host.health.up and host.down != launches_fail

    def note_launched(self, identifier: BackendId, label: str) -> None:
        """Note the host text of the ``sessionUrl0`` that a host has answered."""
        self._note_seen(identifier, lambda seen: seen.launched(label))

    def note_set_up(self, identifier: BackendId, *, secret: bool) -> None:
        """Note whether a host has answered SETUP with a secret of the session."""
        self._note_seen(identifier, lambda seen: seen.set_up(secret=secret))

    def telling(self, identifier: BackendId) -> Telling:
        """Tell how sessions have to be kept from being mixed up at a host."""
        _, host = self._find(identifier)
        return Telling.APART if host is None else _telling(host)

    def missing_sessions(self, identifier: BackendId) -> int | None:
        """Tell how many of the sessions that a host's last report must include it did not count.

        None for a host that does not count its sessions.
        """
        _, host = self._find(identifier)
        if host is None or not host.counts_sessions:
            return None
        slots = self._slots.get(identifier, _NO_SLOTS)
        return max(0, len(slots.included) - slots.reported)

    def _note_seen(self, identifier: BackendId, change: Callable[[Seen], Seen]) -> None:
        agent, host = self._find(identifier)
        if agent is not None and host is not None:
            host.seen = change(host.seen)
            self._show_host(agent, identifier, host)

    def set_drains(self, targets: Iterable[str]) -> None:
        """Say which backend ids and agent ids take no new sessions, as the store lists them."""
        drains = frozenset(targets)
        changed, self._drains = drains ^ self._drains, drains
        for agent_id in sorted(set(map(agent_of, changed))):
            if agent_id in self._agents:
                self._show(self._agents[agent_id])

    def reserve(self, identifier: BackendId) -> Reservation:
        """Take a slot; `NoBackend` if the backend is gone or its last slot has been taken."""
        backend = self._candidates.get(identifier)
        if backend is None:
            raise NoBackend(Refusal.NO_BACKENDS, "The chosen computer has just gone offline.")
        if backend.sessions >= backend.max_sessions:
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
        if slots is not None:
            slots.start(reservation)

    def release(self, reservation: Reservation) -> None:
        """Give a slot back, for a launch that failed or a session that ended; twice is harmless."""
        identifier = reservation.backend_id
        slots = self._slots.get(identifier)
        if slots is not None:
            slots.release(reservation)
            if not slots.taken and self._candidates.get(identifier) is None:
                del self._slots[identifier]
            self._show_backend(identifier)

    def _hosts(self, offer: AgentOffering, former: _Agent | None) -> dict[BackendId, _Host]:
        if len(offer.hosts) > self._rules.max_hosts_per_agent:
            most = self._rules.max_hosts_per_agent
            raise InvalidOffer("too_many_hosts", f"An agent may offer {most} hosts at most.")
        if not is_valid_name(offer.region):
            raise InvalidOffer("bad_name", "The region must be 1-64 letters, digits or dashes.")
        if not (_within(offer.latitude, 90) and _within(offer.longitude, 180)):
            raise InvalidOffer("bad_place", "The agent's coordinates are nowhere on earth.")
        hosts: dict[BackendId, _Host] = {}
        for host in offer.hosts:
            identifier = backend_id(offer.agent_id, host.name)
            if identifier in hosts:
                raise InvalidOffer("duplicate_host", f"The host {host.name} is offered twice.")
            known = None if former is None else former.hosts.get(identifier)
            health = HostHealth(self._rules.health) if known is None else known.health
            hosts[identifier] = _Host(
                host, health, self._apps(host.apps), down=None if known is None else known.down
            )
            if known is not None:
                hosts[identifier].seen = known.seen
        return hosts

    def _place(self, offer: AgentOffering) -> Place | None:
        configured = self._regions.get(offer.region)
        if configured is not None or offer.latitude is None or offer.longitude is None:
            return configured
        return Place(offer.latitude, offer.longitude)

    def _apps(self, apps: tuple[AppOffer, ...]) -> AppOffers:
        shown = (replace(app, title=display_title(app.title)) for app in apps)
        return AppOffers(itertools.islice(shown, self._rules.max_apps_per_host))

    def _update(self, identifier: BackendId, host: _Host, status: HostStatus, now: float) -> None:
        host.health.note(answered=status.down is None, now=now)
        host.down = status.down or (None if host.health.up else host.down)
        host.gpu_memory = status.gpu_memory
        if status.apps is not None:
            apps = self._apps(status.apps)
            # The same object while they are the same, so that comparing them costs nothing.
            host.apps = host.apps if host.apps == apps else apps
        slots = self._slots.setdefault(identifier, Slots())
        host.counts_sessions = status.sessions is not None
        if status.sessions is not None:
            slots.report(status.sessions)
        if status.gpu_memory is not None:
            slots.measure(now=now, growth_s=self._rules.session_growth_s)

    def _note_heard(self, agent_id: str, now: float) -> None:
        self._away.pop(agent_id, None)
        self._heard[agent_id] = now
        self._heard.move_to_end(agent_id)

    def _forget(self, identifier: BackendId) -> None:
        backend = self._candidates.remove(identifier)
        self._transitions.append(Transition(identifier, backend.state, None, backend.trouble))
        slots = self._slots.get(identifier)
        if slots is not None:
            slots.report(0)
            if not slots.taken:
                del self._slots[identifier]

    def _find(self, identifier: BackendId) -> tuple[_Agent | None, _Host | None]:
        agent = self._agents.get(agent_of(identifier))
        return agent, None if agent is None else agent.hosts.get(identifier)

    def _take(self, identifier: BackendId) -> Reservation:
        reservation = Reservation(identifier)
        self._slots.setdefault(identifier, Slots()).taken.add(reservation)
        self._show_backend(identifier)
        return reservation

    def _show_backend(self, identifier: BackendId) -> None:
        agent, host = self._find(identifier)
        if agent is not None and host is not None:
            self._show_host(agent, identifier, host)

    def _show(self, agent: _Agent) -> None:
        for identifier, host in agent.hosts.items():
            self._show_host(agent, identifier, host)

    def _show_host(self, agent: _Agent, identifier: BackendId, host: _Host) -> None:
        """Bring what selection sees of a host up to date."""
        before = self._candidates.get(identifier)
        backend = self._backend(agent, identifier, host)
        if backend == before:
            return
        self._candidates.put(backend)
        was, state = None if before is None else before.state, backend.state
        if was is not state:
            self._transitions.append(Transition(identifier, was, state, backend.trouble))

    def _backend(self, agent: _Agent, identifier: BackendId, host: _Host) -> Backend:
        slots = self._slots.get(identifier, _NO_SLOTS)
        health, trouble = _health(agent, host)
        memory = host.gpu_memory if health is Health.HEALTHY else None
        need = self._rules.session_gpu_memory_bytes
        return Backend(
            id=identifier,
            agent_id=agent.offer.agent_id,
            host=host.offer.name,
            kind=host.offer.kind,
            region=agent.offer.region,
            place=agent.place,
            apps=host.apps,
            sessions=slots.sessions,
            max_sessions=_max_sessions(host),
            health=health,
            trouble=trouble,
            draining=identifier in self._drains or agent.offer.agent_id in self._drains,
            gpu_memory_share=_share(memory, need * slots.unsettled),
            gpu_memory_share_after=_share(memory, need * (slots.unsettled + 1)),
            rtt_s=None if agent.stale or agent.connection is None else agent.rtt_s,
        )


_NO_SLOTS = Slots()


def _health(agent: _Agent, host: _Host) -> tuple[Health, str | None]:
    if agent.connection is None:
        return Health.UNHEALTHY, tunnel_down
    if not host.health.up:
        return Health.UNHEALTHY, host.down
    if agent.stale:
        return Health.DEGRADED, telemetry_stale
    return Health.HEALTHY, None


def _telling(host: _Host) -> Telling:
    offer = host.offer
    return telling(
        offer.kind, host.seen, own_addresses=offer.own_addresses, by_address=offer.by_address
    )


def _max_sessions(host: _Host) -> int:
    most = host.offer.max_sessions
    return min(1, most) if _telling(host) is Telling.ALONE else most


def _share(memory: GpuMemory | None, more_bytes: int) -> float | None:
    if memory is None or memory.total <= 0:
        return None
    return min(1.0, (memory.used + more_bytes) / memory.total)


def _older(times: OrderedDict[str, float], than: float) -> list[str]:
    """Give who is in `times`, the longest ago first, with a time before `than`."""
    older = []
    for name, at in times.items():
        if at >= than:
            break
        older.append(name)
    return older


def _within(degrees: float | None, limit: int) -> bool:
    return degrees is None or -limit <= degrees <= limit
