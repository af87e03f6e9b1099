from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.throttle import Throttle


def fail(throttle: Throttle, network: str, now: float, times: int = 1) -> None:
    for _ in range(times):
        assert throttle.attempt(network, now) == 0
        throttle.was_wrong(now)


def test_the_first_wrong_tokens_cost_no_wait_and_then_each_costs_more() -> None:
    throttle = Throttle(free_failures=3, max_wait_s=20)
    now = 0.0
    fail(throttle, "a", now, 3)
    waits = []
    for _ in range(7):
        waits.append(throttle.attempt("a", now))
        now += waits[-1]
        fail(throttle, "a", now)
    assert waits == [1, 2, 4, 8, 16, 20, 20]


def test_asking_while_one_has_to_wait_changes_nothing() -> None:
    throttle = Throttle(free_failures=1)
    fail(throttle, "a", 0)
    assert [throttle.attempt("a", at / 10) for at in range(1, 4)] == pytest.approx([0.9, 0.8, 0.7])
    assert throttle.attempt("a", 1) == 0


def test_others_do_not_wait() -> None:
    throttle = Throttle(free_failures=1)
    fail(throttle, "a", 0)
    assert throttle.attempt("b", 0) == 0


def test_right_tokens_are_no_failures() -> None:
    throttle = Throttle(free_failures=2)
    for _ in range(100):
        assert throttle.attempt("a", 0) == 0
        throttle.was_right("a", 0)
    assert len(throttle) == 0
    throttle.was_right("a", 0)
    assert len(throttle) == 0


def test_a_right_token_does_not_pardon_the_wrong_ones() -> None:
    """Whoever has a token could guess another one for ever."""
    throttle = Throttle(free_failures=3)
    fail(throttle, "a", 0, 2)
    assert throttle.attempt("a", 0) == 0
    throttle.was_right("a", 0)
    fail(throttle, "a", 0)
    assert throttle.attempt("a", 0) == 1


def test_a_right_token_after_the_wait_does_not_wait_again() -> None:
    throttle = Throttle(free_failures=3)
    fail(throttle, "a", 0, 3)
    assert throttle.attempt("a", 1) == 0
    throttle.was_right("a", 1)
    assert throttle.attempt("a", 1) == 0


def test_many_at_once_gain_nothing() -> None:
    throttle = Throttle(free_failures=3)
    assert [throttle.attempt("a", 0) for _ in range(5)] == [0, 0, 0, 1, 1]


def test_after_a_while_everything_is_forgotten() -> None:
    throttle = Throttle(free_failures=1, forget_after_s=900)
    fail(throttle, "a", 0)
    assert throttle.attempt("a", 0.5) > 0
    fail(throttle, "a", 900)
    assert throttle.attempt("a", 900) == 1


def test_under_attack_from_everywhere_who_failed_once_waits_and_who_did_not_does_not() -> None:
    throttle = Throttle(free_failures=10, free_failures_overall=20)
    for number in range(20):
        fail(throttle, f"n{number}", 0)
    assert throttle.attempt("n3", 0) == 1
    assert throttle.attempt("never seen", 0) == 0
    throttle.was_right("never seen", 0)
    assert throttle.attempt("n3", 1) == 0
    fail(throttle, "another", 901)
    assert throttle.attempt("another", 901) == 0


def test_the_table_is_bounded_and_forgets_the_quietest() -> None:
    throttle = Throttle(free_failures=1, max_networks=3)
    for network in "abc":
        fail(throttle, network, 0)
    assert throttle.attempt("a", 0.5) > 0
    fail(throttle, "d", 0.6)
    assert len(throttle) == 3
    assert throttle.attempt("a", 0.7) > 0
    assert throttle.attempt("b", 0.7) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.booleans(), st.floats(0, 100)),
        max_size=200,
    )
)
def test_waits_and_the_table_are_bounded_whatever_happens(
    script: list[tuple[str, bool, float]],
) -> None:
    throttle = Throttle(free_failures=2, free_failures_overall=5, max_networks=4, max_wait_s=60)
    now = 0.0
    for network, right, pause in script:
        now += pause
        wait = throttle.attempt(network, now)
        assert 0 <= wait <= 60
        assert len(throttle) <= 4
        if wait == 0:
            throttle.was_right(network, now) if right else throttle.was_wrong(now)
