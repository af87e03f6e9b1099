"""The last events of an edge: numbered, kept in a bounded number, waited for."""

from __future__ import annotations

import pytest
import structlog.testing
import trio
import trio.testing

from proxy.events import Event, EventKind, Events


def told(*subjects: str, max_kept: int = 3) -> Events:
    events = Events(max_kept, first_id=10)
    for subject in subjects:
        events.keep(EventKind.DRAIN_BEGAN, subject)
    return events


def brief(events: list[Event]) -> list[tuple[int, str]]:
    return [(event.id, event.subject) for event in events]


def test_events_are_numbered_and_the_newest_kept() -> None:
    events = told("a", "b", "c", "d")
    assert brief(events.newest()) == [(13, "d"), (12, "c"), (11, "b")]
    assert events.last_id == 13


def test_those_of_an_edge_that_is_started_anew_have_higher_numbers() -> None:
    before = Events()
    before.keep(EventKind.DRAIN_BEGAN, "a")
    assert before.last_id > 1_700_000_000_000
    assert Events().last_id >= before.last_id - 1


@pytest.mark.parametrize(
    ("seen_id", "newer"),
    [
        (12, []),
        (11, [(12, "c")]),
        (9, [(10, "a"), (11, "b"), (12, "c")]),
    ],
)
def test_a_reader_gets_what_is_newer(seen_id: int, newer: list[tuple[int, str]]) -> None:
    assert brief(told("a", "b", "c").since(seen_id)) == newer


def test_a_slow_reader_skips_ahead_and_is_told_how_many_it_missed() -> None:
    events = told("a", "b", "c", "d", "e")
    missed, *kept = events.since(10)
    assert (missed.kind, missed.id) == (EventKind.EVENTS_MISSED, 11)
    assert missed.details == {"reason": "too_slow", "count": "1"}
    assert brief(kept) == [(12, "c"), (13, "d"), (14, "e")]
    assert brief(events.since(missed.id)) == brief(kept)


@pytest.mark.parametrize("seen_id", [0, 8, 13, 10**15])
def test_a_reader_of_another_edges_events_gets_all_and_is_told(seen_id: int) -> None:
    missed, *kept = told("a", "b", "c").since(seen_id)
    assert missed.details == {"reason": "edge_restarted"}
    assert brief(kept) == [(10, "a"), (11, "b"), (12, "c")]


def test_a_reader_of_another_edges_events_goes_on_where_nothing_has_happened_yet() -> None:
    events = told()
    (missed,) = events.since(5)
    assert events.since(missed.id) == []


async def test_a_reader_waits_until_something_happens(nursery: trio.Nursery) -> None:
    events = told("a")
    got: list[tuple[int, str]] = []

    async def read() -> None:
        await events.wait_for_newer(10)
        got.extend(brief(events.since(10)))

    nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    assert got == []
    events.keep(EventKind.DRAIN_ENDED, "a")
    await trio.testing.wait_all_tasks_blocked()
    assert got == [(11, "a")]
    await events.wait_for_newer(10)
    await events.wait_for_newer(99)  # of another edge: there is something to tell at once


def test_an_event_is_logged_once_at_most() -> None:
    events = told()
    with structlog.testing.capture_logs() as logs:
        events.note(EventKind.DRAIN_BEGAN, "a/b", why="x")
        events.keep(EventKind.DRAIN_ENDED, "a/b")
    assert [(line["event"], line["backend"], line["why"]) for line in logs] == [
        ("drain_began", "a/b", "x")
    ]
