"""A host goes down after three misses, and each time it has to answer for longer to come back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.health import HealthRules, HostHealth

RULES = HealthRules()


class Probes:
    """A host's probes, one each ten seconds."""

    def __init__(self) -> None:
        self.health = HostHealth(RULES)
        self.now = 1_000_000.0

    def note(self, *answers: bool) -> bool:
        for answered in answers:
            self.now += 10
            self.health.note(answered, now=self.now)
        return self.health.up

    def fall(self) -> None:
        assert not self.note(False, False, False)

    def answers_until_up(self) -> int:
        return next(count for count in itertools.count(1) if self.note(True))


def test_a_host_is_up_until_three_probes_in_a_row_have_missed() -> None:
    probes = Probes()
    assert probes.note(False, False, True, False, False)
    assert not probes.note(False)


def test_each_fall_takes_twice_as_many_answers_up_to_a_bound() -> None:
    probes = Probes()
    needed = []
    for _ in range(6):
        probes.fall()
        needed.append(probes.answers_until_up())
    assert needed == [2, 4, 8, 16, 16, 16]


def test_answers_count_only_in_a_row() -> None:
    probes = Probes()
    probes.fall()
    assert not probes.note(True, False, True, False)
    assert probes.note(True, True)


@pytest.mark.parametrize(("stood_s", "needed"), [(1_700, 4), (1_900, 2)])
def test_standing_long_enough_makes_the_next_fall_the_first(stood_s: float, needed: int) -> None:
    probes = Probes()
    probes.fall()
    probes.answers_until_up()
    probes.now += stood_s
    probes.fall()
    assert probes.answers_until_up() == needed


def test_lying_down_for_long_is_not_standing() -> None:
    probes = Probes()
    probes.fall()
    probes.now += 100_000
    probes.answers_until_up()
    probes.fall()
    assert probes.answers_until_up() == 4


@given(st.lists(st.booleans(), max_size=200))
def test_whatever_probes_find_enough_answers_bring_a_host_back_and_three_misses_down(
    found: list[bool],
) -> None:
    probes = Probes()
    probes.note(*found)
    assert probes.note(*[True] * RULES.max_answers)
    assert not probes.note(*[False] * RULES.misses)


def test_a_thousand_falls_cost_no_more_than_a_few() -> None:
    probes = Probes()
    for _ in range(1_000):
        probes.fall()
        assert probes.answers_until_up() <= RULES.max_answers
