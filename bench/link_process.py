"""The process that is the emulated link: it owns two namespaces and forwards between them.

It is started by `bench.wan`, which writes a `Plan` as JSON to its standard input as the first line
and one word a line after that; for every line it answers with one line of JSON:

- the plan itself: answered `{}` once both ends are up;
- ``clock``: blackouts and rate steps count from now; answered `{}`;
- ``counts``: answered with a `LinkReport`.

When its standard input ends, however that came about, or after the plan's `max_seconds`, it
removes both namespaces and ends.
"""

from __future__ import annotations

import gc
import heapq
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from bench import namespaces
from bench.link_model import LinkConfig, LinkCounts, LinkDirection, ns_per_s

priority: Final = 5
"""Among the real-time priorities, 1 to 99: before all normal processes is what matters."""
max_batch_packets: Final = 64
"""Read from one end before what is due at the other end is looked at again."""
max_read_bytes: Final = 65536
late_bins: Final = 2000
us_per_late_bin: Final = 10
_idle_s: Final = 1.0
_stdin: Final = 0
_stdout: Final = 1


@dataclass(frozen=True, slots=True)
class End:
    """A namespace and its address, with the length of the prefix."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Both ends and what happens in between: `up` is from near to far, `down` the way back."""

    near: End
    far: End
    up: LinkConfig
    down: LinkConfig
    max_seconds: float


@dataclass(frozen=True, slots=True)
class LinkReport:
    """What the link did since it began. The link's own faults are the last six fields."""

    up: LinkCounts
    down: LinkCounts
    cpu_s: float
    """Processor time of the link's process; the kernel's share includes what receives from it."""
    wall_s: float
    late_p50_us: float
    """By how much packets were written later than decided, to the next 10 us; at most 20 ms."""
    late_p99_us: float
    late_max_us: float
    overflowed: int
    """Packets that the kernel lost since the link read its device too slowly."""
    refused: int
    """Packets that the kernel would not take from the link."""
    forgotten: int
    """Packets still on their way."""


@dataclass(slots=True)
class Lateness:
    """A histogram of how late packets were written, both directions together."""

    bins: list[int] = field(default_factory=lambda: [0] * (late_bins + 1))
    max_ns: int = 0

    def quantile_us(self, share: float) -> float:
        """At most this late were so many of all packets; 0 where there were none."""
        wanted = sum(self.bins) * share
        seen = 0
        for number, count in enumerate(self.bins):
            seen += count
            if count and seen >= wanted:
                return float((number + 1) * us_per_late_bin)
        return 0.0


class Direction:
    """Packets from one descriptor to the other, held in between until they are due."""

    def __init__(self, config: LinkConfig, source: int, sink: int, lateness: Lateness) -> None:
        self.model = LinkDirection(config)
        self.refused = 0
        self._source = source
        self._sink = sink
        self._lateness = lateness
        self._sent = 0
        self._on_the_way: list[tuple[int, int, bytes]] = []

    @property
    def on_the_way(self) -> int:
        """How many packets have entered and neither arrived nor been lost."""
        return len(self._on_the_way)

    @property
    def next_due_ns(self) -> int | None:
        """When the next packet arrives, in the time of `time.monotonic_ns`."""
        return self._on_the_way[0][0] if self._on_the_way else None

    def take(self, now_ns: int) -> None:
        """Read what has come, as having entered now."""
        for _ in range(max_batch_packets):
            try:
                packet = os.read(self._source, max_read_bytes)
            except BlockingIOError:
                return
            due_ns = self.model.send(now_ns, len(packet))
            if due_ns is not None:
                self._sent += 1
                heapq.heappush(self._on_the_way, (due_ns, self._sent, packet))

    def deliver(self, now_ns: int) -> None:
        """Write what is due."""
        waiting, lateness = self._on_the_way, self._lateness
        while waiting and waiting[0][0] <= now_ns:
            due_ns, _, packet = heapq.heappop(waiting)
            try:
                os.write(self._sink, packet)
            except OSError:
                self.refused += 1
            late_ns = time.monotonic_ns() - due_ns
            lateness.bins[min(late_ns // (us_per_late_bin * 1000), late_bins)] += 1
            lateness.max_ns = max(lateness.max_ns, late_ns)


class Link:
    """Both directions, and the commands that come on standard input."""

    def __init__(self, plan: Plan, near: int, far: int) -> None:
        self._plan = plan
        self._near, self._far = near, far
        self._lateness = Lateness()
        self._up = Direction(plan.up, near, far, self._lateness)
        self._down = Direction(plan.down, far, near, self._lateness)
        self._began_ns = time.monotonic_ns()
        self._began_cpu_s = time.process_time()
        self._commands = b""

    def run(self) -> None:
        """Forward until standard input ends; exits with a message if the time is over first."""
        end_ns = self._began_ns + round(self._plan.max_seconds * ns_per_s)
        descriptors = [self._near, self._far, _stdin]
        while (now_ns := time.monotonic_ns()) < end_ns:
            ready, _, _ = select.select(descriptors, [], [], self._pause_s(now_ns))
            now_ns = time.monotonic_ns()
            if self._near in ready:
                self._up.take(now_ns)
            if self._far in ready:
                self._down.take(now_ns)
            if _stdin in ready and not self._obey(now_ns):
                return
            now_ns = time.monotonic_ns()
            self._up.deliver(now_ns)
            self._down.deliver(now_ns)
        sys.exit(f"The emulated link ends: its {self._plan.max_seconds:g} s are over.")

    def _pause_s(self, now_ns: int) -> float:
        due = [way.next_due_ns for way in (self._up, self._down) if way.next_due_ns is not None]
        if not due:
            return _idle_s
        return min(max(0, min(due) - now_ns) / ns_per_s, _idle_s)

    def _obey(self, now_ns: int) -> bool:
        data = os.read(_stdin, max_read_bytes)
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            if line == b"clock":
                self._up.model.start_clock(now_ns)
                self._down.model.start_clock(now_ns)
                _answer({})
            elif line == b"counts":
                _answer(self._report())
            else:
                raise ValueError(f"not a command of the link: {line!r}")
        return bool(data)

    def _report(self) -> LinkReport:
        ends = (self._plan.near, self._plan.far)
        return LinkReport(
            up=self._up.model.counts,
            down=self._down.model.counts,
            cpu_s=time.process_time() - self._began_cpu_s,
            wall_s=(time.monotonic_ns() - self._began_ns) / ns_per_s,
            late_p50_us=self._lateness.quantile_us(0.5),
            late_p99_us=self._lateness.quantile_us(0.99),
            late_max_us=self._lateness.max_ns / 1000,
            overflowed=sum(namespaces.device_drops(end.name) for end in ends),
            refused=self._up.refused + self._down.refused,
            forgotten=self._up.on_the_way + self._down.on_the_way,
        )


def main() -> None:
    """Be the link that standard input asks for, until it ends."""
    # Whoever started it stops it; by a signal only if the process hangs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    plan = msgspec.json.decode(_first_line(), type=Plan)
    with _ends(plan) as (near, far):
        _hurry()
        link = Link(plan, near, far)
        _answer({})
        link.run()


@contextmanager
def _ends(plan: Plan) -> Iterator[tuple[int, int]]:
    """Make both namespaces with their devices, and remove them again."""
    with ExitStack() as stack:
        descriptors = []
        for end in (plan.near, plan.far):
            stack.callback(namespaces.remove, end.name)
            namespaces.create(end.name)
            descriptor = namespaces.open_tun(end.name, end.address)
            stack.callback(os.close, descriptor)
            descriptors.append(descriptor)
        yield descriptors[0], descriptors[1]


def _hurry() -> None:
    """Run before everything else on the machine: a late link is another link than asked for."""
    gc.freeze()
    gc.disable()
    # Nice -20 is not enough: beside two busy processes, one packet in a hundred was 3 ms late.
    with suppress(PermissionError):  # some containers allow namespaces, but no priority
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(_stdin, 1)
        if not byte:
            raise EOFError("standard input ended before the plan")
        line += byte
    return line


def _answer(value: LinkReport | dict[str, str]) -> None:
    os.write(_stdout, msgspec.json.encode(value) + b"\n")


if __name__ == "__main__":
    main()
