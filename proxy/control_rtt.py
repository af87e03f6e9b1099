"""Round trips and repetitions on a control connection, told by what passes: without taking part.

ENet acknowledges each reliable command with the sender's own time of sending. Seen from the edge,
a command that goes to one side and its acknowledgement that comes back bound that side's round
trip: the client's is that of its network, the host's contains the tunnel, the agent and the host.
"""

from __future__ import annotations

from typing import Final

from moonlight.enet import CommandKind
from moonlight.enet_glance import Seen, glance

max_unacknowledged: Final = 128
"""Commands whose acknowledgement is awaited; with more of them the oldest is not timed."""
_smoothing: Final = 8
"""As ENet smooths: each round trip moves the figure by an eighth of the difference."""
_sequences: Final = 1 << 16


class RoundTrips:
    """What goes to one of the two sides, and how that side acknowledges it."""

    def __init__(self) -> None:
        self.rtt_s: float | None = None
        """Smoothed; None before the first acknowledgement."""
        self.retransmissions = 0
        """Reliable commands that passed again: their sender missed an acknowledgement."""
        self._newest: dict[int, int] = {}
        """Of each channel the newest reliable sequence."""
        self._waiting: dict[tuple[int, int], tuple[int, float]] = {}
        """By channel and sequence: the sender's time of sending, and ours of passing."""

    def pass_on(self, command: Seen, now: float) -> None:
        """Note a reliable command on its way to this side."""
        if command.kind == CommandKind.CONNECT:
            self._newest.clear()  # a new connection numbers anew
        newest = self._newest.get(command.channel)
        if newest is not None and not 0 < (command.sequence - newest) % _sequences < _sequences / 2:
            self.retransmissions += 1
        else:
            self._newest[command.channel] = command.sequence
        if command.sent_time is None:
            return
        self._waiting[command.channel, command.sequence] = command.sent_time, now
        if len(self._waiting) > max_unacknowledged:
            del self._waiting[next(iter(self._waiting))]

    def acknowledge(self, command: Seen, now: float) -> None:
        """Note an acknowledgement from this side."""
        waiting = self._waiting.get((command.channel, command.sequence))
        if waiting is None or waiting[0] != command.sent_time:
            return  # of an earlier passing: who knows when that was
        del self._waiting[command.channel, command.sequence]
        took_s = now - waiting[1]
        self.rtt_s = (
            took_s if self.rtt_s is None else self.rtt_s + (took_s - self.rtt_s) / _smoothing
        )


class ControlWatch:
    """Both sides of one session's control connection."""

    def __init__(self) -> None:
        self.client = RoundTrips()
        self.host = RoundTrips()
        """Behind the tunnel, which is part of its round trips."""

    def to_host(self, datagram: bytes | memoryview, now: float) -> bool:
        """Note a datagram of the client; tell whether it ends the connection."""
        seen = glance(datagram)
        _note(seen, self.host, self.client, now)
        return any(command.kind == CommandKind.DISCONNECT for command in seen)

    def to_client(self, datagram: bytes | memoryview, now: float) -> None:
        """Note a datagram of the host."""
        _note(glance(datagram), self.client, self.host, now)


def _note(seen: list[Seen], ahead: RoundTrips, behind: RoundTrips, now: float) -> None:
    for command in seen:
        if command.kind == CommandKind.ACKNOWLEDGE:
            behind.acknowledge(command, now)
        elif command.reliable:
            ahead.pass_on(command, now)
