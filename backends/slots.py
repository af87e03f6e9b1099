"""The slots given out at one backend, counted beside what its host reports.

The host reports a number of sessions, late; the edge knows at once the slots that it gave out
itself. A slot counts on its own until a report that came after its session had started must have
included it. So neither a session started just now nor one that somebody started at the host
directly is missed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.model import BackendId


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """One slot at a backend, from the decision until the session's end; equal to itself only."""

    backend_id: BackendId


@dataclass(slots=True)
class Slots:
    """`started` are sessions, the others launches under way; `included` are in the last report."""

    taken: set[Reservation] = field(default_factory=set)
    started: set[Reservation] = field(default_factory=set)
    included: set[Reservation] = field(default_factory=set)
    measured: dict[Reservation, float] = field(default_factory=dict)
    """When GPU memory was first measured with a started session in it."""
    settled: set[Reservation] = field(default_factory=set)
    """Those whose GPU memory no longer grows: what was measured last holds them."""
    reported: int = 0
    """Sessions that the host counted last."""

    @property
    def unreported(self) -> int:
        """How many are too young to be in what the host reported."""
        return len(self.taken) - len(self.included)

    @property
    def unsettled(self) -> int:
        """How many may come to need more GPU memory than was measured."""
        return len(self.taken) - len(self.settled)

    @property
    def sessions(self) -> int:
        """How many sessions and launches there are, as far as both sides know."""
        # A report can be older than the start of a session that we take it to include.
        return max(len(self.taken), self.reported + self.unreported)

    def report(self, sessions: int) -> None:
        """Take in the host's own number."""
        self.reported = max(0, sessions)
        self.included = set(self.started)

    def measure(self, *, now: float, growth_s: float) -> None:
        """Note that the host's GPU memory was measured; sessions grow for `growth_s`."""
        for reservation in self.started:
            self.measured.setdefault(reservation, now)
        self.settled = {
            reservation for reservation, at in self.measured.items() if now - at >= growth_s
        }

    def start(self, reservation: Reservation) -> None:
        """Note that a launch has become a session."""
        if reservation in self.taken:
            self.started.add(reservation)

    def release(self, reservation: Reservation) -> None:
        """Give a slot back; more than once does no harm."""
        if reservation in self.included:
            # Or the slot would stay taken until the next report.
            self.reported = max(0, self.reported - 1)
        for group in (self.taken, self.started, self.included, self.settled):
            group.discard(reservation)
        self.measured.pop(reservation, None)
