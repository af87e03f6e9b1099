"""How long an agent waits before it dials again, so that a thousand do not come back at once.

After a lost or failed connection: full jitter, anything between nothing and as long as it has been
away already, within `base_s` and `cap_s`. So all are back about an outage's length after its end;
a ceiling that doubles at each try would grow also where the tries came quickly. After an answer
that trying again does not change (a refused token, a certificate that does not verify): slowly,
between half the cap and the cap. After being replaced by another agent with the same id: slower
still, so that two of them do not fight.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum


class Outcome(Enum):
    """How one attempt to be connected ended."""

    LOST = "lost"
    """It was welcomed, and went away."""
    FAILED = "failed"
    """It was never welcomed: refused connection, time-out, an answer that is not this protocol."""
    UNAUTHORISED = "unauthorised"
    """The edge does not take the token."""
    UNTRUSTED = "untrusted"
    """The edge's certificate does not verify."""
    REPLACED = "replaced"
    """Another connection with this agent's id took over."""


_SLOW = (Outcome.UNAUTHORISED, Outcome.UNTRUSTED)


class Backoff:
    """Delays between attempts; `random_unit` yields numbers from 0 to 1."""

    def __init__(
        self,
        random_unit: Callable[[], float] = random.random,
        *,
        base_s: float = 0.5,
        cap_s: float = 30.0,
        replaced_s: float = 30.0,
        reset_after_s: float = 10.0,
    ) -> None:
        self._random_unit = random_unit
        self._base_s = base_s
        self._cap_s = cap_s
        self._replaced_s = replaced_s
        self._reset_after_s = reset_after_s
        self._away_s = 0.0

    def next_delay(self, outcome: Outcome, lasted_s: float = 0.0, tried_s: float = 0.0) -> float:
        """Seconds to wait now, after a connection that ended so and had lasted so long.

        `tried_s` is how long it took to find out that there was none.
        """
        if lasted_s >= self._reset_after_s:
            self._away_s = 0.0
        if outcome is Outcome.REPLACED:
            return self._replaced_s * (1 + self._random_unit())
        if outcome in _SLOW:
            return self._cap_s * (1 + self._random_unit()) / 2
        self._away_s += tried_s
        ceiling_s = min(max(self._away_s, self._base_s), self._cap_s)
        delay_s = ceiling_s * self._random_unit()
        self._away_s += delay_s
        return delay_s
