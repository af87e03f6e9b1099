"""Starting and ending apps at hosts, as one of the edge's clients."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import structlog
import trio

from backends.errors import StoreError
from backends.model import BackendId
from moonlight.errors import ProtocolError
from moonlight.http import Query
from moonlight.identity import ClientId, short_id
from moonlight.launch import RtspUrl, session_url
from moonlight.serverinfo import ServerInfo
from moonlight.xml import Answer
from moonlight.xml import HostRefused as HostAnsweredError
from proxy.errors import EdgeError, HostIdentityChanged, HostRefused, HostUnavailable
from proxy.fleet import Fleet
from proxy.host_pairing import HostPairing, host_unique_id
from proxy.hosts import HostRequest, ask_xml
from proxy.sessions import SessionId

_log = structlog.get_logger()

cancel_timeout_s: Final = 20.0
undo_timeout_s: Final = 5.0
ask_timeout_s: Final = 5.0
max_owed: Final = 1_024
"""Apps that are still to be ended at hosts; the longest owed are forgotten first."""
unauthorized: Final = 401
host_refused: Final = "host_refused"
"""`reason` of the one refusal after which nothing can be running: the host's own clear no."""

edge_query: Final = Query.of(("uniqueid", host_unique_id))
"""What the edge asks a host with when no client asked for it."""


class HostApps:
    """Asks hosts; knows nothing of sessions."""

    def __init__(self, fleet: Fleet, pairing: HostPairing) -> None:
        self._fleet = fleet
        self._pairing = pairing
        self._owed: OrderedDict[tuple[ClientId, BackendId], SessionId] = OrderedDict()

    def owed(self) -> list[tuple[ClientId, BackendId]]:
        """Give whose apps may still run at which hosts, though their sessions are over."""
        return list(self._owed)

    def owe(self, client: ClientId, backend: BackendId, session: SessionId) -> None:
        """Remember to end a client's app at a host that cannot be asked now."""
        self._owed[client, backend] = session
        if len(self._owed) > max_owed:
            self._owed.popitem(last=False)

    def forgive(self, client: ClientId, backend: BackendId) -> None:
        """Forget it: the client has a session there again, or is no client any more."""
        self._owed.pop((client, backend), None)

    async def settle(self, client: ClientId, backend: BackendId) -> None:
        """End a client's app at a host at last; if the host cannot be had it stays owed."""
        session = self._owed[client, backend]
        failure = await self._cancel(client, backend, session, edge_query, undo_timeout_s)
        if not isinstance(failure, HostUnavailable | StoreError):
            self.forgive(client, backend)
            _log.info("app_ended_at_its_host_at_last", **_names(session, client, backend))

    async def start(self, client: ClientId, backend: BackendId, request: HostRequest) -> RtspUrl:
        """Launch or resume at a host, pairing anew if it has forgotten the client.

        Raises:
            HostUnavailable: no connection or no valid answer.
            HostRefused: an answer, but no session that a client could be given.
            backends.errors.StoreError: the store is away.

        """
        try:
            answer = await self._ask(client, backend, request)
            forgotten = answer.status_code == unauthorized
        except HostIdentityChanged:
            # Set up anew; whom to trust there is up to its agent, as it was the first time.
            forgotten = True
        if forgotten:
            _log.info("host_forgot_client", client=short_id(client), backend=backend)
            await self._pairing.forget(client, backend)
            answer = await self._ask(client, backend, request)
        try:
            return session_url(answer)
        except HostAnsweredError as error:
            raise HostRefused(error.status_code, host_refused, f"{backend}: {error}") from error
        except ProtocolError as error:
            raise HostRefused(502, error.reason, f"{backend}: {error}") from error

    async def cancel(
        self, client: ClientId, backend: BackendId, session: SessionId, query: Query
    ) -> None:
        """End a client's app; that the host could not be had is logged and no more."""
        failure = await self._cancel(client, backend, session, query, cancel_timeout_s)
        if failure is not None:
            self.owe(client, backend, session)
            _log.warning(
                "app_not_ended_at_its_host",
                **_names(session, client, backend),
                reason=failure.reason,
                why=str(failure),
            )

    async def is_gone(self, client: ClientId, backend: BackendId, session: SessionId) -> bool:
        """Tell whether a host says that nothing runs for a client; no answer is no such word."""
        request = HostRequest("/serverinfo", edge_query, session, timeout_s=ask_timeout_s)
        try:
            with trio.fail_after(ask_timeout_s):
                info = ServerInfo.parse(await self._ask(client, backend, request))
        except (EdgeError, StoreError, ProtocolError, trio.TooSlowError) as error:
            _log.info("host_not_asked", **_names(session, client, backend), why=str(error))
            return False
        # Who is not paired is told of nothing that runs.
        return info.paired and not info.busy and info.current_game == 0

    async def undo(self, client: ClientId, backend: BackendId, session: SessionId) -> None:
        """End an app that a host has started, or may have, for a session that is none."""
        if not self._pairing.knows(client, backend):
            return  # so that it cannot have been asked
        with trio.CancelScope(shield=True):
            failure = await self._cancel(client, backend, session, edge_query, undo_timeout_s)
        if failure is not None:
            self.owe(client, backend, session)
            # What went wrong before is told by who called.
            _log.info("launch_not_undone", **_names(session, client, backend), why=str(failure))

    async def _cancel(
        self,
        client: ClientId,
        backend: BackendId,
        session: SessionId,
        query: Query,
        timeout_s: float,
    ) -> EdgeError | StoreError | ProtocolError | None:
        request = HostRequest("/cancel", query, session, timeout_s=timeout_s)
        try:
            with trio.fail_after(timeout_s):
                (await self._ask(client, backend, request)).checked()
        except trio.TooSlowError:
            return HostUnavailable("host_timeout", f"{backend} took longer than {timeout_s:g} s")
        except (EdgeError, StoreError, ProtocolError) as error:
            return error
        return None

    async def _ask(self, client: ClientId, backend: BackendId, request: HostRequest) -> Answer:
        context = await self._pairing.context_for(client, backend)
        return await ask_xml(self._fleet, backend, request, context)


def _names(session: SessionId, client: ClientId, backend: BackendId) -> dict[str, str]:
    """Return what the log knows a session by that may be none any more."""
    return {"session": session, "client": short_id(client), "backend": backend}
