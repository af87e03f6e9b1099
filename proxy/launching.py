"""Starting an app at a host: the chosen one, or the next where that one fails.

A player waits for one answer. So a host that cannot be reached, or says no, costs time but not the
launch: each eligible backend is tried once, until the client's patience ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import structlog
import trio

from backends.apps import normalise_title
from backends.errors import NoBackend
from backends.model import Backend, BackendId
from backends.selection import Decision, LaunchIntent, Refusal
from backends.slots import Reservation
from moonlight.identity import ClientId, short_id
from moonlight.launch import LaunchRequest, RtspUrl
from proxy.config import ProxyConfig
from proxy.errors import EdgeError, HostRefused, Refused
from proxy.fleet import Fleet, LaunchFailure, agent_offline
from proxy.host_apps import HostApps, host_refused
from proxy.hosts import HostRequest
from proxy.keeping_apart import KeepingApart
from proxy.sessions import SessionId, new_session_id
from revdial.errors import TunnelError

_log = structlog.get_logger()

max_attempts: Final = 5
"""Backends that are tried for one launch: a request that no host likes shall not reach them all."""
min_attempt_s: Final = 1.0
"""With less left of the client's patience no other backend is tried."""


@dataclass(frozen=True, slots=True)
class Launched:
    """An app that a host has started, for a session to be made of it."""

    session: SessionId
    backend: BackendId
    host_rtsp: RtspUrl
    reservation: Reservation


class Launcher:
    """Finds a backend that starts an app; knows nothing of sessions."""

    def __init__(
        self, config: ProxyConfig, fleet: Fleet, host_apps: HostApps, apart: KeepingApart
    ) -> None:
        self.apply(config)
        self._fleet = fleet
        self._apart = apart
        self._host_apps = host_apps

    def apply(self, config: ProxyConfig) -> None:
        """Go by what another configuration says of times."""
        self._config = config.sessions

    async def launch(
        self, client: ClientId, intent: LaunchIntent, request: LaunchRequest, give_up_at: float
    ) -> Launched:
        """Start an app somewhere; whoever takes the result gives its slot back in the end.

        At `give_up_at` the client's patience ends.

        Raises:
            Refused: nothing could be chosen, or nothing that was chosen started it.
            backends.errors.StoreError: the store is away.

        """
        failure: EdgeError | None = None
        while True:
            try:
                decision, reservation = await self._fleet.choose(intent)
            except NoBackend as error:
                raise _refused(error, failure, len(intent.tried)) from failure or error
            if failure is not None:
                _log_failover(client, failure)
            _log_choice(client, decision)
            backend = decision.backend
            try:
                return await self._attempt(
                    client, intent, request, decision, reservation, give_up_at
                )
            except EdgeError as error:
                self._fleet.release(reservation)
                failure = error
                self._fleet.note_failure(backend.id, failure_kind(error))
            except BaseException:
                self._fleet.release(reservation)
                raise
            intent = replace(intent, tried=intent.tried | {backend.id})
            tried_enough = len(intent.tried) >= max_attempts
            if tried_enough or give_up_at - trio.current_time() < min_attempt_s:
                raise _refused(None, failure, len(intent.tried)) from failure

    async def undo(self, client: ClientId, launched: Launched) -> None:
        """End an app again that has become no session, and give its slot back."""
        try:
            await self._host_apps.undo(client, launched.backend, launched.session)
        finally:
            self._apart.over(launched.backend, launched.session)
            self._fleet.release(launched.reservation)

    async def _attempt(
        self,
        client: ClientId,
        intent: LaunchIntent,
        request: LaunchRequest,
        decision: Decision,
        reservation: Reservation,
        give_up_at: float,
    ) -> Launched:
        backend = decision.backend.id
        timeout_s = max(0.0, give_up_at - trio.current_time())
        if self._fleet.has_room(replace(intent, tried=intent.tried | {backend})):
            # Not all of it, so that something is left for the other.
            timeout_s = min(timeout_s, self._config.launch_attempt_timeout_s)
        session = new_session_id()
        query = request.to_query(app_id=_native_id(decision.backend, intent.app_title))
        asked = HostRequest("/launch", query, session, timeout_s=timeout_s)
        attempt_ends_at = trio.current_time() + timeout_s
        async with self._apart.starting(backend, session, timeout_s=timeout_s) as named:
            try:
                with trio.fail_at(attempt_ends_at):
                    url = await self._host_apps.start(client, backend, asked)
                    named(url.host)
            except BaseException as error:
                if not (isinstance(error, HostRefused) and error.reason == host_refused):
                    # It may run there all the same, and nobody would ever end it.
                    await self._host_apps.undo(client, backend, session)
                if isinstance(error, trio.TooSlowError):
                    raise _TookTooLong(
                        "host_timeout", f"{backend} took longer than {timeout_s:g} s to launch"
                    ) from None
                raise
            return Launched(session, backend, url, reservation)


class _TookTooLong(EdgeError):
    """A host did not answer a launch in the time that an attempt has."""


def failure_kind(error: EdgeError) -> LaunchFailure:
    """Tell how a backend failed a launch."""
    if isinstance(error, HostRefused):
        return LaunchFailure.REFUSED
    if isinstance(error, _TookTooLong):
        return LaunchFailure.TIMEOUT
    # Not what goes wrong later: that may be of this one client's making.
    undialled = isinstance(error.__cause__, TunnelError) or error.reason == agent_offline
    return LaunchFailure.UNREACHABLE if undialled else LaunchFailure.OTHER


def _log_failover(client: ClientId, failure: EdgeError) -> None:
    """Tell of a failure that the player does not see; one that they do is told with the refusal."""
    _log.warning(
        "launch_failed_over", client=short_id(client), reason=failure.reason, why=str(failure)
    )


def _log_choice(client: ClientId, decision: Decision) -> None:
    known = decision.distance_km < float("inf")
    _log.info(
        "backend_chosen",
        client=short_id(client),
        backend=decision.backend.id,
        region=decision.backend.region,
        reason=str(decision.reason),
        located_by=str(decision.place.located_by),
        distance_km=round(decision.distance_km) if known else None,
        passed_over=list(decision.passed_over),
    )


def _refused(choice: NoBackend | None, failure: EdgeError | None, tried: int) -> Refused:
    """Return what the player reads: of the choice if nothing was tried, else of the failure."""
    if choice is not None and (failure is None or choice.reason != Refusal.ALL_TRIED):
        return Refused(503, choice.reason, str(choice))
    reason = "host_failed" if failure is None else failure.reason
    if tried == 1:
        return Refused(503, reason, "The computer chosen for you did not start the app. Try again.")
    return Refused(
        503, reason, f"{tried} computers were tried and none started the app. Try again later."
    )


def _native_id(backend: Backend, title: str) -> int:
    """Return what a backend that was chosen for an app calls that app."""
    offer = backend.apps.get(normalise_title(title))
    assert offer is not None  # noqa: S101 - or it would not have been chosen
    return offer.id
