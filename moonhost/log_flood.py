"""How many lines of one event a minute of the log has room for, where strangers decide how many."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

strangers_events: Final = frozenset(
    {
        "admin_token_wrong",
        "agent_connection_failed",
        "agent_connection_refused",
        "bad_control_message",
        "connection_failed",
        "http_refused",
        "https_refused",
        "library_message",
        "pairing_asked_for",
        "pairing_broken_off",
        "pairing_ended",
        "pairing_refused",
        "proxy_header_refused",
        "request_refused",
        "rtsp_refused",
        "websocket_library_error",
    }
)
"""Events that anybody can bring about who reaches a port."""
max_lines: Final = 20
minute_s: Final = 60.0


@dataclass(frozen=True, slots=True)
class Suppressed:
    """How many lines of an event were left out in a minute that is over."""

    event: str
    lines: int


class LineLimiter:
    """Admits `max_lines` lines of each event a minute, which begins with the first of them.

    `now` is a monotonic clock in seconds.
    """

    def __init__(
        self, events: frozenset[str] = strangers_events, *, max_lines: int = max_lines
    ) -> None:
        self.suppressed: Counter[str] = Counter()
        """Lines that were left out, by event."""
        self._events = events
        self._max_lines = max_lines
        self._minutes: dict[str, tuple[float, int]] = {}

    def admits(self, event: str, now: float) -> bool:
        """Tell whether a line may be written, after `over` has been asked; count it if not."""
        if event not in self._events:
            return True
        since, lines = self._minutes.get(event, (now, 0))
        self._minutes[event] = since, lines + 1
        if lines < self._max_lines:
            return True
        self.suppressed[event] += 1
        return False

    def over(self, now: float) -> tuple[Suppressed, ...]:
        """Begin new minutes for the events whose minute is over; say what was left out in those."""
        ended = [event for event, (since, _) in self._minutes.items() if now - since >= minute_s]
        left_out = ((event, self._minutes.pop(event)[1] - self._max_lines) for event in ended)
        return tuple(Suppressed(event, lines) for event, lines in left_out if lines > 0)
