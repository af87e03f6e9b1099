"""What happened at an edge lately, for people who look at it: the last events, in memory.

Events are numbered one by one. The first number is taken from the clock, so that those of an edge
that was restarted are higher than what it gave before, and nobody takes one for another.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import structlog
import trio

_log = structlog.get_logger()

max_events: Final = 1_000


class EventKind(enum.StrEnum):
    """What can happen; the subject's id is that of what the name begins with."""

    BACKEND_STATE = "backend_state"
    CLIENT_CHANGED = "client_changed"
    """Its name or its user."""
    CLIENT_PAIRED = "client_paired"
    CLIENT_UNPAIRED = "client_unpaired"
    DRAIN_BEGAN = "drain_began"
    DRAIN_ENDED = "drain_ended"
    DRAIN_OVERDUE = "drain_overdue"
    """A backend's; a session of it is ended."""
    EVENTS_MISSED = "events_missed"
    """Told to one reader alone: there were more than are kept, or the edge was restarted."""
    HOST_TELLS_SESSIONS_APART = "host_tells_sessions_apart"
    """Or not any more; it changes how many a backend is given."""
    LAUNCH_FAILED = "launch_failed"
    """At a backend."""
    LAUNCH_WITHOUT_BACKEND = "launch_without_backend"
    """A client's."""
    PAIRING_ASKED = "pairing_asked"
    PAIRING_ENDED = "pairing_ended"
    SESSION_ENDED = "session_ended"
    SESSION_LOST = "session_lost"
    """A backend's: its host knows no more of the session."""
    SESSION_STARTED = "session_started"
    SESSION_STATE = "session_state"
    WAKE = "wake"
    """Of a backend."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a backend, a drain, a client, a pairing or a session."""

    id: int
    at: datetime
    kind: EventKind
    subject: str
    """What it happened to: an id, of a client its beginning."""
    details: dict[str, str]


class Events:
    """The newest events.

    Args:
        max_kept: how many; who asks more seldom than so many happen misses some.
        first_id: the first event's; None: of the clock, in ms.

    """

    def __init__(self, max_kept: int = max_events, first_id: int | None = None) -> None:
        self._events: deque[Event] = deque(maxlen=max_kept)
        self._before_first = (time.time_ns() // 1_000_000 if first_id is None else first_id) - 1
        self.last_id = self._before_first
        """Of the newest event; without any, of one before the first."""
        self._noted = trio.Event()

    def note(self, kind: EventKind, subject: str, **details: str) -> None:
        """Keep and log an event of a backend or an agent; it may hold no secret."""
        self.keep(kind, subject, **details)
        named = {"backend" if "/" in subject else "agent": subject}
        _log.info(str(kind), **named, **details)

    def keep(self, kind: EventKind, subject: str, **details: str) -> None:
        """Keep an event that is logged elsewhere."""
        self.last_id += 1
        self._events.append(Event(self.last_id, datetime.now(UTC), kind, subject, details))
        self._noted.set()
        self._noted = trio.Event()

    def newest(self) -> list[Event]:
        """Give the events, the newest first."""
        return list(reversed(self._events))

    def since(self, seen_id: int) -> list[Event]:
        """Give what came after an event, the oldest first.

        Where some of it is not kept any more the first one given says so, and how many they are;
        to who has seen an event of an edge that was another, it gives all and says that.
        """
        behind = self.last_id - seen_id
        is_ours = seen_id >= self._before_first and behind >= 0
        kept = list(islice(self._events, max(0, len(self._events) - behind), None))
        if is_ours and len(kept) == behind:
            return kept
        if is_ours:
            how = {"reason": "too_slow", "count": str(behind - len(kept))}
        else:
            kept, how = list(self._events), {"reason": "edge_restarted"}
        return [self._missed(self.last_id - len(kept), how), *kept]

    def _missed(self, up_to_id: int, how: dict[str, str]) -> Event:
        return Event(up_to_id, datetime.now(UTC), EventKind.EVENTS_MISSED, "edge", how)

    async def wait_for_newer(self, seen_id: int) -> None:
        """Wait until `since` has something to give; the caller sets the deadline."""
        while seen_id == self.last_id:
            await self._noted.wait()
