"""Checks run at once, and none takes the others with it; what they say is written for people."""

from __future__ import annotations

from collections.abc import Sequence

import trio
import trio.testing

from moonhost.checks.finding import Finding, Mark, not_checked, ok, problem, warning
from moonhost.checks.running import Check, run_checks
from moonhost.doctor import lines


async def test_checks_run_at_once_and_are_told_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow() -> Sequence[Finding]:
        await trio.sleep(5)
        return [ok("first", "a"), ok("first", "b")]

    async def quick() -> Sequence[Finding]:
        await trio.lowlevel.checkpoint()
        return [ok("second", "c")]

    began = trio.current_time()
    found = await run_checks([Check("first", slow), Check("second", quick), Check("third", slow)])
    assert [finding.seen for finding in found] == ["a", "b", "c", "a", "b"]
    assert trio.current_time() - began == 5


async def test_a_check_that_hangs_or_breaks_is_told_as_not_checked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def broken() -> Sequence[Finding]:
        await trio.lowlevel.checkpoint()
        raise ValueError("hunter2")

    async def hanging() -> Sequence[Finding]:
        await trio.sleep_forever()
        return []

    bug, late = await run_checks([Check("a", broken), Check("b", hanging, deadline_s=3)])
    assert {bug.mark, late.mark} == {Mark.NOT_CHECKED}
    assert "ValueError" in bug.remedy
    assert "hunter2" not in bug.remedy
    assert "3 s" in late.remedy


def test_findings_are_a_line_each_with_what_to_do_below_once() -> None:
    written = list(
        lines(
            [
                ok("clock", "it is synchronised"),
                problem("ports", "443 is\x1b[2J taken", "Stop that."),
                warning("disk", "little room", "Make room."),
                warning("disk", "less room", "Make room."),
                not_checked("agents", "which are connected", "no edge runs"),
            ]
        )
    )
    assert written == [
        "ok           clock             it is synchronised",
        "problem      ports             443 is?[2J taken",
        "                               -> Stop that.",
        "warning      disk              little room",
        "warning      disk              less room",
        "                               -> Make room.",
        "not checked  agents            which are connected: no edge runs",
        "1 problem, 2 warnings.",
    ]


def test_nothing_wrong_is_said_so() -> None:
    assert list(lines([ok("clock", "fine")]))[-1] == "Nothing is wrong."
