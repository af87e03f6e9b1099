"""Counting under labels that others may have a say in, and distributions: for `proxy.metrics`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

other: Final = "other"


class Tally:
    """How often each combination of labels came, of a bounded number of them.

    Those that are `expected` are there from the start, at 0, and always have their place. Of
    others there are at most `max_others`, since a host or an agent may have made them up; what
    comes after that is counted with the last label being ``other``.
    """

    def __init__(self, expected: Iterable[tuple[str, ...]] = (), *, max_others: int = 32) -> None:
        self._counts: dict[tuple[str, ...], int] = dict.fromkeys(expected, 0)
        self._left = max_others

    def __getitem__(self, labels: tuple[str, ...]) -> int:
        return self._counts.get(labels, 0)

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], int]]:
        return iter(sorted(self._counts.items()))

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, *labels: str) -> None:
        """Count one."""
        if labels not in self._counts:
            if self._left <= 0:
                labels = (*labels[:-1], other)
            else:
                self._left -= 1
        self._counts[labels] = self._counts.get(labels, 0) + 1


class Histogram:
    """How many values were at most each of some bounds; seconds, most often."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def observe(self, value: float) -> None:
        """Take a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return how many were at most as large as each bound, the last being ``+Inf``."""
        names = (*(repr(float(bound)) for bound in self._bounds), "+Inf")
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))
