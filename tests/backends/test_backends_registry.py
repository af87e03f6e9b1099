"""The table of connected agents, and the slots given out at each host."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backends.errors import InvalidOffer, NoBackend
from backends.model import AppOffer, Backend, BackendId
from backends.registry import (
    AgentOffering,
    ConnectionId,
    HostOffering,
    HostStatus,
    Registry,
    Reservation,
)

WOLF = BackendId("alpha/wolf")
DESKTOP = AppOffer("Desktop", 1)


def host(name: str = "wolf", max_sessions: int = 2) -> HostOffering:
    return HostOffering(name, "wolf", max_sessions, (DESKTOP,))


def agent(agent_id: str = "alpha", *hosts: HostOffering) -> AgentOffering:
    return AgentOffering(agent_id, "eu-central", 50.1, 8.7, hosts or (host(),))


def only(registry: Registry, now: float = 0) -> Backend:
    (backend,) = registry.snapshot(now=now)
    return backend


def connected(registry: Registry) -> ConnectionId:
    return registry.agent_connected(agent(), now=0)


def test_an_agent_brings_its_hosts() -> None:
    registry = Registry()
    registry.agent_connected(agent("beta"), now=0)
    registry.agent_connected(agent("alpha", host("b"), host("a")), now=0)
    backends = registry.snapshot(now=0)
    assert [each.id for each in backends] == ["alpha/a", "alpha/b", "beta/wolf"]
    assert backends[2] == Backend(
        id=BackendId("beta/wolf"),
        agent_id="beta",
        host="wolf",
        kind="wolf",
        region="eu-central",
        latitude=50.1,
        longitude=8.7,
        apps=(DESKTOP,),
        sessions=0,
        max_sessions=2,
        healthy=True,
        draining=False,
    )


def test_an_agent_takes_its_hosts_along() -> None:
    registry = Registry()
    connection = connected(registry)
    assert registry.agent_gone("alpha", connection)
    assert registry.snapshot(now=0) == ()
    assert not registry.agent_gone("alpha", connection)


def test_late_news_of_a_replaced_connection_changes_nothing() -> None:
    registry = Registry()
    old = connected(registry)
    new = registry.agent_connected(agent("alpha", host("other")), now=1)
    assert not registry.agent_gone("alpha", old)
    assert registry.heartbeat("alpha", old, [HostStatus("other", reachable=False)], now=2) == ()
    assert [each.id for each in registry.snapshot(now=2)] == ["alpha/other"]
    assert registry.snapshot(now=2)[0].healthy
    assert registry.agent_gone("alpha", new)


def test_a_heartbeat_tells_whose_health_changed() -> None:
    registry = Registry()
    connection = connected(registry)
    down = [HostStatus("wolf", reachable=False), HostStatus("never-offered", reachable=False)]
    (changed,) = registry.heartbeat("alpha", connection, down, now=1)
    assert (changed.id, changed.healthy) == (WOLF, False)
    assert registry.heartbeat("alpha", connection, down, now=2) == ()
    (back,) = registry.heartbeat("alpha", connection, [HostStatus("wolf", reachable=True)], now=3)
    assert back.healthy


def test_a_heartbeat_brings_telemetry_that_grows_stale() -> None:
    registry = Registry(telemetry_max_age_s=30)
    status = HostStatus("wolf", reachable=True, gpu_memory_share=0.5)
    registry.heartbeat("alpha", connected(registry), [status], now=10, rtt_s=0.02)
    fresh, stale = only(registry, now=40), only(registry, now=40.1)
    assert (fresh.gpu_memory_share, fresh.rtt_s) == (0.5, 0.02)
    assert (stale.gpu_memory_share, stale.rtt_s) == (None, None)
    assert stale.healthy


def test_apps_change_with_a_heartbeat_or_stay() -> None:
    registry = Registry(max_apps_per_host=1)
    connection = connected(registry)
    new = (AppOffer("Ste\x00am", 2), AppOffer("One too many", 3))
    registry.heartbeat("alpha", connection, [HostStatus("wolf", reachable=True, apps=new)], now=1)
    registry.heartbeat("alpha", connection, [HostStatus("wolf", reachable=True)], now=2)
    assert only(registry).apps == (AppOffer("Ste am", 2),)


@pytest.mark.parametrize("target", ["alpha", "alpha/wolf"])
def test_drains_name_a_host_or_all_of_an_agent(target: str) -> None:
    registry = Registry()
    registry.set_drains([target])
    connected(registry)
    assert only(registry).draining
    registry.set_drains([])
    assert not only(registry).draining


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
    registry = Registry(max_hosts_per_agent=2)
    connected(registry)
    with pytest.raises(InvalidOffer) as caught:
        registry.agent_connected(offer, now=0)
    assert caught.value.reason == reason
    assert only(registry).id == WOLF


def test_agents_are_bounded_and_may_still_reconnect() -> None:
    registry = Registry(max_agents=1)
    connected(registry)
    with pytest.raises(InvalidOffer):
        registry.agent_connected(agent("beta"), now=0)
    connected(registry)


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


def report(registry: Registry, connection: ConnectionId, sessions: int | None) -> int:
    status = HostStatus("wolf", reachable=True, sessions=sessions)
    registry.heartbeat("alpha", connection, [status], now=1)
    return only(registry).sessions


def test_a_session_is_not_counted_twice_once_the_host_reports_it() -> None:
    registry = Registry()
    connection = connected(registry)
    reservation = registry.reserve(WOLF)
    assert only(registry).sessions == 1
    registry.started(reservation)
    assert report(registry, connection, 1) == 1
    registry.release(reservation)
    assert only(registry).sessions == 0  # and not first after the next report


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


def test_a_report_from_before_the_session_started_does_not_hide_it() -> None:
    registry = Registry()
    connection = connected(registry)
    registry.started(registry.reserve(WOLF))
    assert report(registry, connection, 0) == 1


def test_slots_outlive_the_connection() -> None:
    registry = Registry()
    connection = connected(registry)
    reservation = registry.reserve(WOLF)
    registry.started(reservation)
    report(registry, connection, 1)
    registry.agent_gone("alpha", connection)
    connected(registry)
    assert only(registry).sessions == 1
    registry.release(reservation)
    assert only(registry).sessions == 0


def test_releasing_while_the_agent_is_away() -> None:
    registry = Registry()
    connection = connected(registry)
    reservation = registry.restore(WOLF)
    report(registry, connection, 1)
    registry.agent_gone("alpha", connection)
    registry.release(reservation)
    registry.release(reservation)
    registry.started(reservation)
    connected(registry)
    assert only(registry).sessions == 0


def test_restored_sessions_may_exceed_the_limit() -> None:
    registry = Registry()
    registry.restore(WOLF)
    registry.agent_connected(agent("alpha", host(max_sessions=0)), now=0)
    assert only(registry).sessions == 1


class Slots(RuleBasedStateMachine):
    """However launches, ends, reports and reconnections interleave, the limit holds."""

    max_sessions = 3

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.connection = self.connect()
        self.held: list[Reservation] = []

    def connect(self) -> ConnectionId:
        offer = agent("alpha", host(max_sessions=self.max_sessions))
        return self.registry.agent_connected(offer, now=0)

    @rule()
    def launch(self) -> None:
        had_room = only(self.registry).sessions < self.max_sessions
        try:
            self.held.append(self.registry.reserve(WOLF))
        except NoBackend:
            assert not had_room
        else:
            assert had_room

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.registry.started(data.draw(st.sampled_from(self.held)))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        reservation = data.draw(st.sampled_from(self.held))
        self.held.remove(reservation)
        self.registry.release(reservation)

    @rule(sessions=st.none() | st.integers(0, 4))
    def report(self, sessions: int | None) -> None:
        report(self.registry, self.connection, sessions)

    @rule()
    def reconnect(self) -> None:
        self.connection = self.connect()

    @invariant()
    def our_own_sessions_are_all_counted_and_never_beyond_the_limit(self) -> None:
        assert len(self.held) <= min(self.max_sessions, only(self.registry).sessions)


Slots.TestCase.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
TestSlots = Slots.TestCase
