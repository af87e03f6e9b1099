"""A day of a hundred hosts in five regions and of players all over the world: no sockets, no waits.

``python -m tests.backends.simulated_day`` prints what came of it. The registry and selection are
used as the edge uses them. What must never happen is looked for independently of them: in the
hosts themselves, and in a plain look at every backend at each decision.

To be fast, heartbeats come every six minutes instead of every ten seconds, and all that counts in
heartbeats is as much slower: games take ten minutes until they need all of their memory.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from backends.candidates import Candidates
from backends.errors import NoBackend
from backends.geography import ClientPlace, LocatedBy, Place
from backends.model import Backend, BackendId
from backends.records import StickyRecord
from backends.registry import Registry, RegistryRules
from backends.selection import Decision, LaunchIntent, Reason, select
from bench.naive_select import is_eligible, load
from tests.backends.simulated_world import (
    CITIES,
    DAY_S,
    GAMES,
    GIB,
    GROWTH_S,
    HEARTBEAT_S,
    HOUR_S,
    MOST_OF_GPU,
    REGIONS,
    Agent,
    Host,
    Session,
    busyness,
)

MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
NOTICED_AFTER_S = 20.0
"""How long after a tunnel broke the edge knows."""
LAUNCH_S = 4.0
STICKY_S = 6 * HOUR_S
MAX_ATTEMPTS = 3
RULES = RegistryRules(
    telemetry_max_age_s=3 * HEARTBEAT_S,
    session_gpu_memory_bytes=2 * GIB,
    # A session is measured first up to a heartbeat after its start, and grows no longer than this.
    session_growth_s=GROWTH_S,
)


class RuleBroken(AssertionError):
    """What must never happen has happened."""


@dataclass
class Report:
    """What came of a day."""

    launches: int = 0
    nearest: int = 0
    fullest_share: float = 0.0
    most_at_once: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    ended_early: Counter[str] = field(default_factory=Counter)
    transitions: Counter[str] = field(default_factory=Counter)
    failed_attempts: int = 0
    moved_on: int = 0
    sticky_lost: int = 0
    heartbeats: int = 0

    @property
    def started(self) -> int:
        return sum(self.reasons.values())

    def __str__(self) -> str:
        def listed(counts: Counter[str]) -> str:
            return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"

        return "\n".join(
            (
                f"launches             {self.launches}, started {self.started}",
                f"  by reason          {listed(self.reasons)}",
                f"  in nearest region  {100 * self.nearest / self.started:.1f} %",
                f"  refused            {listed(self.refusals)}",
                f"  failed attempts    {self.failed_attempts}, then elsewhere {self.moved_on}",
                f"  last host would not do  {self.sticky_lost}",
                f"most at once         {self.most_at_once}",
                f"fullest GPU          {self.fullest_share:.4f}",
                f"sessions cut short   {listed(self.ended_early)}",
                f"hosts' transitions   {listed(self.transitions)}",
                f"heartbeats           {self.heartbeats}",
            )
        )


class Day:
    """The hosts, the players, and what happens to them; `run` lets it pass."""

    def __init__(
        self, rules: RegistryRules = RULES, *, seed: int = 2, launches: int = 4_500
    ) -> None:
        self._random = random.Random(seed)
        self._registry = Registry(rules, REGIONS)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._now = 0.0
        self._stickies: dict[str, StickyRecord] = {}
        self._sessions: dict[str, Session] = {}
        self._agents = [self._agent(number) for number in range(50)]
        self._hosts = {
            BackendId(f"{agent.name}/{host.name}"): (agent, host)
            for agent in self._agents
            for host in agent.hosts
        }
        self.report = Report()
        for agent in self._agents:
            self._connect(agent)
            self._at(self._random.uniform(0, HEARTBEAT_S), lambda agent=agent: self._beat(agent))
        weights = sum(weight for _, _, weight in CITIES.values())
        for city, (_, _, weight) in CITIES.items():
            # A city is half as busy on average over a day as at its busiest.
            self._plan_player(city, 2 * launches * weight / weights / DAY_S)
        self._plan_trouble()

    def run(self) -> Report:
        """Let the day pass, or raise `RuleBroken`."""
        while self._events[0][0] <= DAY_S:
            self._now, _, happens = heapq.heappop(self._events)
            happens()
            for change in self._registry.transitions():
                self.report.transitions[f"to {change.after or 'unknown'}"] += 1
        return self.report

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._count), what))

    # What there is.

    def _agent(self, number: int) -> Agent:
        hosts = [self._host(f"host-{index}") for index in range(2)]
        region = list(REGIONS)[number % len(REGIONS)]
        return Agent(f"agent-{number:02}", region, hosts, self._random.uniform(0.002, 0.02))

    def _host(self, name: str) -> Host:
        slots, gib = self._random.randint(2, 6), self._random.choice([8, 12, 16, 24])
        base = self._random.uniform(0.05, 0.25) * gib
        tells = self._random.random() > 0.15
        if not tells:
            # Of whose memory nobody tells, the owner has to allow no more than it holds.
            slots = max(1, min(slots, int((MOST_OF_GPU * gib - base) / 2)))
        return Host(name, slots, gib * GIB, base * GIB, tells)

    def _plan_player(self, city: str, most_per_s: float) -> None:
        """Let the next player of a city come, and plan the one after: a Poisson process."""
        latitude, longitude, weight = CITIES[city]

        def come() -> None:
            if self._random.random() < busyness(self._now, longitude):
                north, east = self._random.gauss(0, 0.7), self._random.gauss(0, 0.7)
                player = f"{city} {self._random.randrange(20 * weight)}"
                self._arrive(player, Place(latitude + north, longitude + east))
            self._plan_player(city, most_per_s)

        self._at(self._now + self._random.expovariate(most_per_s), come)

    def _plan_trouble(self) -> None:
        for _, host in self._random.sample(list(self._hosts.values()), 25):
            for _ in range(self._random.randint(1, 2)):
                when = self._random.uniform(0, DAY_S)
                self._at(when, lambda host=host: self._break(host))
        for agent in self._random.sample(self._agents, 20):
            self._at(self._random.uniform(0, DAY_S), lambda agent=agent: self._cut(agent))
        for _, host in self._random.sample(list(self._hosts.values()), 10):
            when = self._random.uniform(0, DAY_S)
            self._at(when, lambda host=host: self._drain(host, drained=True))
            self._at(when + 2 * HOUR_S, lambda host=host: self._drain(host, drained=False))

    # Hosts and their agents.

    def _connect(self, agent: Agent) -> None:
        agent.cut = False
        agent.connection = self._registry.agent_connected(agent.offering, now=self._now)
        self._tell(agent)

    def _beat(self, agent: Agent) -> None:
        for host in agent.hosts:
            self._look_at(host)
        if not agent.cut:
            self._tell(agent)
        self._at(self._now + HEARTBEAT_S, lambda: self._beat(agent))

    def _tell(self, agent: Agent) -> None:
        self.report.heartbeats += 1
        statuses = [host.status(self._now) for host in agent.hosts]
        assert agent.connection is not None
        self._registry.heartbeat(
            agent.name, agent.connection, statuses, now=self._now, rtt_s=agent.rtt_s
        )

    def _look_at(self, host: Host) -> None:
        share = host.memory(self._now) / host.gpu_bytes
        self.report.fullest_share = max(self.report.fullest_share, share)
        if share > MOST_OF_GPU + 1e-9:
            self._rule_broken(f"{host.name}'s GPU memory is at {share:.3f}")
        if len(host.sessions) > host.slots:
            self._rule_broken(f"{host.name} has {len(host.sessions)} of {host.slots} sessions")

    def _break(self, host: Host) -> None:
        host.broken = True
        for session in list(host.sessions):
            self._stickies.pop(session.player, None)
            self._end(session, "host broken")
        self._at(self._now + self._random.uniform(0.3, 1.5) * HOUR_S, lambda: self._mend(host))

    def _mend(self, host: Host) -> None:
        host.broken = False

    def _cut(self, agent: Agent) -> None:
        agent.cut = True
        self._at(self._now + NOTICED_AFTER_S, lambda: self._lose(agent))
        self._at(self._now + self._random.uniform(60, 1_800), lambda: self._connect(agent))

    def _lose(self, agent: Agent) -> None:
        assert agent.connection is not None
        self._registry.agent_gone(agent.name, agent.connection, now=self._now)
        for host in agent.hosts:
            for session in list(host.sessions):
                self._end(session, "tunnel down")

    def _drain(self, host: Host, *, drained: bool) -> None:
        host.drained = drained
        self._registry.set_drains(name for name, (_, each) in self._hosts.items() if each.drained)

    # Players.

    def _arrive(self, player: str, place: Place) -> None:
        if player in self._sessions:
            return
        self.report.launches += 1
        title = self._random.choice(list(GAMES))
        intent = LaunchIntent(player, title, ClientPlace(LocatedBy.DATABASE, None, place))
        for attempt in range(MAX_ATTEMPTS):
            decision = self._choose(intent)
            if decision is None:
                return
            backend = decision.backend
            reservation = self._registry.reserve(backend.id)
            agent, host = self._hosts[backend.id]
            if not (agent.cut or host.broken):
                self.report.moved_on += attempt > 0
                self._launch(Session(player, host, reservation, GAMES[title] * GIB), decision)
                return
            self.report.failed_attempts += 1
            self._registry.release(reservation)
            self._registry.launch_failed(backend.id, now=self._now)
            intent = replace(intent, tried=intent.tried | {backend.id})
        self.report.refusals["too_many_attempts"] += 1

    def _choose(self, intent: LaunchIntent) -> Decision | None:
        candidates = self._registry.candidates(now=self._now)
        sticky = self._stickies.get(intent.client)
        try:
            decision = select(intent, candidates, sticky=sticky, now=self._time())
        except NoBackend as error:
            self.report.refusals[error.reason] += 1
            if any(able(candidates, intent)):
                self._rule_broken(f"refused though there is room: {error}")
            return None
        self._judge(intent, candidates, sticky, decision)
        return decision

    def _judge(
        self,
        intent: LaunchIntent,
        candidates: Candidates,
        sticky: StickyRecord | None,
        decision: Decision,
    ) -> None:
        """Look at every backend to see that the decision was the right one."""
        region = decision.backend.region
        if not is_eligible(decision.backend, intent.app_title.lower(), intent):
            self._rule_broken(f"{decision.backend.id} was chosen though it cannot take it")
        if sticky is not None and sticky.expires_at > self._time():
            last = candidates.get(sticky.backend_id)
            if last is not None and is_eligible(last, intent.app_title.lower(), intent):
                if decision.backend.id != sticky.backend_id:
                    self._rule_broken(f"{intent.client} was not sent to where it played last")
                return
            self.report.sticky_lost += 1
        ways = {name: distance(intent, name) for name in REGIONS}
        nearer = {name for name, way in ways.items() if way < ways[region] - 50}
        if nearer:
            crowded_too = load(decision.backend)[0] == 2
            for backend in able(candidates, intent):
                if backend.region in nearer and (crowded_too or load(backend)[0] != 2):
                    self._rule_broken(f"{backend.id} is nearer than {decision.backend.id}")
        nearest_here = {b.region for b in candidates} & nearer
        if (decision.reason is Reason.SPILLED) != bool(nearest_here):
            self._rule_broken(f"{decision.backend.id} was chosen as {decision.reason}")

    def _launch(self, session: Session, decision: Decision) -> None:
        ways = {name: distance_from(decision.place, name) for name in REGIONS}
        self.report.nearest += ways[decision.backend.region] == min(ways.values())
        self.report.reasons[decision.reason] += 1
        self._sessions[session.player] = session
        session.host.sessions.add(session)
        self.report.most_at_once = max(self.report.most_at_once, len(self._sessions))
        self._look_at(session.host)
        self._at(self._now + LAUNCH_S, lambda: self._start(session, decision.backend.id))
        minutes = min(480.0, 5 + self._random.expovariate(1 / 115))
        self._at(self._now + 60 * minutes, lambda: self._end(session))

    def _start(self, session: Session, identifier: BackendId) -> None:
        if session in session.host.sessions:
            session.started_at = self._now
            self._registry.started(session.reservation)
            expires_at = self._time() + timedelta(seconds=STICKY_S)
            self._stickies[session.player] = StickyRecord(session.player, identifier, expires_at)

    def _end(self, session: Session, early: str | None = None) -> None:
        if session in session.host.sessions:
            # Memory only grows in between: so no moment is overlooked at which there was more.
            self._look_at(session.host)
            session.host.sessions.discard(session)
            del self._sessions[session.player]
            self._registry.release(session.reservation)
            if early is not None:
                self.report.ended_early[early] += 1

    def _time(self) -> datetime:
        return MIDNIGHT + timedelta(seconds=self._now)

    def _rule_broken(self, what: str) -> None:
        raise RuleBroken(f"{self._time():%H:%M:%S} {what}")


def distance(intent: LaunchIntent, region: str) -> float:
    return distance_from(intent.place, region)


def distance_from(place: ClientPlace, region: str) -> float:
    return place.distance_km(region, REGIONS[region])


def able(candidates: Candidates, intent: LaunchIntent) -> Iterator[Backend]:
    """Look at every backend."""
    title = intent.app_title.lower()
    return (backend for backend in candidates if is_eligible(backend, title, intent))


if __name__ == "__main__":
    print(Day().run())
