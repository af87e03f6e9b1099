"""What waits to enter a slow tunnel, bounded in time, because late video is worse than lost video.

A flow's reader pushes whole batches as they arrive and never waits; the flow's sender pops one
whenever the tunnel takes it. What has waited longer than the limit when the sender comes is
dropped from the head, whole batches, oldest first; what survives is sent at once and in order.
A bound in bytes holds whatever the sender does. Every drop is counted in datagrams.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Drop(StrEnum):
    """Why a batch left the backlog unsent."""

    STALE = "stale"
    """It had waited longer than the limit."""
    OVERFULL = "overfull"
    """Newer batches needed its place."""


@dataclass(frozen=True, slots=True)
class BacklogLimits:
    """How much may wait: milliseconds since arrival (`None`: any time), and bytes."""

    limit_ms: float | None
    max_bytes: int


def limits_of(flow: str) -> BacklogLimits:
    """The limits of a flow by its kind; what is not video or audio is held by bytes only."""
    if flow == "video":
        return BacklogLimits(limit_ms=50.0, max_bytes=2**21)
    if flow == "audio":
        return BacklogLimits(limit_ms=100.0, max_bytes=2**18)
    return BacklogLimits(limit_ms=None, max_bytes=2**18)


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    batch: T
    size_bytes: int
    datagrams: int
    arrived_s: float


class Backlog(Generic[T]):
    """Batches in order of arrival. Push and pop are O(1), amortised over what they drop."""

    def __init__(self, limits: BacklogLimits) -> None:
        self._limit_s = None if limits.limit_ms is None else limits.limit_ms / 1000
        self._max_bytes = limits.max_bytes
        self._entries: deque[_Entry[T]] = deque()
        self.size_bytes = 0
        self.dropped: Counter[Drop] = Counter()
        """Datagrams, by why they were dropped."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def datagrams(self) -> int:
        """How many datagrams wait."""
        return sum(entry.datagrams for entry in self._entries)

    def push(self, batch: T, size_bytes: int, datagrams: int, now_s: float) -> None:
        """Take a batch that arrived now; older ones give way where it would be too much."""
        self._entries.append(_Entry(batch, size_bytes, datagrams, now_s))
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            self.dropped[Drop.OVERFULL] += self._take().datagrams

    def pop(self, now_s: float) -> T | None:
        """The oldest batch that is still fresh, or None; drops the stale ones before it."""
        while self._entries:
            entry = self._take()
            if self._limit_s is None or now_s - entry.arrived_s <= self._limit_s:
                return entry.batch
            self.dropped[Drop.STALE] += entry.datagrams
        return None

    def age_s(self, now_s: float) -> float:
        """How long the oldest batch has waited; 0 where none waits."""
        return now_s - self._entries[0].arrived_s if self._entries else 0.0

    def _take(self) -> _Entry[T]:
        entry = self._entries.popleft()
        self.size_bytes -= entry.size_bytes
        return entry
