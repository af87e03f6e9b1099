"""What a check says: a mark, what was looked at, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's; neither text ever holds a secret."""

    check: str
    mark: Mark
    seen: str
    """What was looked at, and how it is."""
    remedy: str = ""
    """What to do, for what is not ok; why not, for what was not checked."""


def ok(check: str, seen: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(check, Mark.OK, seen)


def warning(check: str, seen: str, remedy: str) -> Finding:
    """Return that something may come to be a problem, or is one for some."""
    return Finding(check, Mark.WARNING, seen, remedy)


def problem(check: str, seen: str, remedy: str) -> Finding:
    """Return that something does not work."""
    return Finding(check, Mark.PROBLEM, seen, remedy)


def not_checked(check: str, seen: str, why: str) -> Finding:
    """Return that something could not be looked at."""
    return Finding(check, Mark.NOT_CHECKED, seen, why)


def has_problem(findings: Iterable[Finding]) -> bool:
    """Tell whether anything does not work."""
    return any(finding.mark is Mark.PROBLEM for finding in findings)
