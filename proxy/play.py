"""Launch, resume and cancel: from a client's request to a session, and to its end."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import structlog
import trio

from backends.apps import CatalogueApp
from backends.errors import NoBackend, StoreError
from backends.model import BackendId
from backends.records import StickyRecord
from backends.selection import LaunchIntent
from backends.store import Store
from moonlight.errors import Malformed, ProtocolError
from moonlight.flows import Flow
from moonlight.http import Query
from moonlight.identity import ClientId
from moonlight.launch import (
    LaunchRequest,
    RtspUrl,
    cancel_answer,
    launch_answer,
    resume_answer,
    session_url,
)
from moonlight.xml import Answer
from moonlight.xml import HostRefused as HostAnsweredError
from proxy.config import ProxyConfig
from proxy.errors import EdgeError, HostRefused, HostUnavailable, Refused
from proxy.fleet import Fleet
from proxy.host_pairing import HostPairing, host_unique_id
from proxy.hosts import HostRequest, ask_xml
from proxy.session_records import from_record, to_record
from proxy.sessions import (
    FlowTerms,
    Session,
    SessionId,
    SessionState,
    SessionTable,
    new_session_id,
)

_log = structlog.get_logger()

cancel_timeout_s: Final = 20.0
undo_timeout_s: Final = 5.0
unauthorized: Final = 401
_label_bytes: Final = 10


class SessionFlows(Protocol):
    """What `Play` has to say about media."""

    def stop(self, session: SessionId) -> None:
        """Stop the flows of a session."""

    def forget(self, session: SessionId) -> None:
        """Stop the flows of a session that has ended."""


class Play:
    """What clients do with apps. Sessions change here and nowhere else.

    Args:
        config: the edge's configuration.
        store: where sessions, pairings and stickiness are kept.
        fleet: the backends.
        pairing: gives clients their identities at hosts.
        flows: the media of sessions.

    """

    def __init__(
        self,
        config: ProxyConfig,
        store: Store,
        fleet: Fleet,
        pairing: HostPairing,
        flows: SessionFlows,
    ) -> None:
        self._config = config
        self._store = store
        self._fleet = fleet
        self._pairing = pairing
        self._flows = flows
        self._client_locks: dict[ClientId, trio.Lock] = {}
        self.sessions = SessionTable(config.listen.rtsp_port_range)
        self.accepting = True
        """False once the edge drains: no new launches, sessions go on."""
        self._fewer = trio.Event()

    async def launch(self, client: ClientId, address: str, query: Query) -> Answer:
        """Launch an app, or go on with it if this client's session runs it already.

        Raises:
            Refused: the client cannot have what it asks for; the message is for its user.

        """
        request = _parsed(query, resume=False)
        async with self._lock(client):
            running = self.sessions.of_client(client)
            if running is not None and not self._is_lost(running):
                if running.app_id != request.app_id:
                    raise Refused(
                        400,
                        "app_already_running",
                        f'"{running.app_title}" is still running for you. Quit it first.',
                    )
                url = await self._resume(running, address, request)
                return launch_answer(url)
            if running is not None:
                await self._end(running, "backend_gone")
            return launch_answer(await self._launch(client, address, request))

    async def resume(self, client: ClientId, address: str, query: Query) -> Answer:
        """Go on with the client's running app, on the backend where it runs.

        Raises:
            Refused: nothing runs, or its backend cannot be reached.

        """
        request = _parsed(query, resume=True)
        async with self._lock(client):
            session = self.sessions.of_client(client)
            if session is None:
                raise Refused(503, "nothing_to_resume", "No app is running for you any more.")
            return resume_answer(await self._resume(session, address, request))

    async def cancel(self, client: ClientId, query: Query) -> Answer:
        """End the client's app: at the host if it can be reached, and here in any case."""
        async with self._lock(client):
            session = self.sessions.of_client(client)
            if session is not None:
                await self._end_at_host(session, query)
        return cancel_answer()

    async def end_at_host(self, session_id: SessionId) -> bool:
        """End a session as its client's cancel would; False if there is none of that id."""
        session = self.sessions.get(session_id)
        if session is None:
            return False
        async with self._lock(session.client):
            await self._end_at_host(session, Query.of(("uniqueid", host_unique_id)))
        return True

    async def _end_at_host(self, session: Session, query: Query) -> None:
        request = HostRequest("/cancel", query, session.id, timeout_s=cancel_timeout_s)
        try:
            await self._ask_as(session.client, session.backend, request)
        except (EdgeError, StoreError) as error:
            _log.warning(
                "app_not_ended_at_its_host",
                session=session.id,
                backend=session.backend,
                reason=error.reason,
                why=str(error),
            )
        await self._end(session, "cancelled")

    def current_app(self, client: ClientId) -> int:
        """Return the id of the app that runs for a client, 0 for none."""
        session = self.sessions.of_client(client)
        return 0 if session is None else session.app_id

    async def end(self, session_id: SessionId, why: str) -> bool:
        """Forget a session and stop its media; False if there is none of that id."""
        session = self.sessions.get(session_id)
        if session is not None:
            await self._end(session, why)
        return session is not None

    async def pause(self, session_id: SessionId, why: str) -> None:
        """Note that a session's client is gone; the app goes on and can be resumed."""
        session = self.sessions.get(session_id)
        if session is not None and session.state is not SessionState.PAUSED:
            self._flows.stop(session.id)
            session.move_to(SessionState.PAUSED, trio.current_time())
            self._note_fewer()
            _log.info("session_paused", session=session.id, why=why)
            await self._write(session)

    async def note_flow(self, session: Session, kind: Flow, terms: FlowTerms) -> None:
        """Keep what the RTSP handshake settled for a flow."""
        session.flows[kind] = terms
        await self._write(session)

    async def note_control_client(self, session_id: SessionId, client: tuple[str, int]) -> None:
        """Keep where a client's control connection comes from, for an edge that restarts."""
        session = self.sessions.get(session_id)
        if session is not None and session.control_client != client:
            session.control_client = client
            await self._write(session)

    async def note_streaming(self, session: Session) -> None:
        """Note that the host accepted PLAY."""
        session.move_to(SessionState.STREAMING, trio.current_time())
        _log.info("session_streaming", session=session.id, backend=session.backend)
        await self._write(session)

    async def wait_until_quiet(self) -> None:
        """Wait until no session streams or is about to."""
        while any(session.state is not SessionState.PAUSED for session in self.sessions):
            await self._fewer.wait()

    def _note_fewer(self) -> None:
        self._fewer.set()
        self._fewer = trio.Event()

    async def pause_abandoned(self) -> None:
        """Pause the sessions whose client launched and then never came."""
        deadline = trio.current_time() - self._config.sessions.launch_window_s
        for session in self.sessions:
            if session.state is SessionState.LAUNCHED and session.since < deadline:
                await self.pause(session.id, "no_handshake")

    async def restore(self) -> None:
        """Take up the sessions that an earlier edge process left in the store."""
        for record in await self._store.list_sessions():
            reservation = self._fleet.restore(record.backend_id)
            try:
                session = from_record(record, reservation, now=trio.current_time())
                self.sessions.add(session)
            except (ValueError, ProtocolError):
                self._fleet.release(reservation)
                await self._store.delete_session(record.id)
                _log.warning("session_in_the_store_is_of_another_version", session=record.id)
            else:
                _log.info("session_restored", session=session.id, backend=session.backend)

    async def _launch(self, client: ClientId, address: str, request: LaunchRequest) -> RtspUrl:
        if not self.accepting:
            raise Refused(503, "draining", "This server is about to restart. Try again soon.")
        if len(self.sessions) >= self._config.sessions.max_sessions:
            raise Refused(503, "too_many_sessions", "This server is full. Please try again later.")
        app = await self._app(request)
        intent = LaunchIntent(client, app.title)
        try:
            decision, reservation = await self._fleet.choose(intent)
        except NoBackend as error:
            raise Refused(503, error.reason, str(error)) from error
        backend = decision.backend.id
        _log.info("backend_chosen", client=client[:12], backend=backend, reason=decision.reason)
        session_id = new_session_id()
        host_url: RtspUrl | None = None
        try:
            query = request.to_query(app_id=app.offers[backend])
            host_url = await self._launch_at_host(client, session_id, backend, query)
            session = Session(
                id=session_id,
                client=client,
                client_address=address,
                backend=backend,
                app_id=app.id,
                app_title=app.title,
                mode="{}x{}x{}".format(*request.mode),
                label=secrets.token_hex(_label_bytes),
                rtsp_port=self._rtsp_port(address, session_id),
                host_rtsp=host_url,
                state=SessionState.LAUNCHED,
                since=trio.current_time(),
                reservation=reservation,
            )
            await self._begin(session)
        except BaseException:
            self._fleet.release(reservation)
            if host_url is not None:
                await self._undo_launch(client, backend, session_id, request.query)
            raise
        return _own_url(session)

    async def _app(self, request: LaunchRequest) -> CatalogueApp:
        catalogue = await self._fleet.catalogue()
        app = catalogue.by_id(request.app_id or 0)
        if app is None:
            raise Refused(404, "no_such_app", "No computer that has this app is online right now.")
        return app

    async def _launch_at_host(
        self, client: ClientId, session_id: SessionId, backend: BackendId, query: Query
    ) -> RtspUrl:
        request = HostRequest(
            "/launch", query, session_id, timeout_s=self._config.sessions.launch_timeout_s
        )
        try:
            return await self._url_from_host(client, backend, request)
        except EdgeError as error:
            raise Refused(
                503, error.reason, "The computer chosen for you did not start the app. Try again."
            ) from error

    async def _url_from_host(
        self, client: ClientId, backend: BackendId, request: HostRequest
    ) -> RtspUrl:
        """Launch or resume at a host, pairing anew if it has forgotten the client."""
        answer = await self._ask_as(client, backend, request)
        if answer.status_code == unauthorized:
            await self._pairing.forget(client, backend)
            answer = await self._ask_as(client, backend, request)
        try:
            url = session_url(answer)
        except HostAnsweredError as error:
            raise HostRefused(error.status_code, "host_refused", f"{backend}: {error}") from error
        except ProtocolError as error:
            raise HostRefused(502, error.reason, f"{backend}: {error}") from error
        if url.encrypted:
            raise HostRefused(
                502, "rtsp_encrypted", f"{backend} wants encrypted RTSP: turn that off at the host"
            )
        return url

    async def _ask_as(self, client: ClientId, backend: BackendId, request: HostRequest) -> Answer:
        context = await self._pairing.context_for(client, backend)
        return await ask_xml(self._fleet, backend, request, context)

    async def _begin(self, session: Session) -> None:
        self.sessions.add(session)
        try:
            await self._store.put_session(to_record(session))
            expires_at = datetime.now(UTC) + timedelta(seconds=self._config.selection.sticky_ttl_s)
            await self._store.put_sticky(StickyRecord(session.client, session.backend, expires_at))
        except BaseException:
            self.sessions.remove(session.id)
            raise
        self._fleet.started(session.reservation)
        _log.info(
            "session_launched",
            session=session.id,
            client=session.client[:12],
            client_address=session.client_address,
            backend=session.backend,
            app=session.app_title,
            mode=session.mode,
            rtsp_port=session.rtsp_port,
        )

    async def _undo_launch(
        self, client: ClientId, backend: BackendId, session_id: SessionId, query: Query
    ) -> None:
        """End an app that a host started for a session that could not begin."""
        request = HostRequest("/cancel", query, session_id, timeout_s=undo_timeout_s)
        with trio.CancelScope(shield=True):
            try:
                await self._ask_as(client, backend, request)
            except (EdgeError, StoreError) as error:
                _log.warning("app_left_running_at_its_host", backend=backend, why=str(error))

    async def _resume(self, session: Session, address: str, request: LaunchRequest) -> RtspUrl:
        query = request.query
        if not request.resume:
            query = await self._as_host_query(session, request)
        elif query.get("mode") is None:
            query = query.replaced(mode=session.mode)
        host_request = HostRequest(
            "/resume", query, session.id, timeout_s=self._config.sessions.launch_timeout_s
        )
        try:
            host_url = await self._url_from_host(session.client, session.backend, host_request)
        except HostUnavailable as error:
            raise Refused(
                503,
                error.reason,
                f'The computer on which "{session.app_title}" runs cannot be reached right now.',
            ) from error
        except HostRefused as error:
            await self._end(session, "gone_at_host")
            raise Refused(
                503, error.reason, f'"{session.app_title}" is not running any more. Start it anew.'
            ) from error
        self._flows.stop(session.id)
        session.flows.clear()
        session.control_client = None
        session.client_address = address
        session.host_rtsp = host_url
        session.rtsp_port = self._rtsp_port(address, session.id)
        session.move_to(SessionState.LAUNCHED, trio.current_time())
        _log.info("session_resumed", session=session.id, rtsp_port=session.rtsp_port)
        await self._write(session)
        return _own_url(session)

    async def _as_host_query(self, session: Session, request: LaunchRequest) -> Query:
        app = await self._app(request)
        return request.to_query(app_id=app.offers.get(session.backend))

    def _rtsp_port(self, address: str, session_id: SessionId) -> int:
        try:
            return self.sessions.choose_rtsp_port(address, for_session=session_id)
        except LookupError as error:
            raise Refused(
                503, "no_rtsp_port", "Too many people play from your network at once."
            ) from error

    def _is_lost(self, session: Session) -> bool:
        return self._fleet.backend(session.backend) is None

    async def _end(self, session: Session, why: str) -> None:
        self._flows.forget(session.id)
        if self.sessions.remove(session.id) is None:
            return
        self._fleet.release(session.reservation)
        self._note_fewer()
        _log.info("session_ended", session=session.id, backend=session.backend, why=why)
        try:
            await self._store.delete_session(session.id)
        except StoreError as error:
            _log.error("session_not_deleted_from_the_store", session=session.id, why=str(error))

    async def _write(self, session: Session) -> None:
        """Write a session's new state; a store that is away does not stop a running stream."""
        try:
            await self._store.put_session(to_record(session))
        except StoreError as error:
            _log.error("session_not_written_to_the_store", session=session.id, why=str(error))

    def _lock(self, client: ClientId) -> trio.Lock:
        return self._client_locks.setdefault(client, trio.Lock())


def _parsed(query: Query, *, resume: bool) -> LaunchRequest:
    try:
        return LaunchRequest.parse(query, resume=resume)
    except Malformed as error:
        raise Refused(400, error.reason, str(error)) from error


def _own_url(session: Session) -> RtspUrl:
    return RtspUrl(encrypted=False, host=session.label, port=session.rtsp_port)
