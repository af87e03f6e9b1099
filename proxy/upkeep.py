"""What time alone brings about: launches nobody came for, dead hosts' sessions, overdue drains."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import structlog
import trio

from backends.errors import StoreError
from moonlight.identity import short_id
from proxy.config import ProxyConfig
from proxy.errors import Refused
from proxy.events import EventKind
from proxy.fleet import Fleet
from proxy.lost_sessions import LostSessions
from proxy.media import Media
from proxy.play import Play
from proxy.session_keeper import SessionKeeper
from proxy.sessions import Session, SessionId

_log = structlog.get_logger()

round_s: Final = 5.0


class Upkeep:
    """Looks after sessions and backends every few seconds, for as long as the edge runs."""

    def __init__(
        self, config: ProxyConfig, fleet: Fleet, keeper: SessionKeeper, play: Play, media: Media
    ) -> None:
        self.apply(config)
        self._fleet = fleet
        self._keeper = keeper
        self._play = play
        self._media = media
        self.lost_sessions = LostSessions(fleet, keeper.table, play, media)
        self._heard: dict[SessionId, int] = {}
        self._began_at = 0.0

    def apply(self, config: ProxyConfig) -> None:
        """Go by what another configuration says of absence."""
        self._absence_s = config.selection.absence_s

    async def run(self) -> None:
        """Make rounds until cancelled."""
        self._began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_hosts_forever)
            nursery.start_soon(self.lost_sessions.run)
            while True:
                await trio.sleep(round_s)
                await self.make_round()

    async def make_round(self) -> None:
        """Pause what was abandoned, end what runs nowhere any more, read the drains anew."""
        async with trio.open_nursery() as nursery:
            # Side by side, since a store that hangs holds up each of them.
            nursery.start_soon(self._keeper.pause_abandoned)
            nursery.start_soon(self._ask_store)
            for session, why in self._lost_sessions():
                nursery.start_soon(self._end_lost, session, why)

    async def _ask_store(self) -> None:
        try:
            await self._fleet.load_drains()
            await self._keeper.delete_ended()
        except StoreError as error:
            _log.error("store_not_asked", why=str(error))

    def _lost_sessions(self) -> list[tuple[SessionId, str]]:
        heard = {
            session.id: self._media.heard_from_host(session.id) for session in self._keeper.table
        }
        # A host that is too busy to answer probes may well go on streaming.
        silent = (
            session
            for session in self._keeper.table
            if heard[session.id] == self._heard.get(session.id)
        )
        lost = [(session.id, why) for session in silent if (why := self._lost(session)) is not None]
        self._heard = heard
        return lost

    async def _end_lost(self, session: SessionId, why: str) -> None:
        try:
            await self._play.end_lost(session, why)
        except Refused as error:
            _log.info("session_not_ended_yet", session=session, why=str(error))

    def _lost(self, session: Session) -> str | None:
        if self._fleet.is_down(session.backend):
            return "host_down"
        gone = self._fleet.backend(session.backend) is None
        # After a restart of this edge its agents are still to come.
        if gone and trio.current_time() - self._began_at > self._absence_s:
            return "backend_gone"
        return None

    async def _ask_hosts_forever(self) -> None:
        # By itself, since hosts take their time.
        while True:
            await trio.sleep(round_s)
            await self.end_overdue()
            await self._play.settle()

    async def end_overdue(self) -> None:
        """End the sessions of backends that have drained up to their deadline.

        While an agent is away its host cannot be told: in a later round, then.
        """
        now = datetime.now(UTC)
        async with trio.open_nursery() as nursery:
            for session in self._keeper.table:
                backend = session.backend
                if self._fleet.is_connected(backend) and self._fleet.is_overdue(backend, now):
                    self._fleet.events.note(
                        EventKind.DRAIN_OVERDUE,
                        backend,
                        session=session.id,
                        client=short_id(session.client),
                    )
                    nursery.start_soon(self._end_at_host, session.id)

    async def _end_at_host(self, session: SessionId) -> None:
        try:
            await self._play.end_at_host(session)
        except Refused as error:  # its client is being served: in the next round, then
            _log.info("session_not_ended_yet", session=session, why=str(error))
