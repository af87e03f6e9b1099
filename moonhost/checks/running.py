"""Runs checks at once, each within its time; what breaks or hangs is told as not checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from moonhost.checks.finding import Finding, not_checked
from revdial.errors import where

usual_deadline_s: Final = 8.0


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at."""

    name: str
    run: Callable[[], Awaitable[Sequence[Finding]]]
    deadline_s: float = usual_deadline_s


async def run_checks(checks: Sequence[Check]) -> list[Finding]:
    """Return what all of them found, in their order; takes as long as the slowest deadline."""
    found: dict[int, Sequence[Finding]] = {}

    async def run(number: int, check: Check) -> None:
        found[number] = await _run(check)

    async with trio.open_nursery() as nursery:
        for number, check in enumerate(checks):
            nursery.start_soon(run, number, check)
    return [finding for number in sorted(found) for finding in found[number]]


async def _run(check: Check) -> Sequence[Finding]:
    try:
        with trio.fail_after(check.deadline_s):
            return await check.run()
    except trio.TooSlowError:
        return [not_checked(check.name, "it took too long", f"not done in {check.deadline_s:g} s")]
    except Exception as error:
        # A check that breaks must not hide what the others found. No text: it might be a secret.
        return [not_checked(check.name, "the check broke off", f"a bug: {where(error)}")]
