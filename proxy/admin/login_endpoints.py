"""The admin API's part about the console's logins: a cookie instead of a JWT."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from proxy.admin.credentials import login_of, set_cookie
from proxy.admin.gate import Caller
from proxy.admin.http import Endpoint, read_json
from proxy.admin.logins import Logins
from proxy.admin.scopes import ANYBODY, Scope, implied_by, in_order
from proxy.admin.token_check import TokenCheck
from proxy.admin.token_endpoints import no_store
from proxy.errors import Refused

_anyone_known = frozenset(Scope)
_log = structlog.get_logger()


class _Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: str

    def __repr__(self) -> str:
        return "_Token(…)"


class LoginsApi:
    """Logging in and out, and telling callers who they are."""

    def __init__(
        self,
        check: TokenCheck,
        logins: Logins,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._check = check
        self._logins = logins
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        """Return what may be asked."""
        return [
            Endpoint("POST", "/api/v1/login", self._log_in, ANYBODY),
            Endpoint("POST", "/api/v1/logout", self._log_out, ANYBODY),
            Endpoint("GET", "/api/v1/whoami", self._who_am_i, _anyone_known),
        ]

    async def _log_in(self, request: Request) -> Response:
        body = await read_json(request, _Token, '{"token": "moonhost-api-…"}')
        grant = await self._check.check(body.token, request)
        login = self._logins.begin(grant, self._clock())
        if login is None:
            raise Refused(503, "too_many_logins", "Too many are logged in: try again later.")
        lifetime_s = self._logins.lifetime_s
        caller = Caller(
            grant.name,
            implied_by(grant.scopes),
            datetime.now(UTC) + timedelta(seconds=lifetime_s),
        )
        _log.info("admin_logged_in", name=grant.name)
        cookie = {"Set-Cookie": set_cookie(login, int(lifetime_s))}
        return JSONResponse(_told(caller), headers=no_store | cookie)

    async def _log_out(self, request: Request) -> Response:
        login = login_of(request.headers.getlist("cookie"))
        if login is not None:
            self._logins.end(login)
        return Response(status_code=204, headers={"Set-Cookie": set_cookie("", 0)})

    async def _who_am_i(self, request: Request) -> Response:
        return JSONResponse(_told(request.state.caller), headers=no_store)


def _told(caller: Caller) -> dict[str, object]:
    return {
        "name": caller.name,
        "scopes": in_order(caller.scopes),
        "expires_at": None if caller.expires_at is None else caller.expires_at.isoformat(),
    }
