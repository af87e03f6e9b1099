"""What happened at an edge lately, for people who look at it: the last events, in memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

_log = structlog.get_logger()

max_events: Final = 1_000


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a backend, a drain or a session."""

    at: datetime
    kind: str
    subject: str
    """The backend's, agent's or session's id."""
    details: dict[str, str]


class Events:
    """The newest events."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=max_events)

    def note(self, kind: str, subject: str, **details: str) -> None:
        """Keep and log an event of a backend or an agent; it may hold no secret."""
        self.keep(kind, subject, **details)
        named = {"backend" if "/" in subject else "agent": subject}
        _log.info(kind, **named, **details)

    def keep(self, kind: str, subject: str, **details: str) -> None:
        """Keep an event that is logged elsewhere."""
        self._events.append(Event(datetime.now(UTC), kind, subject, details))

    def newest(self) -> list[Event]:
        """Give the events, the newest first."""
        return list(reversed(self._events))
