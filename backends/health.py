"""When a host counts as down, and when again as up: three misses, and a damped recovery.

One lost probe is no outage, so it takes several in a row to take a host out. Nor is one answer a
recovery: a host that keeps falling over has to answer longer each time before it gets players
again, up to a bound, until it has stood for a while.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HealthRules:
    """Probes come with each heartbeat, every 10 s."""

    misses: int = 3
    """So many in a row, and the host is down."""
    answers: int = 2
    """So many in a row bring it back after a first fall; twice as many after each further one."""
    max_answers: int = 16
    forgiven_after_s: float = 1_800.0
    """Standing for so long makes a fall count as the first again."""


class HostHealth:
    """What the probes of one host add up to; up until proven otherwise."""

    __slots__ = ("_answers", "_falls", "_misses", "_rules", "_stands_since", "up")

    def __init__(self, rules: HealthRules) -> None:
        self._rules = rules
        self._misses = 0
        self._answers = 0
        self._falls = 0
        self._stands_since = -math.inf
        self.up = True

    def note(self, answered: bool, *, now: float) -> None:
        """Take in a probe's outcome; `now` is a monotonic clock in seconds."""
        if answered:
            self._misses = 0
            self._answers += 1
            if not self.up and self._answers >= self._answers_needed():
                self.up = True
                self._stands_since = now
        else:
            self._answers = 0
            self._misses += 1
            if self.up and self._misses >= self._rules.misses:
                self._fall(now)

    def _fall(self, now: float) -> None:
        if now - self._stands_since > self._rules.forgiven_after_s:
            self._falls = 0
        self.up = False
        self._falls += 1

    def _answers_needed(self) -> int:
        doubled = self._rules.answers << min(self._falls - 1, 16)
        return min(doubled, self._rules.max_answers)
