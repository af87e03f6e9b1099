"""A day of players, failures and drains breaks no rule of selection (``-s`` prints a report)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from backends.candidates import GpuLimits
from backends.policies import PolicyName, policies
from backends.selection import select
from backends.slots import Slots
from tests.backends import simulated_day
from tests.backends.simulated_day import RULES, Day, RuleBroken
from tests.backends.simulated_world import MOST_OF_GPU

RUSH = 24_000


def test_a_day_passes_without_a_rule_being_broken() -> None:
    report = Day().run()
    print(f"\n{report}")
    assert 0.9 < report.fullest_share <= MOST_OF_GPU
    assert report.started + report.refusals.total() == report.launches > 3_500
    # There was something to get wrong.
    assert report.nearest > 0.7 * report.started
    assert min(report.reasons[reason] for reason in ("nearest", "spilled", "sticky")) > 200
    assert 0 < report.refusals["all_full"] < 0.01 * report.launches
    assert report.moved_on > 20
    assert {"to unhealthy", "to healthy", "to draining", "to unknown"} <= report.transitions.keys()


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        pytest.param({"session_gpu_memory_bytes": 0}, "GPU memory is at", id="need"),
        pytest.param({"session_growth_s": 0.0}, "GPU memory is at", id="growth"),
        pytest.param({"gpu": GpuLimits(full=1.0)}, "though it cannot take it", id="full"),
    ],
)
def test_without_a_rule_the_day_is_seen_to_go_wrong(rule: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RuleBroken, match=sentence):
        Day(replace(RULES, **rule), launches=RUSH).run()


def forgetful(*args: Any, sticky: object, **options: Any) -> Any:
    return select(*args, **options)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        pytest.param(forgetful, "was not sent to where it played last", id="sticky"),
        pytest.param(
            partial(select, policy=policies[PolicyName.LOAD]), "is nearer than", id="distance"
        ),
    ],
)
def test_a_selection_that_goes_wrong_is_seen_to(
    wrong: Callable[..., Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated_day, "select", wrong)
    with pytest.raises(RuleBroken, match=sentence):
        Day().run()


def test_slots_that_count_only_what_hosts_report_are_seen_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Slots, "sessions", property(lambda slots: slots.reported))
    with pytest.raises(RuleBroken, match="sessions"):
        Day(launches=RUSH).run()
