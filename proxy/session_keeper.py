"""Keeps the sessions: every change of one is made, stored and logged here, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
import trio

from backends.errors import StoreError
from backends.records import StickyRecord
from backends.store import Store
from moonlight.errors import ProtocolError, printable
from moonlight.flows import Flow
from moonlight.identity import short_id
from moonlight.launch import RtspUrl
from proxy.config import ProxyConfig
from proxy.events import EventKind
from proxy.fleet import Fleet
from proxy.keeping_apart import KeepingApart
from proxy.session_records import from_record, to_record
from proxy.sessions import (
    FlowTerms,
    PortRules,
    Session,
    SessionId,
    SessionPorts,
    SessionState,
    SessionTable,
    VideoEncryptor,
)
from revdial.networks import plain_address

_log = structlog.get_logger()


class SessionFlows(Protocol):
    """What there is to say about a session's media."""

    def stop(self, session: SessionId) -> None:
        """Stop the flows of a session."""

    def forget(self, session: SessionId) -> None:
        """Stop the flows of a session that has ended."""


class SessionKeeper:
    """The sessions of an edge, and what happens to them.

    A store that is away refuses new sessions and stops none that runs.

    Args:
        config: the edge's configuration.
        store: where sessions and stickiness are kept.
        fleet: gives and takes the slots at backends.
        flows: the media of sessions.

    """

    def __init__(
        self, config: ProxyConfig, store: Store, fleet: Fleet, flows: SessionFlows
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._events = fleet.events
        self._flows = flows
        self.apply(config)
        self._fewer = trio.Event()
        self._undeleted: set[SessionId] = set()
        listen = config.listen
        self.table = SessionTable(PortRules(listen.rtsp_port_range, listen.own_udp_port_range))
        self.apart = KeepingApart(fleet, self.table)

    def apply(self, config: ProxyConfig) -> None:
        """Go by what another configuration says of times."""
        self._sticky_ttl = timedelta(seconds=config.selection.sticky_ttl_s)
        self._launch_window_s = config.sessions.launch_window_s

    async def begin(self, session: Session) -> None:
        """Take up a session that its host has launched.

        Raises:
            backends.errors.StoreError: the store is away; nothing is left of the session here.

        """
        self.table.add(session)
        try:
            expires_at = datetime.now(UTC) + self._sticky_ttl
            await self._store.put_sticky(StickyRecord(session.client, session.backend, expires_at))
            # Last, so that no session stays in the store that is none.
            await self._store.add_session(to_record(session))
        except BaseException:
            self.table.remove(session.id, trio.current_time())
            # What timed out may be written all the same.
            self._undeleted.add(session.id)
            raise
        self._fleet.started(session.reservation)
        self._events.keep(
            EventKind.SESSION_STARTED,
            session.id,
            client=short_id(session.client),
            backend=session.backend,
            app=printable(session.app_title),
            mode=session.mode,
        )
        _log.info(
            "session_launched",
            **session.names,
            client_address=session.client_address,
            app=session.app_title,
            mode=session.mode,
            rtsp_port=session.rtsp_port,
            **_encryption(session),
        )

    async def begin_anew(
        self, session: Session, address: str, host_rtsp: RtspUrl, ports: SessionPorts
    ) -> None:
        """Let a session that its host resumed have a new handshake, from `address`."""
        self._flows.stop(session.id)
        session.flows.clear()
        session.control_client = None
        session.kbps = session.codec = session.audio_channels = None
        session.video = replace(session.video, by=VideoEncryptor.NOBODY)
        session.sealer = None
        session.host_rtsp = host_rtsp
        self.table.await_handshake(session, address, ports, trio.current_time())
        self._note_state(session)
        _log.info(
            "session_resumed",
            **session.names,
            client_address=address,
            rtsp_port=session.rtsp_port,
            **_encryption(session),
        )
        await self._write(session)

    async def pause(self, session_id: SessionId, why: str) -> None:
        """Note that a session's client is gone; the app goes on and can be resumed.

        It may have been paused before, and have had flows set up since.
        """
        session = self.table.get(session_id)
        if session is not None:
            self._flows.stop(session.id)
            self.table.move(session, SessionState.PAUSED, trio.current_time())
            self.apart.over(session.backend, session.id)
            self._note_fewer()
            self._note_state(session, reason=why)
            _log.info("session_paused", **session.names, reason=why)
            await self._write(session)

    async def pause_abandoned(self) -> None:
        """Pause the sessions whose client launched and then never came."""
        deadline = trio.current_time() - self._launch_window_s
        for session in self.table:
            if session.state is SessionState.LAUNCHED and session.since < deadline:
                await self.pause(session.id, "no_handshake")

    async def end(self, session: Session, why: str) -> None:
        """Forget a session and stop its media; more than once does no harm."""
        self._flows.forget(session.id)
        if self.table.remove(session.id, trio.current_time()) is None:
            return
        self._fleet.release(session.reservation)
        self.apart.over(session.backend, session.id)
        self._note_fewer()
        self._events.keep(EventKind.SESSION_ENDED, session.id, backend=session.backend, reason=why)
        _log.info("session_ended", **session.names, reason=why)
        self._undeleted.add(session.id)
        try:
            await self._delete(session.id)
        except StoreError as error:
            _log.error("session_not_deleted_from_the_store", **session.names, why=str(error))

    async def delete_ended(self) -> None:
        """Delete from the store what could not be deleted when it ended.

        Raises:
            backends.errors.StoreError: the store is still away.

        """
        for session_id in list(self._undeleted):
            await self._delete(session_id)

    async def _delete(self, session_id: SessionId) -> None:
        await self._store.delete_session(session_id)
        self._undeleted.discard(session_id)

    async def forget_place(self, session: Session) -> None:
        """Have a client start afresh, now that where it played is no more."""
        try:
            await self._store.delete_sticky(session.client, session.backend)
        except StoreError as error:
            _log.error("sticky_entry_not_deleted", **session.names, why=str(error))

    async def note_flow(self, session: Session, kind: Flow, terms: FlowTerms) -> None:
        """Keep what the RTSP handshake settled for a flow."""
        session.flows[kind] = terms
        await self._write(session)

    async def note_video(self, session: Session) -> None:
        """Keep who encrypts video, and which counters are set aside for it."""
        await self._write(session)

    async def note_rtsp_sequence(self, session: Session, sequence: int) -> None:
        """Keep how far a session's RTSP has counted: an edge that restarts must not begin anew."""
        session.rtsp_sequence = sequence
        await self._write(session)

    async def note_control_client(self, session_id: SessionId, client: tuple[str, int]) -> None:
        """Keep where a client's control connection comes from, for an edge that restarts.

        That is where the client is now, wherever it was when it launched.
        """
        session = self.table.get(session_id)
        if session is not None and session.control_client != client:
            session.control_client = client
            session.client_address = plain_address(client[0])
            await self._write(session)

    async def note_streaming(self, session: Session) -> None:
        """Note that the host accepted PLAY."""
        self.table.move(session, SessionState.STREAMING, trio.current_time())
        self.apart.over(session.backend, session.id)
        self._note_state(session)
        _log.info("session_streaming", **session.names)
        await self._write(session)

    async def wait_until_quiet(self) -> None:
        """Wait until no session streams or is about to."""
        while any(session.state is not SessionState.PAUSED for session in self.table):
            await self._fewer.wait()

    async def restore(self) -> None:
        """Take up the sessions that an earlier edge process left in the store."""
        # The newest of a client is the one that its host knows.
        records = await self._store.list_sessions()
        newest = {record.client_id: record for record in records}
        for record in records:
            names = {
                "session": record.id,
                "client": short_id(record.client_id),
                "backend": record.backend_id,
            }
            if newest[record.client_id] is not record:
                await self._store.delete_session(record.id)
                _log.warning("session_in_the_store_had_ended", **names)
                continue
            reservation = self._fleet.restore(record.backend_id)
            try:
                session = from_record(record, reservation, now=trio.current_time())
                self.table.add(session)
            except (ValueError, ProtocolError):
                self._fleet.release(reservation)
                await self._store.delete_session(record.id)
                _log.warning("session_in_the_store_is_of_another_version", **names)
            else:
                _log.info("session_restored", **session.names)

    def _note_state(self, session: Session, **details: str) -> None:
        self._events.keep(EventKind.SESSION_STATE, session.id, state=str(session.state), **details)

    def _note_fewer(self) -> None:
        self._fewer.set()
        self._fewer = trio.Event()

    async def _write(self, session: Session) -> None:
        if self.table.get(session.id) is not session:
            return  # it ended meanwhile, and must not come back to life at the next start
        try:
            await self._store.update_session(to_record(session))
        except StoreError as error:
            _log.error("session_not_written_to_the_store", **session.names, why=str(error))


def _encryption(session: Session) -> dict[str, bool]:
    """Return on which legs a session's RTSP is encrypted, for the log."""
    return {
        "rtsp_encrypted": session.rtsp_encrypted,
        "host_rtsp_encrypted": session.host_rtsp.encrypted,
    }
