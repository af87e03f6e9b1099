"""What waits to enter a slow tunnel, bounded in time, because late video is worse than lost video.

A flow's reader pushes runs of datagrams as they arrive and never waits; whenever the tunnel takes
something, `pop` says what goes next. While the oldest has waited less than `parity_limit_ms`
everything goes, in order, and nobody looks into a datagram. After that

1. parity is dropped wherever it waits: the tunnel loses nothing that it could repair;
2. what has waited longer than `limit_ms` is dropped from the head, by whole frames.

A frame of which something was sent is completed, whatever its age: part of a frame is of no use to
anybody. A frame that was dropped stays dropped, also what of it arrives later. A bound in bytes
holds in any case. Every drop is counted in datagrams.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from revdial.framing import Buffer, Run, gather, max_run_bytes

max_message_bytes: Final = max_run_bytes
"""Of datagrams popped at a time: what was popped can no longer be dropped. No run is larger."""
overhead_bytes: Final = 4
"""What a datagram counts for beside its own bytes; so empty ones are bounded, too."""
enough_bytes: Final = 8_192
"""A frame that fills this much goes alone, so that those behind it can still be dropped."""


class Drop(StrEnum):
    """Why a datagram left the backlog unsent."""

    PARITY = "parity"
    """It was parity, and there was no time for it."""
    STALE = "stale"
    """Its frame had waited longer than the limit."""
    OVERFULL = "overfull"
    """Newer datagrams needed its place."""


Classify: TypeAlias = Callable[[Buffer], tuple[int | None, bool]]
"""Tells of a datagram which others it is of use with, None where it is of use alone (a frame's
number), and whether it is parity."""


def each_alone(_: Buffer) -> tuple[int | None, bool]:
    """Take every datagram for one that is of use alone."""
    return None, False


@dataclass(frozen=True, slots=True)
class BacklogLimits:
    """How much may wait: milliseconds since arrival (`None`: any time), and bytes."""

    limit_ms: float | None
    max_bytes: int
    parity_limit_ms: float | None = None
    """From when on parity is dropped; `None`: as `limit_ms`."""


def limits_of(flow: str) -> BacklogLimits:
    """The limits of a flow by its kind; what is not video or audio is held by bytes only."""
    if flow == "video":
        return BacklogLimits(limit_ms=50.0, max_bytes=2**21, parity_limit_ms=25.0)
    if flow == "audio":
        return BacklogLimits(limit_ms=100.0, max_bytes=2**18, parity_limit_ms=50.0)
    return BacklogLimits(limit_ms=None, max_bytes=2**18)


@dataclass(slots=True)
class _Frame:
    """The datagrams of one frame that wait."""

    index: int | None
    arrived_s: float
    data: deque[tuple[Buffer, bool]] = field(default_factory=deque)
    """Each with whether it is parity, in order of arrival."""


class Backlog:
    """Runs in order of arrival. Push and pop are linear in what they take and drop."""

    def __init__(self, limits: BacklogLimits, classify: Classify = each_alone) -> None:
        self._limit_s = None if limits.limit_ms is None else limits.limit_ms / 1000
        parity_limit_ms = limits.parity_limit_ms or limits.limit_ms
        self._parity_limit_s = None if parity_limit_ms is None else parity_limit_ms / 1000
        self._max_bytes = limits.max_bytes
        self._classify = classify
        # What was looked into is older than what was not.
        self._frames: deque[_Frame] = deque()
        self._arrivals: deque[tuple[Run, float]] = deque()
        self._last_sent: Run | None = None
        self._begun: int | None = None
        self._refused: int | None = None
        self._parity_waits = False
        self.size_bytes = 0
        self.datagrams = 0
        """How many datagrams wait."""
        self.dropped: Counter[Drop] = Counter()
        """Datagrams, by why they were dropped."""
        self.dropped_frames = 0
        """Frames that were dropped whole, or what had come of them."""

    def push(self, runs: Iterable[Run], now_s: float) -> None:
        """Take runs that arrived now; older ones give way where it would be too much."""
        for run in runs:
            self._arrivals.append((run, now_s))
            self.size_bytes += _cost(run)
            self.datagrams += len(run)
        if self._refused is not None or self._is_late(now_s):
            self._look()
            self._shed(now_s)
        if self.size_bytes > self._max_bytes:
            self._make_room()

    def pop(self, now_s: float) -> list[Run]:
        """What to send now, at most `max_message_bytes`; nothing where nothing waits."""
        if self._is_late(now_s):
            self._look()
            self._shed(now_s)
        return self._pop_frames() if self._frames else self._pop_arrivals()

    def age_s(self, now_s: float) -> float:
        """How long the oldest datagram has waited; 0 where none waits."""
        if self._frames:
            return now_s - self._frames[0].arrived_s
        return now_s - self._arrivals[0][1] if self._arrivals else 0.0

    def _is_late(self, now_s: float) -> bool:
        return self._parity_limit_s is not None and self.age_s(now_s) > self._parity_limit_s

    def _look(self) -> None:
        """Sort what has arrived into frames, and refuse the rest of one that was dropped."""
        if self._last_sent is not None:
            *_, last = self._last_sent.datagrams()
            self._begun, _ = self._classify(last)
            self._last_sent = None
        while self._arrivals:
            run, arrived_s = self._arrivals.popleft()
            for datagram in run.datagrams():
                self._sort(datagram, arrived_s)

    def _sort(self, datagram: Buffer, arrived_s: float) -> None:
        index, parity = self._classify(datagram)
        if index is None or index != self._refused:
            self._refused = None
            frame = self._frames[-1] if self._frames else None
            if frame is None or index is None or frame.index != index:
                frame = _Frame(index, arrived_s)
                self._frames.append(frame)
            frame.data.append((datagram, parity))
            self._parity_waits |= parity
        else:
            self._drop(Drop.STALE, [datagram])

    def _shed(self, now_s: float) -> None:
        """Drop what is late, parity first."""
        if self._limit_s is None or not self._is_late(now_s):
            return
        self._drop_parity()
        oldest_s = now_s - self._limit_s
        while (stale := self._oldest_droppable()) and stale.arrived_s < oldest_s:
            self._drop_frame(stale, Drop.STALE)

    def _make_room(self) -> None:
        self._look()
        self._drop_parity()
        while self.size_bytes > self._max_bytes:
            # One frame alone that is too much loses what waits of it, and what is to come.
            self._drop_frame(self._oldest_droppable() or self._frames[0], Drop.OVERFULL)

    def _drop_parity(self) -> None:
        if not self._parity_waits:
            return
        self._parity_waits = False
        for frame in self._frames:
            parity = [datagram for datagram, is_parity in frame.data if is_parity]
            if parity:
                self._drop(Drop.PARITY, parity)
                frame.data = deque(shard for shard in frame.data if not shard[1])
        self._frames = deque(frame for frame in self._frames if frame.data)

    def _oldest_droppable(self) -> _Frame | None:
        """Return the oldest frame of which nothing was sent."""
        for frame in self._frames:
            if frame.index is None or frame.index != self._begun:
                return frame
        return None

    def _drop_frame(self, frame: _Frame, why: Drop) -> None:
        self._drop(why, [datagram for datagram, _ in frame.data])
        self.dropped_frames += 1
        if frame is self._frames[-1]:
            self._refused = frame.index
        if frame is self._frames[0]:
            self._frames.popleft()
        else:
            self._frames.remove(frame)

    def _drop(self, why: Drop, datagrams: list[Buffer]) -> None:
        self.dropped[why] += len(datagrams)
        self.datagrams -= len(datagrams)
        self.size_bytes -= sum(map(len, datagrams)) + overhead_bytes * len(datagrams)

    def _pop_arrivals(self) -> list[Run]:
        runs: list[Run] = []
        room_bytes = max_message_bytes
        while self._arrivals:
            run = self._arrivals[0][0]
            room_bytes -= _cost(run)
            if runs and room_bytes < 0:
                break
            self._arrivals.popleft()
            self.size_bytes -= _cost(run)
            self.datagrams -= len(run)
            runs.append(run)
            self._last_sent = run
        return runs

    def _pop_frames(self) -> list[Run]:
        taken: list[Buffer] = []
        size_bytes = 0
        while self._frames:
            frame = self._frames[0]
            while frame.data:
                size = len(frame.data[0][0]) + overhead_bytes
                if taken and size_bytes + size > max_message_bytes:
                    break
                taken.append(frame.data.popleft()[0])
                size_bytes += size
                self._begun = frame.index
            if frame.data:
                break
            self._frames.popleft()
            if size_bytes > enough_bytes:
                break
        self.size_bytes -= size_bytes
        self.datagrams -= len(taken)
        return list(gather(taken))


def _cost(run: Run) -> int:
    return len(run.data) + overhead_bytes * len(run)
