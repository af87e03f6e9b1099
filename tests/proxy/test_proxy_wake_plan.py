"""Who is woken when: once, then not again for a while, whoever asks how often."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.apps import AppOffers
from backends.model import Backend, BackendId, Health
from proxy.wake_plan import WakeAction, WakeHistory, WakeRule, actions, is_asleep

A, B, C = (BackendId(f"{name}/wolf") for name in "abc")


def backend(health: Health, *, draining: bool = False) -> Backend:
    return Backend(
        A, "a", "wolf", "wolf", "home", None, AppOffers(()), 0, 1, health, draining=draining
    )


@pytest.mark.parametrize(
    ("known", "asleep"),
    [
        (None, True),
        (backend(Health.UNHEALTHY), True),
        (backend(Health.UNHEALTHY, draining=True), False),
        (backend(Health.HEALTHY), False),
        (backend(Health.DEGRADED), False),
    ],
)
def test_who_is_asleep(known: Backend | None, asleep: bool) -> None:
    assert is_asleep(known) is asleep


def test_one_machine_is_woken_once_and_the_webhook_called_once() -> None:
    rules = [
        WakeRule(A, "pi", "pc"),
        WakeRule(B),
        WakeRule(BackendId("a/sunshine"), "pi", "pc"),
        WakeRule(C),
        WakeRule(BackendId("d/wolf"), "pi", "nas"),
    ]
    assert actions(rules) == (
        WakeAction((A, BackendId("a/sunshine")), "pi", "pc"),
        WakeAction((B, C)),
        WakeAction((BackendId("d/wolf"),), "pi", "nas"),
    )
    assert actions([]) == ()


@pytest.mark.parametrize("failed", [False, True])
def test_a_backend_is_woken_again_after_the_interval_and_not_before(failed: bool) -> None:
    history = WakeHistory(60)
    rule, (action,) = WakeRule(A), actions([WakeRule(A)])
    assert history.due([rule, WakeRule(B)], now=0) == (rule, WakeRule(B))
    assert not history.is_waking(A, now=0)
    history.begin(action, now=0)
    assert history.is_waking(A, now=1)
    assert history.due([rule, WakeRule(B)], now=1) == (WakeRule(B),)
    history.end(action, failed=failed)
    assert history.is_waking(A, now=59.9) is not failed
    assert history.due([rule], now=59.9) == ()
    assert history.due([rule], now=60) == (rule,)
    assert not history.is_waking(A, now=60)


def test_what_is_under_way_is_not_begun_again_however_long_it_takes() -> None:
    history = WakeHistory(60)
    (action,) = actions([WakeRule(A)])
    history.begin(action, now=0)
    assert history.due([WakeRule(A)], now=1e6) == ()
    history.end(action, failed=False)
    assert history.due([WakeRule(A)], now=1e6) == (WakeRule(A),)


@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from([A, B]), st.booleans())))
def test_nobody_can_have_a_backend_woken_more_often_than_configured(
    wishes: list[tuple[float, BackendId, bool]],
) -> None:
    history, now, begun = WakeHistory(60), 0.0, list[tuple[float, BackendId]]()
    for pause_s, wanted, failed in wishes:
        now += pause_s
        for action in actions(history.due([WakeRule(wanted)], now)):
            history.begin(action, now)
            history.end(action, failed=failed)
            begun.append((now, wanted))
    for each in (A, B):
        times = [at for at, known in begun if known == each]
        assert all(later - earlier >= 60 for earlier, later in pairwise(times))
