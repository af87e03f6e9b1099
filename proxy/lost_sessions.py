"""Finds the sessions that their hosts have lost or ended without a word, and ends them here too.

A host that has restarted, or whose app has ended, may have no way to tell. So whenever something
speaks for it, the host is asked as the session's client would ask: what ``/serverinfo`` says over
HTTPS about that client is the truth, and nothing else ends a session here. A count that is wrong,
or a host that does not answer, costs a request and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog
import trio

from proxy.errors import Refused
from proxy.events import EventKind
from proxy.fleet import Fleet
from proxy.media import Media
from proxy.play import Play
from proxy.sessions import Session, SessionId, SessionState, SessionTable

_log = structlog.get_logger()

look_interval_s: Final = 2.0
"""A stream from which nothing has come for so long is not flowing."""
suspect_interval_s: Final = 10.0
"""How often a host is asked about one session that it seems to have lost."""
paused_interval_s: Final = 60.0
"""How often about a paused one, where the host counts none of its sessions."""
max_asked: Final = 16
"""Requests to hosts at a time; the others have to wait for the next look."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What speaks for or against a session being there at its host, at one moment.

    Times are seconds of the edge's clock.
    """

    state: SessionState
    since: float
    """When it entered that state."""
    flowing: bool
    """Something has come from its host since the last look."""
    missing: int | None
    """How many sessions the host ought to have counted and did not; None if it counts none."""
    asked_at: float | None
    """When the host was last asked about it."""


def is_suspect(signs: Signs, now: float) -> bool:
    """Tell whether a host should be asked now whether it still has a session."""
    if signs.flowing or (signs.state is SessionState.LAUNCHED and not signs.missing):
        return False
    if signs.asked_at is None or signs.asked_at < signs.since:
        # Also where nothing is missing: a client that leaves may have been told to by its host.
        return True
    if signs.missing or signs.state is SessionState.STREAMING:
        return now - signs.asked_at >= suspect_interval_s
    return signs.missing is None and now - signs.asked_at >= paused_interval_s


class LostSessions:
    """Looks after all sessions every few seconds, off the data path."""

    def __init__(self, fleet: Fleet, table: SessionTable, play: Play, media: Media) -> None:
        self._fleet = fleet
        self._table = table
        self._play = play
        self._media = media
        self._heard: dict[SessionId, int] = {}
        self._asked_at: dict[SessionId, float] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await trio.sleep(look_interval_s)
            await self.look()

    async def look(self) -> None:
        """Ask hosts about the sessions that they seem to have lost, and end those that are."""
        suspects = self._suspects(trio.current_time())
        async with trio.open_nursery() as nursery:
            for session in suspects[:max_asked]:
                self._asked_at[session.id] = trio.current_time()
                nursery.start_soon(self._ask, session)

    def _suspects(self, now: float) -> list[Session]:
        heard = {session.id: self._media.heard_from_host(session.id) for session in self._table}
        suspects = [
            session
            for session in self._table
            if self._fleet.is_connected(session.backend)
            and is_suspect(self._signs(session, heard), now)
        ]
        self._heard = heard
        self._asked_at = {one: at for one, at in self._asked_at.items() if one in heard}
        # Those asked about the longest ago first, so that each has its turn.
        return sorted(suspects, key=lambda session: self._asked_at.get(session.id, 0.0))

    def _signs(self, session: Session, heard: dict[SessionId, int]) -> Signs:
        return Signs(
            session.state,
            session.since,
            # At the first look it may flow for all one knows.
            flowing=session.state is not SessionState.PAUSED
            and heard[session.id] != self._heard.get(session.id),
            missing=self._fleet.missing_sessions(session.backend),
            asked_at=self._asked_at.get(session.id),
        )

    async def _ask(self, session: Session) -> None:
        try:
            lost = await self._play.end_if_gone(session.id)
        except Refused as error:  # its client is being served: at a later look, then
            _log.info("session_not_asked_about", **session.names, why=str(error))
            return
        if lost:
            self._fleet.events.keep(EventKind.SESSION_LOST, session.backend, session=session.id)
