"""The table of agents and hosts: who is there, how they are, and the slots given out at each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backends.apps import AppOffer, AppOffers
from backends.candidates import GpuLimits
from backends.errors import InvalidOffer, NoBackend
from backends.geography import Place
from backends.model import Backend, BackendId, Health, State
from backends.offerings import AgentOffering, GpuMemory, HostOffering, HostStatus
from backends.registry import ConnectionId, Registry, RegistryRules, Transition, launches_fail
from backends.selection import LaunchIntent, select
from backends.slots import Reservation
from backends.telling_apart import Telling
from tests.backends.backends_made import NOW

WOLF = BackendId("alpha/wolf")
DESKTOP = AppOffer("Desktop", 1)
GIB = 1 << 30
FINE = HostStatus("wolf", gpu_memory=GpuMemory(GIB, 8 * GIB))
DOWN = HostStatus("wolf", down="rtsp")
INTENT = LaunchIntent("client", "Desktop")


def host(name: str = "wolf", max_sessions: int = 2) -> HostOffering:
    return HostOffering(name, "wolf", max_sessions, (DESKTOP,))


def agent(agent_id: str = "alpha", *hosts: HostOffering) -> AgentOffering:
    return AgentOffering(agent_id, "eu-central", 50.1, 8.7, hosts or (host(),))


def only(registry: Registry, now: float = 0) -> Backend:
    (backend,) = registry.candidates(now=now)
    return backend


def connected(registry: Registry, now: float = 0) -> ConnectionId:
    return registry.agent_connected(agent(), now=now)


def changes(registry: Registry) -> list[tuple[State | None, State | None, str | None]]:
    return [(each.before, each.after, each.trouble) for each in registry.transitions()]


def is_empty(registry: Registry) -> bool:
    tables = (registry._agents, registry._heard, registry._away, registry._slots)
    return not any(tables) and not len(registry._candidates)


def test_an_agent_brings_its_hosts() -> None:
    registry = Registry()
    registry.agent_connected(agent("beta"), now=0)
    registry.agent_connected(agent("alpha", host("b"), host("a")), now=0)
    backends = list(registry.candidates(now=0))
    assert [each.id for each in backends] == ["alpha/a", "alpha/b", "beta/wolf"]
    assert backends[2] == Backend(
        id=BackendId("beta/wolf"),
        agent_id="beta",
        host="wolf",
        kind="wolf",
        region="eu-central",
        place=Place(50.1, 8.7),
        apps=AppOffers([DESKTOP]),
        sessions=0,
        max_sessions=2,
    )
    assert registry.transitions()[0] == Transition(
        BackendId("beta/wolf"), None, State.HEALTHY, None
    )
    assert len(registry.transitions()) == 0


def test_a_configured_region_is_where_the_configuration_says() -> None:
    registry = Registry(regions={"eu-central": Place(1, 2)})
    connected(registry)
    assert only(registry).place == Place(1, 2)


@pytest.mark.parametrize(("latitude", "longitude"), [(None, None), (50.0, None), (None, 8.0)])
def test_half_a_place_is_none(latitude: float | None, longitude: float | None) -> None:
    registry = Registry()
    registry.agent_connected(AgentOffering("a", "eu", latitude, longitude, (host(),)), now=0)
    assert only(registry).place is None


def test_an_agent_that_is_away_leaves_its_hosts_behind_for_a_while() -> None:
    registry = Registry()
    connection = connected(registry)
    registry.heartbeat("alpha", connection, [FINE], now=1, rtt_s=0.02)
    registry.transitions()
    assert registry.agent_gone("alpha", connection, now=10)
    away = only(registry, now=610)
    assert (away.health, away.trouble) == (Health.UNHEALTHY, "tunnel_down")
    assert (away.gpu_memory_share, away.rtt_s) == (None, None)
    assert changes(registry) == [(State.HEALTHY, State.UNHEALTHY, "tunnel_down")]
    assert not list(registry.candidates(now=610.1))
    assert changes(registry) == [(State.UNHEALTHY, None, "tunnel_down")]
    assert not registry.agent_gone("alpha", connection, now=611)
    assert is_empty(registry)


def test_hosts_that_can_be_woken_stay_known_however_long_they_sleep() -> None:
    registry = Registry(RegistryRules(lasting_agents=frozenset({"alpha"})))
    connection = connected(registry)
    assert registry.agent_gone("alpha", connection, now=10)
    assert only(registry, now=1e6).trouble == "tunnel_down"
    registry.agent_connected(agent("alpha", host("other")), now=1e6)
    assert only(registry, now=1e6).id == "alpha/other"


def test_an_agent_that_comes_back_in_time_is_not_forgotten() -> None:
    registry = Registry()
    registry.agent_gone("alpha", connected(registry), now=0)
    connected(registry, now=600)
    assert only(registry, now=601).health is Health.HEALTHY
    assert only(registry, now=1_500).health is Health.DEGRADED


def test_an_agent_that_comes_back_too_late_is_a_new_one() -> None:
    registry = Registry()
    registry.agent_gone("alpha", connected(registry), now=0)
    registry.transitions()
    connected(registry, now=601)
    assert changes(registry) == [
        (State.UNHEALTHY, None, "tunnel_down"),
        (None, State.HEALTHY, None),
    ]


def test_late_news_of_a_replaced_connection_changes_nothing() -> None:
    registry = Registry()
    old = connected(registry)
    new = registry.agent_connected(agent("alpha", host("other")), now=1)
    registry.transitions()
    assert not registry.agent_gone("alpha", old, now=2)
    registry.heartbeat("alpha", old, [HostStatus("other", sessions=2)], now=2)
    registry.heartbeat("unknown", old, [], now=2)
    assert [(each.id, each.sessions) for each in registry.candidates(now=2)] == [("alpha/other", 0)]
    assert registry.transitions() == ()
    assert registry.agent_gone("alpha", new, now=3)


def test_a_host_that_is_no_longer_offered_is_forgotten() -> None:
    registry = Registry()
    connection = registry.agent_connected(agent("alpha", host("a"), host("b"), host("c")), now=0)
    registry.heartbeat("alpha", connection, [HostStatus("a", sessions=1)], now=1)
    registry.transitions()
    registry.agent_connected(agent("alpha", host("c")), now=2)
    assert [(each.backend_id, each.after) for each in registry.transitions()] == [
        ("alpha/a", None),
        ("alpha/b", None),
    ]
    assert not registry._slots


def test_three_misses_in_a_row_take_a_host_out_and_its_return_is_damped() -> None:
    registry = Registry()
    connection = connected(registry)
    registry.transitions()

    def beat(status: HostStatus, times: int) -> Health:
        for _ in range(times):
            registry.heartbeat("alpha", connection, [status, HostStatus("other")], now=1)
        return only(registry).health

    assert beat(DOWN, 2) is Health.HEALTHY
    assert beat(DOWN, 1) is Health.UNHEALTHY
    assert only(registry).gpu_memory_share is None
    assert beat(FINE, 1) is Health.UNHEALTHY
    assert beat(FINE, 1) is Health.HEALTHY
    assert changes(registry) == [
        (State.HEALTHY, State.UNHEALTHY, "rtsp"),
        (State.UNHEALTHY, State.HEALTHY, None),
    ]
    assert beat(DOWN, 3) is Health.UNHEALTHY
    assert beat(FINE, 3) is Health.UNHEALTHY
    assert only(registry).trouble == "rtsp"
    assert beat(FINE, 1) is Health.HEALTHY


def test_a_reconnection_does_not_heal_a_fallen_host() -> None:
    registry = Registry()
    connection = connected(registry)
    for _ in range(3):
        registry.heartbeat("alpha", connection, [DOWN], now=1)
    registry.agent_gone("alpha", connection, now=2)
    connection = connected(registry, now=3)
    assert (only(registry, now=3).health, only(registry, now=3).trouble) == ("unhealthy", "rtsp")
    for _ in range(2):
        registry.heartbeat("alpha", connection, [FINE], now=4)
    assert only(registry, now=4).health is Health.HEALTHY


def test_failed_launches_are_missed_probes() -> None:
    registry = Registry()
    connection = connected(registry)
    registry.launch_failed(WOLF, now=1)
    registry.launch_failed(WOLF, now=1)
    assert only(registry, now=1).health is Health.HEALTHY
    registry.launch_failed(WOLF, now=2)
    assert (only(registry, now=2).health, only(registry).trouble) == (
        Health.UNHEALTHY,
        launches_fail,
    )
    assert not registry.is_down(WOLF), "what runs there may well go on"
    registry.heartbeat("alpha", connection, [DOWN], now=3)
    assert only(registry, now=3).trouble == "rtsp"
    for unknown in ("alpha/other", "gone/wolf"):
        registry.launch_failed(BackendId(unknown), now=3)
    assert len(registry.candidates(now=3)) == 1


def test_telemetry_grows_stale_after_three_heartbeats() -> None:
    registry = Registry()
    connection = connected(registry)
    registry.heartbeat("alpha", connection, [FINE], now=10, rtt_s=0.02)
    registry.transitions()
    fresh, stale = only(registry, now=40), only(registry, now=40.1)
    assert (fresh.gpu_memory_share, fresh.rtt_s, fresh.state) == (0.125, 0.02, State.HEALTHY)
    assert (stale.gpu_memory_share, stale.rtt_s, stale.state) == (None, None, State.DEGRADED)
    assert select(INTENT, registry.candidates(now=41), now=NOW).backend == stale
    registry.heartbeat("alpha", connection, [FINE], now=50, rtt_s=0.03)
    assert only(registry, now=50).rtt_s == 0.03
    assert changes(registry) == [
        (State.HEALTHY, State.DEGRADED, "telemetry_stale"),
        (State.DEGRADED, State.HEALTHY, None),
    ]


def test_only_whose_telemetry_is_old_is_degraded() -> None:
    registry = Registry()
    connections = {name: registry.agent_connected(agent(name), now=0) for name in "abc"}
    registry.heartbeat("a", connections["a"], [FINE], now=20)
    registry.agent_gone("b", connections["b"], now=25)
    assert [each.state for each in registry.candidates(now=35)] == [
        State.HEALTHY,
        State.UNHEALTHY,
        State.DEGRADED,
    ]
    assert [each.state for each in registry.candidates(now=51)] == [
        State.DEGRADED,
        State.UNHEALTHY,
        State.DEGRADED,
    ]


def test_gpu_memory_counts_sessions_that_may_still_grow_by_what_they_may_need() -> None:
    registry = Registry(RegistryRules(session_gpu_memory_bytes=GIB, session_growth_s=60))
    connection = connected(registry)

    def shares(used_gib: int, now: float) -> tuple[float | None, float | None]:
        measured = GpuMemory(used_gib * GIB, 10 * GIB)
        status = HostStatus("wolf", sessions=1, gpu_memory=measured)
        registry.heartbeat("alpha", connection, [status], now=now)
        backend = only(registry, now)
        return backend.gpu_memory_share, backend.gpu_memory_share_after

    assert shares(2, now=0) == (0.2, 0.3)
    launch = registry.reserve(WOLF)
    assert only(registry).gpu_memory_share == 0.3
    registry.started(launch)
    assert shares(2, now=10) == (0.3, 0.4)
    assert shares(3, now=69) == (0.4, 0.5)
    assert shares(3, now=70) == (0.3, 0.4)
    assert shares(10, now=80) == (1.0, 1.0)


def test_memory_of_a_gpu_without_any_is_not_known() -> None:
    registry = Registry()
    status = HostStatus("wolf", gpu_memory=GpuMemory(0, 0))
    registry.heartbeat("alpha", connected(registry), [status], now=0)
    assert only(registry).gpu_memory_share is None


def test_apps_change_with_a_heartbeat_or_stay() -> None:
    registry = Registry(RegistryRules(max_apps_per_host=1))
    connection = connected(registry)
    new = (AppOffer("Ste\x00am", 2), AppOffer("One too many", 3))
    registry.heartbeat("alpha", connection, [HostStatus("wolf", apps=new)], now=1)
    registry.heartbeat("alpha", connection, [HostStatus("wolf")], now=2)
    version = registry.candidates(now=2).apps_version
    registry.heartbeat("alpha", connection, [HostStatus("wolf", apps=new)], now=3)
    assert only(registry).apps == AppOffers([AppOffer("Ste am", 2)])
    assert registry.candidates(now=3).apps_version == version


@pytest.mark.parametrize("target", ["alpha", "alpha/wolf"])
def test_drains_name_a_host_or_all_of_an_agent(target: str) -> None:
    registry = Registry()
    registry.set_drains([target, "never/seen"])
    connected(registry)
    assert only(registry).draining
    registry.set_drains([target])
    assert only(registry).draining
    registry.set_drains([])
    assert not only(registry).draining
    assert changes(registry) == [
        (None, State.DRAINING, None),
        (State.DRAINING, State.HEALTHY, None),
    ]


def test_a_drain_of_one_host_is_no_drain_of_its_neighbour() -> None:
    registry = Registry()
    registry.agent_connected(agent("alpha", host("a"), host("b")), now=0)
    registry.set_drains(["alpha/a"])
    assert [each.draining for each in registry.candidates(now=0)] == [True, False]


@pytest.mark.parametrize(
    ("offer", "reason"),
    [
        (agent("alpha", host("a/b")), "bad_name"),
        (agent("al/pha"), "bad_name"),
        (agent("alpha", host("a"), host("a")), "duplicate_host"),
        (agent("alpha", host("a"), host("b"), host("c")), "too_many_hosts"),
        (AgentOffering("alpha", "e\nu", None, None, ()), "bad_name"),
        (AgentOffering("alpha", "eu", 91, None, ()), "bad_place"),
        (AgentOffering("alpha", "eu", None, float("nan"), ()), "bad_place"),
    ],
)
def test_a_bad_offer_is_refused_whole(offer: AgentOffering, reason: str) -> None:
    registry = Registry(RegistryRules(max_hosts_per_agent=2))
    connected(registry)
    with pytest.raises(InvalidOffer) as caught:
        registry.agent_connected(offer, now=0)
    assert caught.value.reason == reason
    assert only(registry).id == WOLF


def test_agents_are_bounded_and_may_still_reconnect() -> None:
    registry = Registry(RegistryRules(max_agents=1))
    connected(registry)
    with pytest.raises(InvalidOffer):
        registry.agent_connected(agent("beta"), now=0)
    connection = connected(registry)
    registry.agent_gone("alpha", connection, now=0)
    registry.agent_connected(agent("beta"), now=601)  # alpha's place is free by then


def test_two_launches_never_take_the_last_slot() -> None:
    registry = Registry()
    registry.agent_connected(agent("alpha", host(max_sessions=1)), now=0)
    first = registry.reserve(WOLF)
    with pytest.raises(NoBackend) as caught:
        registry.reserve(WOLF)
    assert caught.value.reason == "all_full"
    registry.release(first)
    registry.reserve(WOLF)


def test_a_backend_that_went_away_has_no_slots() -> None:
    with pytest.raises(NoBackend) as caught:
        Registry().reserve(WOLF)
    assert caught.value.reason == "no_backends"


async def test_concurrent_launches_never_exceed_the_slots() -> None:
    registry = Registry()
    for name in "abc":
        registry.agent_connected(agent(name, host("x", 1), host("y", 3)), now=0)
    running: dict[BackendId, int] = dict.fromkeys(
        (each.id for each in registry.candidates(now=0)), 0
    )
    started = refused = 0

    async def play(turns: int) -> None:
        nonlocal started, refused
        try:
            backend = select(INTENT, registry.candidates(now=0), now=NOW).backend
            reservation = registry.reserve(backend.id)
        except NoBackend:
            refused += 1
            return
        running[backend.id] += 1
        assert running[backend.id] <= backend.max_sessions
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        registry.started(reservation)
        await trio.lowlevel.checkpoint()
        started += 1
        running[backend.id] -= 1
        registry.release(reservation)

    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(play, number % 7)
            if number % 20 == 19:
                await trio.lowlevel.checkpoint()
    assert started + refused == 60
    assert started > 12
    assert refused > 0
    assert [each.sessions for each in registry.candidates(now=0)] == [0] * 6


def report(registry: Registry, connection: ConnectionId, sessions: int | None) -> int:
    registry.heartbeat("alpha", connection, [HostStatus("wolf", sessions=sessions)], now=1)
    return only(registry).sessions


def test_sessions_started_at_the_host_directly_count() -> None:
    registry = Registry()
    connection = connected(registry)
    assert report(registry, connection, 1) == 1
    launching = registry.reserve(WOLF)
    assert only(registry).sessions == 2
    assert report(registry, connection, 1) == 2  # still launching: not in the report
    registry.started(launching)
    assert report(registry, connection, 2) == 2
    assert report(registry, connection, None) == 2
    registry.release(launching)
    assert only(registry).sessions == 1  # and not first after the next report


def test_slots_outlive_the_connection() -> None:
    registry = Registry()
    connection = connected(registry)
    reservation = registry.reserve(WOLF)
    registry.started(reservation)
    report(registry, connection, 1)
    registry.agent_gone("alpha", connection, now=1)
    connected(registry, now=2)
    assert only(registry).sessions == 1
    registry.release(reservation)
    assert only(registry).sessions == 0


def test_slots_outlive_even_what_is_forgotten_and_then_leave_nothing() -> None:
    registry = Registry()
    connection = connected(registry)
    reservation, ended = registry.reserve(WOLF), registry.restore(WOLF)
    report(registry, connection, 2)
    registry.agent_gone("alpha", connection, now=1)
    registry.refresh(now=1_000)
    registry.started(reservation)
    registry.release(ended)
    connection = connected(registry, now=1_001)
    assert only(registry, now=1_001).sessions == 1
    registry.agent_gone("alpha", connection, now=1_002)
    registry.refresh(now=2_000)
    registry.release(reservation)
    registry.release(reservation)
    registry.started(reservation)
    assert is_empty(registry)


def test_restored_sessions_may_exceed_the_limit() -> None:
    registry = Registry()
    registry.restore(WOLF)
    registry.agent_connected(agent("alpha", host(max_sessions=0)), now=0)
    assert only(registry).sessions == 1


@dataclass
class HostModel:
    """What the probes of a host should add up to, in the plainest way."""

    up: bool = True
    misses: int = 0
    answers: int = 0
    needed: int = 1

    def note(self, answered: bool) -> None:
        self.misses = 0 if answered else self.misses + 1
        self.answers = self.answers + 1 if answered else 0
        if self.up and self.misses == 3:
            self.up, self.needed = False, min(16, 2 * self.needed)
        elif not self.up and self.answers >= self.needed:
            self.up = True


@dataclass
class AgentModel:
    """An agent, and what it has told."""

    hosts: dict[BackendId, HostModel]
    connection: ConnectionId | None
    heard_at: float
    memory: float | None = None


@dataclass
class Model:
    """What the registry should know."""

    now: float = 0.0
    agents: dict[str, AgentModel] = field(default_factory=dict)
    drains: set[str] = field(default_factory=set)
    held: list[Reservation] = field(default_factory=list)

    def forget_the_absent(self) -> None:
        for name, agent in list(self.agents.items()):
            if agent.connection is None and self.now - agent.heard_at > 600:
                del self.agents[name]

    def state(self, name: str, identifier: BackendId) -> State:
        agent = self.agents[name]
        if agent.connection is None or not agent.hosts[identifier].up:
            return State.UNHEALTHY
        if {name, identifier} & self.drains:
            return State.DRAINING
        stale = self.now - agent.heard_at > 30
        return State.DEGRADED if stale else State.HEALTHY


NAMES = st.sampled_from(["a", "b", "c"])


class Fleet(RuleBasedStateMachine):
    """However everything interleaves, the registry knows what a plain model knows."""

    max_sessions = 2

    def __init__(self) -> None:
        super().__init__()
        rules = RegistryRules(gpu=GpuLimits(), session_gpu_memory_bytes=GIB // 4)
        self.registry = Registry(rules)
        self.model = Model()
        self.shown: dict[BackendId, State] = {}

    @rule(name=NAMES, hosts=st.sets(st.sampled_from("xy"), min_size=1))
    def connect(self, name: str, hosts: set[str]) -> None:
        model = self.model
        model.forget_the_absent()
        known = model.agents[name].hosts if name in model.agents else {}
        offer = agent(name, *(host(each, self.max_sessions) for each in sorted(hosts)))
        connection = self.registry.agent_connected(offer, now=model.now)
        ids = [BackendId(f"{name}/{each}") for each in hosts]
        model.agents[name] = AgentModel(
            {each: known.get(each, HostModel()) for each in ids}, connection, model.now
        )

    @rule(name=NAMES)
    def go(self, name: str) -> None:
        known = self.model.agents.get(name)
        if known is not None and known.connection is not None:
            assert self.registry.agent_gone(name, known.connection, now=self.model.now)
            known.connection, known.heard_at = None, self.model.now

    @rule(
        name=NAMES,
        answered=st.booleans(),
        times=st.sampled_from([1, 1, 3]),
        sessions=st.none() | st.integers(0, 3),
        used=st.sampled_from([None, 0, 2, 7]),
    )
    def beat(
        self, name: str, answered: bool, times: int, sessions: int | None, used: int | None
    ) -> None:
        known = self.model.agents.get(name)
        if known is None or known.connection is None:
            return
        memory = None if used is None else GpuMemory(used * GIB, 8 * GIB)
        for _ in range(times):
            statuses = [
                HostStatus(each[-1], None if answered else "http", sessions, None, memory)
                for each in known.hosts
            ]
            self.registry.heartbeat(name, known.connection, statuses, now=self.model.now)
            for each in known.hosts.values():
                each.note(answered)
        known.heard_at = self.model.now
        known.memory = None if used is None else used / 8

    @rule(seconds=st.sampled_from([1.0, 10.0, 31.0, 300.0, 601.0]))
    def wait(self, seconds: float) -> None:
        # Short enough for no fall ever to be forgiven within one run.
        if self.model.now < 1_200:
            self.model.now += seconds

    @rule(drains=st.sets(st.sampled_from(["a", "a/x", "b/y", "z"])))
    def drain(self, drains: set[str]) -> None:
        self.registry.set_drains(drains)
        self.model.drains = drains

    @rule(regions=st.none() | st.just(frozenset({"elsewhere"})))
    def launch(self, regions: frozenset[str] | None) -> None:
        candidates = self.registry.candidates(now=self.model.now)
        self.model.forget_the_absent()
        able = [
            each.id
            for each in candidates
            if self.model.state(each.agent_id, each.id) in (State.HEALTHY, State.DEGRADED)
            and each.sessions < self.max_sessions
            and (each.gpu_memory_share_after or 0) <= 0.97
        ]
        try:
            backend = select(
                LaunchIntent("client", "Desktop", regions=regions), candidates, now=NOW
            ).backend
        except NoBackend:
            assert regions is not None or not able
            return
        assert backend.id in able
        assert regions is None
        self.model.held.append(self.registry.reserve(backend.id))

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), started=st.booleans())
    def go_on(self, data: st.DataObject, started: bool) -> None:
        reservation = data.draw(st.sampled_from(self.model.held))
        if started:
            self.registry.started(reservation)
            return
        self.model.held.remove(reservation)
        self.registry.release(reservation)
        name = reservation.backend_id.partition("/")[0]
        known = self.model.agents.get(name)
        if known is not None and reservation.backend_id in known.hosts:
            self.registry.launch_failed(reservation.backend_id, now=self.model.now)
            known.hosts[reservation.backend_id].note(answered=False)

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        model = self.model
        backends = {each.id: each for each in self.registry.candidates(now=model.now)}
        model.forget_the_absent()
        assert {
            (each, model.state(name, each))
            for name, known in model.agents.items()
            for each in known.hosts
        } == {(each.id, each.state) for each in backends.values()}
        for each in backends.values():
            held = sum(one.backend_id == each.id for one in model.held)
            assert held <= min(self.max_sessions, each.sessions)
            measured = model.agents[each.agent_id].memory
            if each.gpu_memory_share is not None:
                assert measured is not None
                assert measured <= each.gpu_memory_share <= measured + held / 32
            else:
                assert measured is None or each.health is not Health.HEALTHY

    @invariant()
    def transitions_lead_from_what_was_told_to_what_is(self) -> None:
        for each in self.registry.transitions():
            assert self.shown.get(each.backend_id) == each.before != each.after
            if each.after is None:
                del self.shown[each.backend_id]
            else:
                self.shown[each.backend_id] = each.after
            assert (each.trouble is None) <= (each.after is not State.UNHEALTHY)
        assert self.shown == {each.id: each.state for each in self.registry._candidates}

    def teardown(self) -> None:
        for name, known in self.model.agents.items():
            if known.connection is not None:
                self.registry.agent_gone(name, known.connection, now=self.model.now)
        self.registry.refresh(now=self.model.now + 601)
        for each in self.model.held:
            self.registry.release(each)
        assert is_empty(self.registry)


Fleet.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestFleet = Fleet.TestCase


def offered_at_one_address(registry: Registry, now: float = 0, **told: bool) -> ConnectionId:
    offer = replace(host(max_sessions=3), own_addresses=False, **told)
    return registry.agent_connected(agent("alpha", offer), now=now)


def test_a_host_that_cannot_tell_sessions_apart_takes_one_as_soon_as_that_is_seen() -> None:
    registry = Registry()
    offered_at_one_address(registry)
    registry.reserve(WOLF)
    assert (only(registry).max_sessions, registry.telling(WOLF)) == (3, Telling.IN_TURN)
    registry.note_set_up(WOLF, secret=False)
    assert (only(registry).max_sessions, registry.telling(WOLF)) == (1, Telling.ALONE)
    with pytest.raises(NoBackend):
        registry.reserve(WOLF)


def test_what_was_seen_of_a_host_outlives_its_agents_connection() -> None:
    registry = Registry()
    offered_at_one_address(registry)
    registry.note_launched(WOLF, "7.7.7.7")
    registry.note_set_up(WOLF, secret=True)
    offered_at_one_address(registry, now=5)
    registry.note_launched(WOLF, "9.9.9.9")
    assert (only(registry).max_sessions, registry.telling(WOLF)) == (3, Telling.APART)


def test_an_operator_can_say_that_a_host_goes_by_address() -> None:
    registry = Registry()
    offered_at_one_address(registry, by_address=True)
    assert only(registry).max_sessions == 1


def test_nothing_is_noted_of_a_host_that_is_not_there() -> None:
    registry = Registry()
    registry.note_set_up(WOLF, secret=False)
    assert registry.telling(WOLF) is Telling.APART
    assert registry.missing_sessions(WOLF) is None


def test_sessions_that_a_report_ought_to_include_and_does_not_are_missing() -> None:
    registry = Registry()
    connection = connected(registry)
    started = [registry.reserve(WOLF) for _ in range(2)]
    registry.started(started[0])
    registry.heartbeat("alpha", connection, [FINE], now=1)
    assert registry.missing_sessions(WOLF) is None, "it does not count"
    registry.heartbeat("alpha", connection, [replace(FINE, sessions=1)], now=2)
    assert registry.missing_sessions(WOLF) == 0
    registry.started(started[1])
    assert registry.missing_sessions(WOLF) == 0, "too young for the last report"
    registry.heartbeat("alpha", connection, [replace(FINE, sessions=0)], now=3)
    assert registry.missing_sessions(WOLF) == 2
    registry.heartbeat("alpha", connection, [replace(FINE, sessions=5)], now=4)
    assert registry.missing_sessions(WOLF) == 0


def test_other_limits_and_places_hold_at_once_for_who_is_there() -> None:
    registry = Registry()
    connection = connected(registry)
    nearly_full = HostStatus("wolf", gpu_memory=GpuMemory(7 * GIB, 8 * GIB))
    registry.heartbeat("alpha", connection, [nearly_full], now=1)
    assert registry.candidates(now=1).exclusion(WOLF) is None
    before = registry.candidates(now=1).place("eu-central")

    rules = RegistryRules(gpu=GpuLimits(crowded=0.5, full=0.8), absence_s=5)
    registry.apply(rules, {"eu-central": Place(1, 2)})

    candidates = registry.candidates(now=1)
    assert candidates.exclusion(WOLF) is not None
    assert (before, candidates.place("eu-central")) == (Place(50.1, 8.7), Place(1, 2))
    registry.agent_gone("alpha", connection, now=10)
    assert len(registry.candidates(now=15)) == 1
    assert len(registry.candidates(now=16)) == 0
