from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from moonlight.flows import Flow
from moonlight.ping import build_ping
from proxy.roaming import (
    PingTrail,
    Place,
    ProofBudget,
    Refusal,
    RoamingLimits,
    Whereabouts,
    refusal_of_ping,
)
from proxy.sessions import SessionId

PAYLOAD = "aaaaaaaaaaaaaaaa"
HOME, ELSEWHERE, THIRD = "192.0.2.1", "198.51.100.7", "203.0.113.5"
LIMITS = RoamingLimits()
AT_HOME = Place(HOME, HOME)
AWAY = Place(ELSEWHERE, HOME)


def ping(counter: int) -> bytes:
    return build_ping(PAYLOAD, counter)


def heard(*pings: tuple[int, float]) -> PingTrail:
    trail = PingTrail()
    for counter, at in pings:
        trail.note(ping(counter), at)
    return trail


def judged(
    trail: PingTrail, counter: int, at: float, *, source: str = ELSEWHERE, place: Place = AT_HOME
) -> Refusal | None:
    return refusal_of_ping(trail, ping(counter), source, place, now=at, limits=LIMITS)


def test_a_client_that_moved_is_followed_by_its_second_ping() -> None:
    trail = heard((1, 0.0), (2, 0.5))
    assert judged(trail, 3, 1.0) is Refusal.HEARD_ELSEWHERE
    assert judged(trail, 4, 1.5) is None


def test_a_client_that_lost_a_ping_while_moving_is_followed_by_the_first_that_comes() -> None:
    assert judged(heard((2, 0.5)), 4, 1.5) is None


def test_a_new_port_of_the_same_address_is_followed_likewise() -> None:
    trail = heard((2, 0.5))
    assert judged(trail, 3, 1.0, source=HOME) is Refusal.HEARD_ELSEWHERE
    assert judged(trail, 4, 1.5, source=HOME) is None


def test_a_ping_that_was_heard_before_never_moves_a_flow() -> None:
    trail = heard((1, 0.0), (2, 0.5))
    for counter in (1, 2):
        assert judged(trail, counter, 60.0) is Refusal.REPLAYED
        assert judged(trail, counter, 60.0, source=HOME) is Refusal.REPLAYED


def test_counters_wrap() -> None:
    trail = heard((2**32 - 1, 0.0))
    assert judged(trail, 0, 1.0) is None
    assert judged(trail, 2**32 - 2, 1.0) is Refusal.REPLAYED


def test_nobody_is_followed_away_from_where_the_client_is_heard() -> None:
    """Whoever saw a payload can count on from it."""
    trail = PingTrail()
    for number in range(100):
        trail.note(ping(number), number * 0.5)
        for fraction in (0.1, 0.3, 0.49):
            forged = judged(trail, 1_000 + number, number * 0.5 + fraction)
            assert forged is Refusal.HEARD_ELSEWHERE


def test_what_comes_late_or_twice_to_the_old_address_is_no_sign_of_life() -> None:
    trail = heard((2, 0.5), (1, 1.2), (2, 1.4))
    assert judged(trail, 4, 1.5) is None


def test_while_the_session_is_heard_a_single_flow_must_be_silent_for_longer() -> None:
    trail = heard((2, 0.5))
    assert judged(trail, 4, 1.5, place=Place(HOME, HOME, 1.45)) is Refusal.HEARD_ELSEWHERE
    assert judged(trail, 7, 3.0, place=Place(HOME, HOME, 2.95)) is None
    # Its port alone may have changed.
    assert judged(trail, 4, 1.5, source=HOME, place=Place(HOME, HOME, 1.45)) is None


def test_home_takes_its_flow_back_at_once_from_whoever_counted_ahead() -> None:
    trail = heard((2, 0.5))
    assert judged(trail, 5_000, 1.5) is None
    trail.note(ping(5_000), 1.5)
    assert judged(trail, 2, 1.6, source=HOME, place=AWAY) is Refusal.REPLAYED
    assert judged(trail, 3, 1.6, source=HOME, place=AWAY) is None
    trail.note(ping(3), 1.6)
    # What somebody else counted up to is forgotten.
    trail.note(ping(4), 2.1)
    assert trail.heard_at == 2.1


def test_what_moved_away_is_judged_by_what_was_heard_there() -> None:
    trail = heard((2, 0.5))
    assert judged(trail, 5_000, 1.5) is None
    trail.note(ping(5_000), 1.5)
    assert judged(trail, 3, 9.0, source=THIRD, place=AWAY) is Refusal.REPLAYED
    assert judged(trail, 5_001, 9.0, source=THIRD, place=AWAY) is None


def test_a_flow_that_never_was_at_home_comes_there_with_any_counter() -> None:
    trail = heard((5_000, 0.5))
    assert judged(trail, 1, 0.6, source=HOME, place=AWAY) is None


def test_pings_of_old_clients_have_no_counter_and_go_by_silence() -> None:
    trail = PingTrail()
    trail.note(b"PING", 1.0)
    arguments = (trail, b"PING", HOME, AT_HOME)
    early = refusal_of_ping(*arguments, now=1.5, limits=LIMITS)
    assert early is Refusal.HEARD_ELSEWHERE
    assert refusal_of_ping(*arguments, now=2.0, limits=LIMITS) is None


def test_what_is_no_ping_is_neither_heard_nor_followed() -> None:
    trail = PingTrail()
    trail.note(b"noise", 1.0)
    assert trail.heard_at == -math.inf
    refusal = refusal_of_ping(trail, b"noise", HOME, AT_HOME, now=9.0, limits=LIMITS)
    assert refusal is Refusal.REPLAYED


class Story:
    """A client that pings twice a second, an eavesdropper, and a flow that goes by the rules."""

    def __init__(self) -> None:
        self.trail = PingTrail()
        self.bound = HOME
        self.moved_at = -math.inf
        self.heard_at_home = -math.inf

    def arrives(self, counter: int, source: str, now: float) -> None:
        self._take(counter, source, now)
        if source == HOME:
            self.heard_at_home = now

    def _take(self, counter: int, source: str, now: float) -> None:
        if source != self.bound:
            place = Place(self.bound, HOME)
            if now - self.moved_at < 0.5 or refusal_of_ping(
                self.trail, ping(counter), source, place, now=now, limits=LIMITS
            ):
                return
            if source == ELSEWHERE:
                assert now - self.heard_at_home >= LIMITS.min_silence_s
            self.bound, self.moved_at = source, now
        self.trail.note(ping(counter), now)


@given(
    lost=st.sets(st.integers(2, 60)),
    copies=st.lists(
        st.tuples(st.integers(0, 30_000), st.integers(0, 60), st.booleans()), max_size=60
    ),
)
def test_an_eavesdropper_has_a_flow_only_while_the_client_is_unheard(
    lost: set[int], copies: list[tuple[int, int, bool]]
) -> None:
    """Times are milliseconds; an eavesdropper repeats pings it saw, or counts on from them."""
    story = Story()
    events: list[tuple[int, int, str]] = [
        ((number - 1) * 500, number, HOME) for number in range(1, 61) if number not in lost
    ]
    for at, which, forged in copies:
        seen = at // 500 + 1
        events.append((at, seen + which if forged else min(which, seen), ELSEWHERE))
    for at, counter, source in sorted(events, key=lambda event: (event[0], event[2] != HOME)):
        now = at / 1000
        story.arrives(counter, source, now)
        if source == HOME and story.bound != HOME:
            assert now - story.moved_at < 0.5, "the next ping brings the flow home"


@given(lost=st.sets(st.integers(10, 40)), moves_at=st.integers(5, 20))
def test_a_client_that_moved_is_followed_within_a_second_of_pings_that_arrive(
    lost: set[int], moves_at: int
) -> None:
    story = Story()
    arrived_at: list[float] = []
    for number in range(1, 45):
        now = number * 0.5
        moved = number >= moves_at
        if number in lost:
            continue
        story.arrives(number, ELSEWHERE if moved else HOME, now)
        if moved:
            arrived_at.append(now)
            assert story.bound == ELSEWHERE or len(arrived_at) < 2
    assert story.bound == ELSEWHERE


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Flow), st.sampled_from("123x"))))
def test_sessions_are_known_exactly_where_their_flows_are(
    steps: list[tuple[str, Flow, str]],
) -> None:
    where, model = Whereabouts(), dict[tuple[str, Flow], str]()
    for name, flow, ip in steps:
        session = SessionId(name)
        if ip == "x":
            where.forget(session, flow)
            model.pop((name, flow), None)
        else:
            where.note(session, flow, ip)
            model[name, flow] = ip
        for known in "123":
            expected = {name for (name, _), there in model.items() if there == known}
            assert set(where.at(known)) == expected
            assert len(where.at(known)) == len(expected)
    assert len(where._known) == len(set(model.values()))


def spend(budget: ProofBudget[str], source: str, now: float, proofs: int = 1) -> bool:
    if budget.is_spent(source, now):
        return False
    budget.spend(source, proofs)
    return True


def test_each_source_and_all_together_have_a_number_of_proofs_a_second() -> None:
    budget = ProofBudget[str](RoamingLimits(max_proofs_per_s=5, max_proofs_per_source_per_s=2))
    assert [spend(budget, "a", 1.0) for _ in range(3)] == [True, True, False]
    assert [spend(budget, source, 1.5) for source in "bcdef"] == [True, True, True, False, False]
    assert len(budget._spent) <= 5
    assert spend(budget, "a", 2.0)


def test_a_datagram_that_is_held_against_many_sessions_costs_as_many_proofs() -> None:
    budget = ProofBudget[str](RoamingLimits(max_proofs_per_s=5, max_proofs_per_source_per_s=2))
    assert [spend(budget, "a", 1.0, 3) for _ in range(2)] == [True, False]
    assert [spend(budget, source, 1.5, 3) for source in "bcd"] == [True, False, False]
