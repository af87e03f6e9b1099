"""How unevenly batches come through a tunnel, as RFC 3550 §6.4.1 counts it."""

from __future__ import annotations

from typing import Final

_modulus: Final = 1 << 32
_gain: Final = 16


class Jitter:
    """Of one flow: the smoothed difference of how long two batches in a row took.

    A batch stands for a packet: it carries microseconds of its sender's clock, which need not be
    ours. So this is what tunnel and network add; how unevenly a host sends is not in it.
    """

    def __init__(self) -> None:
        self._us = 0.0
        self._transit_us: int | None = None

    @property
    def seconds(self) -> float:
        """The jitter as of the last batch."""
        return self._us / 1_000_000

    def note(self, sent_us: int, now_s: float) -> None:
        """Take a batch that was sent at `sent_us` (u32, wrapping) and came at `now_s`."""
        transit_us = (int(now_s * 1_000_000) - sent_us) % _modulus
        if self._transit_us is not None:
            apart_us = (transit_us - self._transit_us) % _modulus
            self._us += (min(apart_us, _modulus - apart_us) - self._us) / _gain
        self._transit_us = transit_us

    def restart(self) -> None:
        """Forget the last batch: what comes next has another sender, with another clock."""
        self._transit_us = None
