"""Agents come back quickly, never together, and slowly where trying again changes nothing."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from revdial.backoff import Backoff, Outcome


def test_the_ceiling_is_how_long_it_has_been_away_up_to_the_cap() -> None:
    backoff = Backoff(lambda: 1.0, base_s=0.5, cap_s=4)
    delays = [backoff.next_delay(Outcome.FAILED) for _ in range(6)]
    assert delays == [0.5, 0.5, 1, 2, 4, 4]
    assert Backoff(lambda: 1.0).next_delay(Outcome.FAILED, tried_s=7) == 7
    assert Backoff(lambda: 0.0).next_delay(Outcome.FAILED, tried_s=7) == 0


@given(st.integers(), st.floats(0.1, 20))
def test_after_an_outage_all_are_back_within_about_its_length(seed: int, outage_s: float) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        backoff, now_s = Backoff(chance.random), 0.0
        while now_s < outage_s:
            now_s += backoff.next_delay(Outcome.LOST)
        assert now_s <= max(2 * outage_s, outage_s + 0.5)


def test_a_connection_that_lasted_starts_anew() -> None:
    backoff = Backoff(lambda: 1.0)
    for _ in range(5):
        backoff.next_delay(Outcome.LOST, lasted_s=1)
    assert backoff.next_delay(Outcome.LOST, lasted_s=60) == 0.5
    assert [backoff.next_delay(Outcome.LOST, lasted_s=1) for _ in range(2)] == [0.5, 1]


@given(st.floats(0, 1), st.lists(st.sampled_from(Outcome), min_size=1, max_size=20))
def test_every_delay_is_within_its_bounds(unit: float, outcomes: list[Outcome]) -> None:
    backoff = Backoff(lambda: unit)
    for outcome in outcomes:
        delay_s = backoff.next_delay(outcome)
        if outcome is Outcome.REPLACED:
            assert 30 <= delay_s <= 60
        elif outcome in (Outcome.UNAUTHORISED, Outcome.UNTRUSTED):
            assert 15 <= delay_s <= 30
        else:
            assert 0 <= delay_s <= 30
