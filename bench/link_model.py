"""One direction of an emulated link: for each packet, whether it is lost and when it arrives.

A packet goes through, in this order:

1. blackout: while one lasts, whatever enters is lost; what entered before still arrives;
2. the bottleneck: a queue with a bound in time (tail drop) and a rate at which packets leave it;
3. random loss, behind the bottleneck: what is lost here has used its share of the rate;
4. the distance: the delay, and jitter on top of it.

Jitter is time that the distance adds, uniform between 0 and `jitter_ms`. It is drawn anew every
`jitter_hold_ms` and the same for all packets in between: drawn for each packet, and with order
kept, every packet would wait for the unluckiest one before it, and the delay would scarcely vary.
Order is kept: a packet never arrives before one that was sent earlier, unless it overtakes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

ns_per_ms: Final = 1_000_000
ns_per_s: Final = 1_000_000_000
never_ns: Final = 2**63
unlimited: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Blackout:
    """For so many seconds nothing gets through; `start_s` counts from the clock's start."""

    start_s: float
    seconds: float

    def __post_init__(self) -> None:
        _demand(self.start_s >= 0, "a blackout starts at 0 s or later")
        _demand(self.seconds > 0, "a blackout lasts longer than 0 s")


@dataclass(frozen=True, slots=True)
class RateStep:
    """From `at_s` on (counted from the clock's start) the bottleneck passes so many Mbit/s."""

    at_s: float
    mbps: float

    def __post_init__(self) -> None:
        _demand(self.at_s >= 0, "a rate step comes at 0 s or later")
        _demand(self.mbps > 0, "a rate is more than 0 Mbit/s; for none, use a blackout")


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """What one direction does to packets; sizes and rates are of whole IP packets, with headers.

    Raises `ValueError`, with what is wrong, where a value makes no sense.
    """

    delay_ms: float = 0.0
    """One way, without queue and serialisation."""
    jitter_ms: float = 0.0
    """The most that jitter adds to the delay; on average it adds half of this."""
    jitter_hold_ms: float = 10.0
    """For how long a draw of the jitter holds; 0 draws for each packet."""
    loss: float = 0.0
    """The probability that a packet is lost at random, independently of others."""
    reorder: float = 0.0
    """The probability that a packet overtakes those sent shortly before it."""
    reorder_ms: float = 5.0
    """By how much an overtaking packet is earlier; never earlier than it left the bottleneck."""
    rate_mbps: float | None = None
    """The bottleneck's rate; None passes everything at once."""
    queue_ms: float = 100.0
    """A packet that would wait longer than this for the bottleneck, at its rate of now, is lost."""
    blackouts: tuple[Blackout, ...] = ()
    rate_steps: tuple[RateStep, ...] = ()
    """In order of time; before the first one, `rate_mbps` holds."""
    seed: int = 1
    """The same seed and packets give the same link. Two directions are best seeded differently."""

    def __post_init__(self) -> None:
        for name in ("delay_ms", "jitter_ms", "jitter_hold_ms", "reorder_ms", "queue_ms"):
            _demand(0 <= getattr(self, name) < unlimited, f"{name} is 0 or more")
        for name in ("loss", "reorder"):
            _demand(0 <= getattr(self, name) <= 1, f"{name} is a probability, from 0 to 1")
        _demand(self.rate_mbps is None or self.rate_mbps > 0, "rate_mbps is more than 0, or None")
        starts = [step.at_s for step in self.rate_steps]
        _demand(all(a < b for a, b in pairwise(starts)), "rate_steps are in order of time")


@dataclass(slots=True)
class LinkCounts:
    """What became of the packets that entered; each is in exactly one of the first four numbers."""

    delivered: int = 0
    """Arrived, or on their way."""
    lost_random: int = 0
    lost_queue: int = 0
    lost_blackout: int = 0
    overtook: int = 0
    """Of the delivered: sent on early, past others if there were any."""
    delivered_bytes: int = 0
    max_queue_ms: float = 0.0
    """The longest that a delivered packet waited for the bottleneck."""
    largest_packet_bytes: int = 0


class LinkDirection:
    """Decides about packets in the order in which they are sent. O(1) for each packet.

    All times are nanoseconds of one monotonic clock and may stand still, but not go back.
    """

    def __init__(self, config: LinkConfig) -> None:
        self.counts = LinkCounts()
        self._random = random.Random(config.seed)  # noqa: S311 - repeatable, not secret
        self._loss = config.loss
        self._reorder = config.reorder
        self._delay_ns = round(config.delay_ms * ns_per_ms)
        self._reorder_ns = round(config.reorder_ms * ns_per_ms)
        self._queue_ns = config.queue_ms * ns_per_ms
        self._jitter_ns = config.jitter_ms * ns_per_ms
        self._jitter_hold_ns = round(config.jitter_hold_ms * ns_per_ms)
        self._blackouts = config.blackouts
        self._steps = config.rate_steps
        # Spans of constant rate, as (end in ns, bits in a ns); the first is the one of now.
        self._spans = [(never_ns, _bits_in_ns(config.rate_mbps))]
        self._clock_runs = False
        self._dark: list[tuple[int, int]] = []
        self._free_ns = 0
        self._newest_arrival_ns = 0
        self._jitter_now_ns = 0
        self._jitter_until_ns = 0

    def start_clock(self, now_ns: int) -> None:
        """Blackouts and rate steps count from now; raises `RuntimeError` the second time.

        What waits for the bottleneck now keeps the arrival it was given.
        """
        if self._clock_runs:
            raise RuntimeError("a link's clock starts once")
        self._clock_runs = True
        self._dark = [
            (begin, begin + round(blackout.seconds * ns_per_s))
            for blackout in self._blackouts
            for begin in (now_ns + round(blackout.start_s * ns_per_s),)
        ]
        starts = [now_ns + round(step.at_s * ns_per_s) for step in self._steps]
        rates = [self._spans[0][1], *(_bits_in_ns(step.mbps) for step in self._steps)]
        self._spans = list(zip([*starts, never_ns], rates, strict=True))

    def send(self, now_ns: int, size_bytes: int) -> int | None:
        """When a packet that enters now arrives; None if it never does."""
        counts = self.counts
        counts.largest_packet_bytes = max(counts.largest_packet_bytes, size_bytes)
        if any(begin <= now_ns < end for begin, end in self._dark):
            counts.lost_blackout += 1
            return None
        left_ns = self._leave_bottleneck(now_ns, size_bytes * 8)
        if left_ns is None:
            counts.lost_queue += 1
            return None
        if self._loss and self._random.random() < self._loss:
            counts.lost_random += 1
            return None
        counts.delivered += 1
        counts.delivered_bytes += size_bytes
        return self._cross(left_ns)

    def _leave_bottleneck(self, now_ns: int, bits: int) -> int | None:
        """When the packet's last bit is through, or None where the queue is full."""
        spans = self._spans
        while now_ns >= spans[0][0]:
            del spans[0]
        rate = spans[0][1]
        start_ns = max(now_ns, self._free_ns)
        wait_ns = start_ns - now_ns
        if wait_ns:
            if start_ns > spans[0][0]:
                # It is known when the queue will be empty, not how long that takes at today's rate.
                wait_ns = round(self._bits_between(now_ns, start_ns) / rate)
            if wait_ns > self._queue_ns:
                return None
            self.counts.max_queue_ms = max(self.counts.max_queue_ms, wait_ns / ns_per_ms)
        self._free_ns = self._time_after(start_ns, bits)
        return self._free_ns

    def _bits_between(self, begin_ns: int, end_ns: int) -> float:
        """How many bits the bottleneck passes from `begin_ns`, which is now or later, on."""
        bits = 0.0
        for span_end_ns, rate in self._spans:
            until_ns = min(span_end_ns, end_ns)
            if until_ns > begin_ns:
                bits += (until_ns - begin_ns) * rate
                begin_ns = until_ns
        return bits

    def _time_after(self, start_ns: int, bits: float) -> int:
        """When the bottleneck has passed these bits, beginning at `start_ns`, now or later."""
        for end_ns, rate in self._spans:
            if start_ns < end_ns:
                done_ns = start_ns + round(bits / rate)
                if done_ns <= end_ns:
                    return done_ns
                bits -= (end_ns - start_ns) * rate
                start_ns = end_ns
        raise AssertionError("the last span of a rate never ends")  # pragma: no cover

    def _cross(self, left_ns: int) -> int:
        """When what left the bottleneck then arrives."""
        arrival_ns = left_ns + self._delay_ns
        if self._jitter_ns:
            if left_ns >= self._jitter_until_ns:
                self._jitter_now_ns = round(self._random.random() * self._jitter_ns)
                self._jitter_until_ns = left_ns + self._jitter_hold_ns
            arrival_ns += self._jitter_now_ns
        arrival_ns = max(arrival_ns, self._newest_arrival_ns)
        if self._reorder and self._random.random() < self._reorder:
            self.counts.overtook += 1
            return max(left_ns, arrival_ns - self._reorder_ns)
        self._newest_arrival_ns = arrival_ns
        return arrival_ns


def _bits_in_ns(mbps: float | None) -> float:
    return unlimited if mbps is None else mbps / 1000


def _demand(condition: bool, rule: str) -> None:
    if not condition:
        raise ValueError(rule)
