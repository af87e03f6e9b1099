"""Slots given out, beside what the host reports: none is missed, and none counts twice."""

from __future__ import annotations

from backends.model import BackendId
from backends.slots import Reservation, Slots


def taken(slots: Slots, count: int = 1) -> list[Reservation]:
    reservations = [Reservation(BackendId("alpha/wolf")) for _ in range(count)]
    slots.taken.update(reservations)
    return reservations


def test_a_launch_counts_from_the_decision_on() -> None:
    slots = Slots()
    taken(slots, 2)
    assert (slots.sessions, slots.unreported) == (2, 2)


def test_a_started_session_counts_once_when_the_host_reports_it() -> None:
    slots = Slots()
    (launch,) = taken(slots)
    slots.start(launch)
    slots.report(1)
    assert (slots.sessions, slots.unreported) == (1, 0)
    slots.release(launch)
    assert slots.sessions == 0


def test_a_launch_under_way_is_in_no_report() -> None:
    slots = Slots()
    (launch,) = taken(slots)
    slots.report(1)
    assert (slots.sessions, slots.unreported) == (2, 1)
    slots.release(launch)
    assert slots.sessions == 1


def test_a_report_from_before_the_start_hides_nothing_of_ours() -> None:
    slots = Slots()
    (launch,) = taken(slots)
    slots.start(launch)
    slots.report(0)
    assert slots.sessions == 1


def test_a_report_is_never_less_than_nothing() -> None:
    slots = Slots()
    slots.report(-5)
    assert slots.sessions == 0
    (launch,) = taken(slots)
    slots.start(launch)
    slots.report(0)
    slots.release(launch)
    slots.release(launch)
    assert slots.sessions == 0


def test_what_was_released_does_not_start() -> None:
    slots = Slots()
    (launch,) = taken(slots)
    slots.release(launch)
    slots.start(launch)
    slots.report(0)
    assert slots == Slots()


def test_a_session_may_need_more_memory_until_it_has_been_measured_for_a_while() -> None:
    slots = Slots()
    first, second = taken(slots, 2)
    slots.start(first)
    slots.measure(now=10, growth_s=100)
    slots.start(second)
    slots.measure(now=109, growth_s=100)
    assert slots.unsettled == 2
    slots.measure(now=110, growth_s=100)
    assert slots.unsettled == 1
    slots.measure(now=209, growth_s=100)
    assert slots.unsettled == 0
    slots.release(first)
    slots.measure(now=209, growth_s=100)
    assert slots.unsettled == 0
    slots.release(second)
    assert slots == Slots()


def test_two_reservations_at_one_backend_are_two() -> None:
    slots = Slots()
    first, second = taken(slots, 2)
    assert first != second
    slots.release(first)
    assert slots.sessions == 1
