"""Launch, resume and cancel: from a client's request to a session, and to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
import trio

from backends.catalogue import CatalogueApp
from backends.selection import LaunchIntent
from moonlight.errors import Malformed
from moonlight.http import Query
from moonlight.identity import ClientId, short_id
from moonlight.launch import (
    LaunchRequest,
    RtspUrl,
    cancel_answer,
    launch_answer,
    resume_answer,
)
from moonlight.xml import Answer
from proxy.access import Access, everything
from proxy.config import ProxyConfig
from proxy.errors import HostRefused, HostUnavailable, Refused
from proxy.fleet import Fleet
from proxy.host_apps import HostApps, cancel_timeout_s, edge_query
from proxy.host_pairing import HostPairing
from proxy.hosts import HostRequest
from proxy.keyed_locks import KeyedLocks
from proxy.launching import Launcher
from proxy.outcomes import PlayOutcomes
from proxy.session_keeper import SessionKeeper
from proxy.sessions import Session, SessionId, SessionPorts, SessionState, StreamKey, new_label
from proxy.waker import Waker

_log = structlog.get_logger()

# Clients wait 30 s for it (and 120 s for a launch): nothing may happen after that.
resume_timeout_s: Final = 25.0
# For so much of that time a launch or resume waits for another request of its client. The rest is
# for what it is about itself.
busy_share: Final = 0.75
# How long a launch believes in the return of an agent before it gives the session up.
agent_return_timeout_s: Final = 5.0
# How long work of the edge's own waits for a client's request to end.
served_timeout_s: Final = 1.0
# From here on a client understands ``rtspenc://``. One that says less may be
# older than ping payloads, too, and be known by its ports alone.
modern_corever: Final = 1


class Play:
    """What clients do with apps: one request of a client at a time.

    Args:
        config: the edge's configuration.
        keeper: the sessions.
        fleet: the backends.
        pairing: gives clients their identities at hosts.
        waker: wakes hosts that clients want and that are asleep; None to let them sleep.

    """

    def __init__(
        self,
        config: ProxyConfig,
        keeper: SessionKeeper,
        fleet: Fleet,
        pairing: HostPairing,
        waker: Waker | None = None,
    ) -> None:
        self._config = config
        self._waker = waker
        self.keeper = keeper
        self._sessions = keeper.table
        self._fleet = fleet
        self._host_apps = HostApps(fleet, pairing)
        self._launcher = Launcher(config, fleet, self._host_apps, keeper.apart)
        self._client_locks: KeyedLocks[ClientId] = KeyedLocks()
        self.accepting = True
        """False once the edge drains: no new launches, sessions go on."""
        self.outcomes = PlayOutcomes()

    def apply(self, config: ProxyConfig) -> None:
        """Go by another configuration, for requests that come from now on."""
        self._config = config
        self._launcher.apply(config)

    async def launch(
        self, client: ClientId, address: str, query: Query, access: Access = everything
    ) -> Answer:
        """Launch an app, or go on with it if this client's session runs it already.

        `access` is what the client's user may use.

        Raises:
            Refused: the client cannot have what it asks for; the message is for its user.

        """
        with self.outcomes.counted("launch"):
            return launch_answer(await self._launch_or_go_on(client, address, query, access))

    async def _launch_or_go_on(
        self, client: ClientId, address: str, query: Query, access: Access
    ) -> RtspUrl:
        request = _parsed(query, resume=False)
        timeout_s = self._config.sessions.launch_timeout_s
        give_up_at = trio.current_time() + timeout_s
        async with self._alone(client, timeout_s=busy_share * timeout_s):
            running = self._sessions.of_client(client)
            if running is not None and not await self._is_lost(running):
                if running.app_id != request.app_id:
                    raise Refused(
                        400,
                        "app_already_running",
                        f'"{running.app_title}" is still running for you. Quit it first.',
                    )
                return await self._resume(running, address, request, give_up_at)
            if running is not None:
                # Its app may run on, where nobody can be asked to end it.
                self._host_apps.owe(client, running.backend, running.id)
                await self.keeper.end(running, "backend_gone")
            return await self._launch(client, address, request, access, give_up_at)

    async def resume(self, client: ClientId, address: str, query: Query) -> Answer:
        """Go on with the client's running app, on the backend where it runs.

        Raises:
            Refused: nothing runs, or its backend cannot be reached.

        """
        with self.outcomes.counted("resume"):
            request = _parsed(query, resume=True)
            give_up_at = trio.current_time() + resume_timeout_s
            async with self._alone(client, timeout_s=busy_share * resume_timeout_s):
                session = self._sessions.of_client(client)
                if session is None:
                    raise Refused(503, "nothing_to_resume", "No app is running for you any more.")
                return resume_answer(await self._resume(session, address, request, give_up_at))

    async def cancel(self, client: ClientId, query: Query) -> Answer:
        """End the client's app: at the host if it can be reached, and here in any case."""
        async with self._alone(client, timeout_s=cancel_timeout_s):
            session = self._sessions.of_client(client)
            if session is not None:
                await self._end_at_host(session, query)
        return cancel_answer()

    async def end_at_host(self, session_id: SessionId) -> bool:
        """End a session as its client's cancel would; False if there is none of that id."""
        session = self._sessions.get(session_id)
        if session is None:
            return False
        async with self._alone(session.client, timeout_s=cancel_timeout_s):
            if self._sessions.get(session_id) is not None:
                await self._end_at_host(session, edge_query)
        return True

    async def end_lost(self, session_id: SessionId, why: str) -> None:
        """End a session whose host is gone, here only, and let its client start afresh.

        Raises:
            Refused: the client is being served just now.

        """
        session = self._sessions.get(session_id)
        if session is None:
            return
        async with self._alone(session.client, timeout_s=served_timeout_s):
            if self._sessions.get(session_id) is session:
                await self.keeper.end(session, why)
                await self.keeper.forget_place(session)

    async def end_if_gone(self, session_id: SessionId) -> bool:
        """End a session here if its host says that its client has none; tell whether it has.

        Raises:
            Refused: the client is being served just now.

        """
        session = self._sessions.get(session_id)
        if session is None:
            return False
        async with self._alone(session.client, timeout_s=served_timeout_s):
            if self._sessions.get(session_id) is not session:
                return False
            gone = await self._host_apps.is_gone(session.client, session.backend, session.id)
            if gone and self._sessions.get(session_id) is session:
                await self.keeper.end(session, "gone_at_host")
                return True
        return False

    async def settle(self) -> None:
        """End the apps at hosts that could not be asked when their sessions ended."""
        for client, backend in self._host_apps.owed():
            if not self._fleet.is_connected(backend):
                continue
            try:
                async with self._alone(client, timeout_s=served_timeout_s):
                    running = self._sessions.of_client(client)
                    if running is not None and running.backend == backend:
                        self._host_apps.forgive(client, backend)
                    else:
                        await self._host_apps.settle(client, backend)
            except Refused:
                continue  # the client is being served: in the next round, then

    async def _end_at_host(self, session: Session, query: Query) -> None:
        await self._host_apps.cancel(session.client, session.backend, session.id, query)
        await self.keeper.end(session, "cancelled")

    async def _launch(
        self,
        client: ClientId,
        address: str,
        request: LaunchRequest,
        access: Access,
        give_up_at: float,
    ) -> RtspUrl:
        if not self.accepting:
            raise Refused(503, "draining", "This server is about to restart. Try again soon.")
        if len(self._sessions) >= self._config.sessions.max_sessions:
            raise Refused(503, "too_many_sessions", "This server is full. Please try again later.")
        try:
            app = await self._app(request, access)
        except Refused as error:
            # It may be on one that has not been here since this edge was started.
            if self._waker and self._waker.wake_unknown(access.regions, by=client):
                raise _being_woken("The computer that had this app") from error
            raise
        intent = LaunchIntent(client, app.title, self._fleet.locate(address), access.regions)
        try:
            launched = await self._launcher.launch(client, intent, request, give_up_at)
        except Refused as error:
            if self._waker and self._waker.wake_for(app.title, access.regions, by=client):
                raise _being_woken(f'The computer that has "{app.title}"') from error
            raise
        try:
            ports = self._ports(client, address, request)
            session = Session(
                id=launched.session,
                client=client,
                client_address=address,
                backend=launched.backend,
                app_id=app.id,
                app_title=app.title,
                mode="{}x{}x{}".format(*request.mode),
                key=StreamKey(request.rikey, request.rikeyid),
                corever=request.corever,
                rtsp_encrypted=self._encrypts_rtsp(request),
                label=new_label(),
                rtsp_port=ports.rtsp,
                own_udp_ports=ports.own_udp,
                host_rtsp=launched.host_rtsp,
                state=SessionState.LAUNCHED,
                since=trio.current_time(),
                reservation=launched.reservation,
            )
            await self.keeper.begin(session)
        except BaseException:
            await self._launcher.undo(client, launched)
            raise
        return _own_url(session)

    async def _app(self, request: LaunchRequest, access: Access) -> CatalogueApp:
        catalogue = await self._fleet.catalogue(access)
        app = catalogue.by_id(request.app_id or 0)
        if app is None:
            raise Refused(404, "no_such_app", "No computer that has this app is online right now.")
        return app

    async def _resume(
        self, session: Session, address: str, request: LaunchRequest, give_up_at: float
    ) -> RtspUrl:
        query = request.query
        if not request.resume:
            query = await self._as_host_query(session, request)
        elif query.get("mode") is None:  # moonlight-python sends none
            query = query.replaced(mode=session.mode)
        timeout_s = max(0.0, give_up_at - trio.current_time())
        asked = HostRequest("/resume", query, session.id, timeout_s=timeout_s)
        try:
            async with self.keeper.apart.starting(
                session.backend, session.id, timeout_s=timeout_s
            ) as named:
                with trio.fail_at(give_up_at):
                    host_url = await self._host_apps.start(session.client, session.backend, asked)
                    named(host_url.host)
                return await self._take_up(session, address, request, host_url)
        except (HostUnavailable, trio.TooSlowError) as error:
            if self._waker and self._waker.wake(session.backend, by=session.client):
                what = f'The computer on which "{session.app_title}" runs'
                raise _being_woken(what) from error
            raise Refused(
                503,
                getattr(error, "reason", "host_timeout"),
                f'The computer on which "{session.app_title}" runs cannot be reached right now.',
            ) from error
        except HostRefused as error:
            await self._host_apps.undo(session.client, session.backend, session.id)
            await self.keeper.end(session, "gone_at_host")
            raise Refused(
                503, error.reason, f'"{session.app_title}" is not running any more. Start it anew.'
            ) from error

    async def _take_up(
        self, session: Session, address: str, request: LaunchRequest, host_url: RtspUrl
    ) -> RtspUrl:
        """Have a session that its host has resumed go on here."""
        if self._sessions.get(session.id) is not session:
            await self._host_apps.undo(session.client, session.backend, session.id)
            raise Refused(503, "session_ended", f'"{session.app_title}" has just been ended.')
        ports = self._ports(session.client, address, request)
        session.take_key(
            StreamKey(request.rikey, request.rikeyid),
            corever=request.corever,
            rtsp_encrypted=self._encrypts_rtsp(request),
        )
        await self.keeper.begin_anew(session, address, host_url, ports)
        return _own_url(session)

    async def _as_host_query(self, session: Session, request: LaunchRequest) -> Query:
        app = await self._app(request, everything)
        return request.to_query(app_id=app.offers.get(session.backend))

    def _encrypts_rtsp(self, request: LaunchRequest) -> bool:
        """Tell whether a client speaks encrypted RTSP with us; its host decides for itself."""
        wanted = self._config.sessions.rtsp_encryption == "auto"
        return wanted and request.corever >= modern_corever

    def _ports(self, client: ClientId, address: str, request: LaunchRequest) -> SessionPorts:
        old = request.corever < modern_corever
        try:
            ports = self._sessions.choose_ports(client, address, trio.current_time(), own_udp=old)
        except LookupError as error:
            raise Refused(
                503, "no_rtsp_port", "Too many people begin to play from your network at once."
            ) from error
        if old and not ports.own_udp:
            _log.warning("no_own_udp_ports_left", client=short_id(client), client_address=address)
        return ports

    async def _is_lost(self, session: Session) -> bool:
        """Tell whether a session's backend is gone; an agent may just be dialling anew."""
        with trio.move_on_after(agent_return_timeout_s):
            await self._fleet.wait_for_tunnel(session.backend)
            return self._fleet.backend(session.backend) is None
        return True

    @asynccontextmanager
    async def _alone(self, client: ClientId, *, timeout_s: float) -> AsyncIterator[None]:
        """Keep other requests of this client out for a block."""
        try:
            async with self._client_locks.held(client, timeout_s=timeout_s):
                yield
        except trio.TooSlowError:
            raise Refused(
                503, "client_busy", "This server still works on another request of this device."
            ) from None


def _parsed(query: Query, *, resume: bool) -> LaunchRequest:
    try:
        return LaunchRequest.parse(query, resume=resume)
    except Malformed as error:
        raise Refused(400, error.reason, str(error)) from error


def _being_woken(computer: str) -> Refused:
    return Refused(
        503, "host_asleep", f"{computer} was asleep and is being woken. Try again in a minute."
    )


def _own_url(session: Session) -> RtspUrl:
    return RtspUrl(encrypted=session.rtsp_encrypted, host=session.label, port=session.rtsp_port)
