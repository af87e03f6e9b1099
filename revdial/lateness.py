"""How late a message is, by the sender's clock, though nobody knows what that clock shows.

Each batch carries microseconds of its sender's clock. The difference to our own clock is unknown,
but it is the same for all, so a batch is as late as it took longer than the fastest of the last
while. Clocks that drift apart by 100 millionths move that by 6 ms in a window. When everything has
been late for a while, that is the new measure.
"""

from __future__ import annotations

import math
from typing import Final

window_s: Final = 30.0
"""The fastest of one to two of these counts."""
max_late_s: Final = 1.5
"""When all have been late for so long, that is how long it takes."""
tolerated_us: Final = 100_000
"""Less than this is not late in that sense."""
_modulus: Final = 1 << 32


class Lateness:
    """Of the batches of one flow, in the order in which they come."""

    def __init__(self) -> None:
        self._base_us: int | None = None
        self._fastest_us = math.inf
        self._fastest_before_us = math.inf
        self._window_ends_s = -math.inf
        self._late_since_s = math.inf
        self._fastest_late_us = math.inf

    def note(self, sent_us: int, now_s: float) -> float:
        """Take a batch that was sent at `sent_us` (u32, wrapping); tell its lateness in seconds."""
        transit_us = int(now_s * 1_000_000) - sent_us
        if self._base_us is None:
            self._base_us = transit_us
        # As a signed number of 32 bits: clocks agree to half an hour from the first batch on.
        relative_us = (transit_us - self._base_us + _modulus // 2) % _modulus - _modulus // 2
        if now_s >= self._window_ends_s:
            missed = now_s >= self._window_ends_s + window_s
            self._fastest_before_us = math.inf if missed else self._fastest_us
            self._fastest_us = math.inf
            self._window_ends_s = now_s + window_s
        self._fastest_us = min(self._fastest_us, relative_us)
        late_us = relative_us - min(self._fastest_us, self._fastest_before_us)
        if late_us < tolerated_us:
            self._late_since_s = math.inf
        elif self._late_since_s == math.inf:
            self._late_since_s, self._fastest_late_us = now_s, relative_us
        else:
            self._fastest_late_us = min(self._fastest_late_us, relative_us)
            if now_s - self._late_since_s > max_late_s:
                # Not a stall that ends: the path is longer now, or a clock has jumped.
                self._fastest_us, self._fastest_before_us = self._fastest_late_us, math.inf
                self._late_since_s = math.inf
                late_us = relative_us - self._fastest_us
        return late_us / 1_000_000
