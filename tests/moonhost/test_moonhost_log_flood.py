"""Strangers fill no log: so many lines a minute, and then how many there would have been."""

from __future__ import annotations

from moonhost.log_flood import LineLimiter, Suppressed

EVENTS = frozenset({"scanned", "probed"})


def admitted(limiter: LineLimiter, event: str, times: int, now: float) -> int:
    return sum(limiter.admits(event, now) for _ in range(times))


def test_a_minute_has_room_for_so_many_lines_of_an_event() -> None:
    limiter = LineLimiter(EVENTS, max_lines=3)
    assert admitted(limiter, "scanned", 5, now=0) == 3
    assert admitted(limiter, "scanned", 2, now=59) == 0
    assert admitted(limiter, "probed", 2, now=59) == 2
    assert limiter.suppressed == {"scanned": 4}


def test_other_events_have_all_the_room_there_is() -> None:
    limiter = LineLimiter(EVENTS, max_lines=1)
    assert admitted(limiter, "session_launched", 1_000, now=0) == 1_000
    assert limiter.over(1_000) == ()


def test_when_the_minute_is_over_it_is_told_once_what_was_left_out() -> None:
    limiter = LineLimiter(EVENTS, max_lines=3)
    admitted(limiter, "scanned", 5, now=10)
    admitted(limiter, "probed", 1, now=10)
    assert limiter.over(69) == ()
    assert limiter.over(70) == (Suppressed("scanned", 2),)
    assert limiter.over(71) == ()
    assert admitted(limiter, "scanned", 5, now=71) == 3
    assert limiter.suppressed == {"scanned": 4}
    assert not limiter._minutes.keys() - EVENTS
