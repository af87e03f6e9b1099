"""What one run through an impaired link comes to, and several runs together: numbers only."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from bench.impaired_cases import Case
from bench.player import percentile

warm_up_s: Final = 2.0
"""Of each run, in which TCP finds out what the link carries: counted, but of no age."""
normal_extra_ms: Final = 60.0
"""By how much a frame may be older than the way takes, and things are still normal."""
burst_window_s: Final = 0.016
drop_reasons: Final = ("flow_parity", "flow_stale", "flow_overfull")
_congestion_controls: Final = re.compile(r"\b(bbr|cubic|reno)\b")


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of which something arrived; times are seconds of the machine's monotonic clock."""

    made_s: float
    whole_s: float | None
    """When enough had come to decode it; None if that never was."""

    @property
    def age_ms(self) -> float:
        """How old it was when it became whole; infinite if it never did."""
        return math.inf if self.whole_s is None else (self.whole_s - self.made_s) * 1000


@dataclass(frozen=True, slots=True)
class Observation:
    """What a run showed."""

    start_s: float
    """When the link's clock and the stream began."""
    frames_sent: int
    datagrams_sent: int
    datagrams_arrived: int
    frames: tuple[Frame, ...]
    control_ms: tuple[tuple[float, float], ...]
    """Of each answered question: when it was asked (monotonic seconds), and its round trip."""
    dropped: Mapping[str, int]
    """Video datagrams dropped at the agent, by the names of `drop_reasons`."""
    congestion_control: str
    link: Mapping[str, Any]
    cpu: Mapping[str, float]


def frames_of(told: Iterable[Mapping[str, float]]) -> tuple[Frame, ...]:
    """Return what the player tells of its frames (see `bench.player.frames`)."""
    return tuple(Frame(one["made_s"], one["whole_s"] or None) for one in told)


def figures(case: Case, queue: str, seen: Observation) -> dict[str, Any]:
    """Return the figures of one run.

    Ages and control are of what was made or asked after `warm_up_s`; counts are of the whole run.
    """
    settled_s = seen.start_s + warm_up_s
    ages_ms = ages_since(seen.frames, settled_s)
    control_ms = [ms for asked_s, ms in seen.control_ms if asked_s >= settled_s]
    whole = sum(frame.whole_s is not None for frame in seen.frames)
    ended_s = None if case.ended_s is None else seen.start_s + case.ended_s
    is_blackout = bool(case.link.blackouts)
    return {
        "case": case.name,
        "queue": queue,
        "rtt_ms": case.rtt_ms,
        "age_p50_ms": percentile(ages_ms, 0.5),
        "age_p99_ms": percentile(ages_ms, 0.99),
        "age_max_ms": max(ages_ms, default=None),
        "frames_sent": seen.frames_sent,
        "frames_whole": whole,
        "frames_partial": len(seen.frames) - whole,
        "dropped": _dropped(seen),
        "control_p99_ms": percentile(control_ms, 0.99),
        "recovery_ms": None if ended_s is None else recovery_ms(seen.frames, ended_s, case.rtt_ms),
        "burst_frames": (
            largest_burst(seen.frames, ended_s) if is_blackout and ended_s is not None else None
        ),
        "congestion_control": seen.congestion_control,
        "link": dict(seen.link),
        "cpu": dict(seen.cpu),
    }


def ages_since(frames: Iterable[Frame], since_s: float) -> list[float]:
    """Return the ages in ms of the whole frames that were made since then."""
    return [
        frame.age_ms for frame in frames if frame.whole_s is not None and frame.made_s >= since_s
    ]


def recovery_ms(frames: Iterable[Frame], ended_s: float, rtt_ms: float) -> float | None:
    """Return how long after the impairment's end fresh video was there again; None for never.

    Fresh is the first frame that was made after the end and is no older than half a round trip
    and `normal_extra_ms`.
    """
    fresh = [
        frame.whole_s
        for frame in frames
        if frame.whole_s is not None
        and frame.made_s >= ended_s
        and frame.age_ms <= rtt_ms / 2 + normal_extra_ms
    ]
    return (min(fresh) - ended_s) * 1000 if fresh else None


def largest_burst(frames: Iterable[Frame], after_s: float, window_s: float = burst_window_s) -> int:
    """Return the most frames that became whole within one window that begins after `after_s`."""
    times = sorted(
        frame.whole_s for frame in frames if frame.whole_s is not None and frame.whole_s >= after_s
    )
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] > window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


def drops_told(log: str, flow: str = "video") -> dict[str, int]:
    """Add up what an agent's log says was dropped of flows of one kind, by `drop_reasons`."""
    counted: Counter[str] = Counter(dict.fromkeys(drop_reasons, 0))
    for line in log.splitlines():
        if '"flow_ended"' in line:
            entry = msgspec.json.decode(line)
            if entry["flow"] == flow:
                counted.update({f"flow_{why}": n for why, n in entry["dropped"].items()})
    return dict(counted)


def congestion_control_of(sockets: str) -> str:
    """Return which congestion control connections have, from what ``ss -tin`` says of them."""
    return "+".join(sorted(set(_congestion_controls.findall(sockets)))) or "unknown"


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the median of every number of several runs, also in dicts within them.

    None counts for nothing, unless it is all there is; what is no number is taken from the last.
    """
    return {key: _median([run[key] for run in runs]) for key in runs[-1]}


def _median(values: list[Any]) -> Any:
    if isinstance(values[-1], Mapping):
        return medians(values)
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int | float) for value in known):
        return statistics.median(known)
    return known[-1] if known else None


def late_at_edge(metrics: Mapping[str, float]) -> dict[str, int]:
    """Return how many datagrams an edge dropped because they came too late, from its metrics."""
    name = 'moonhost_datagrams_dropped_total{reason="late_'
    return {"late": int(sum(value for key, value in metrics.items() if key.startswith(name)))}


def _dropped(seen: Observation) -> dict[str, int]:
    by_us = sum(seen.dropped.values())
    return {
        **seen.dropped,
        "frames_never_arrived": seen.frames_sent - len(seen.frames),
        # Sent, but neither arrived nor dropped by our rules: still queued at the end, or
        # lost by a kernel.
        "datagrams_unaccounted": seen.datagrams_sent - seen.datagrams_arrived - by_us,
    }
