"""The admin API's logins of the console: a cookie instead of a JWT."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec
import structlog
import trio

from proxy.admin.credentials import login_of, set_cookie
from proxy.admin.endpoints import Asked, Endpoint, NoParameters
from proxy.admin.gate import Caller
from proxy.admin.logins import Logins
from proxy.admin.scopes import ANYBODY, Scope, implied_by, in_order
from proxy.admin.token_check import TokenCheck, refusals
from proxy.admin.values import Time
from proxy.errors import Refused

_anyone_known: Final = frozenset(Scope)
_log = structlog.get_logger()


class ShownToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody logs in with."""

    token: Annotated[str, msgspec.Meta(description="From `moonhost token create`.")]

    def __repr__(self) -> str:
        return "ShownToken(…)"


class CallerItem(msgspec.Struct, frozen=True):
    """Who a caller is, and what they may do."""

    name: str
    scopes: Annotated[list[Scope], msgspec.Meta(description="With all that they include.")]
    expires_at: Time | None

    @classmethod
    def of(cls, caller: Caller) -> CallerItem:
        """Return what a caller is told of themselves."""
        return cls(caller.name, in_order(caller.scopes), caller.expires_at)


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
        """Return what is answered here."""
        return [
            Endpoint(
                "POST",
                "/api/v1/login",
                self.log_in,
                ANYBODY,
                problems={**refusals, 503: (*refusals[503], "too_many_logins")},
                example={"token": "moonhost-api-…"},
            ),
            Endpoint("POST", "/api/v1/logout", self.log_out, ANYBODY),
            Endpoint("GET", "/api/v1/whoami", self.who_am_i, _anyone_known),
        ]

    async def log_in(self, asked: Asked[NoParameters, NoParameters, ShownToken]) -> CallerItem:
        """Get a cookie for a long-lived token, as the console does."""
        grant = await self._check.check(asked.body.token, asked.request)
        login = self._logins.begin(grant, self._clock())
        if login is None:
            raise Refused(503, "too_many_logins", "Too many are logged in: try again later.")
        lifetime_s = self._logins.lifetime_s
        _log.info("admin_logged_in", name=grant.name)
        asked.answer_headers["Set-Cookie"] = set_cookie(login, int(lifetime_s))
        ends_at = datetime.now(UTC) + timedelta(seconds=lifetime_s)
        return CallerItem.of(Caller(grant.name, implied_by(grant.scopes), ends_at))

    async def log_out(self, asked: Asked[NoParameters, NoParameters, None]) -> None:
        """End the login of the cookie, if there is one."""
        login = login_of(asked.request.headers.getlist("cookie"))
        if login is not None:
            self._logins.end(login)
        asked.answer_headers["Set-Cookie"] = set_cookie("", 0)

    async def who_am_i(self, asked: Asked[NoParameters, NoParameters, None]) -> CallerItem:
        """Tell callers who they are and what they may do."""
        return CallerItem.of(asked.caller)
