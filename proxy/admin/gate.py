"""Who asks: admits callers of the admin API, or turns them away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import trio
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from starlette.requests import Request

from proxy.admin import jwts
from proxy.admin.api_tokens import ApiTokens
from proxy.admin.credentials import bearer_of, has_cookie, login_of
from proxy.admin.denials import Denial, denied, lacks_scope
from proxy.admin.grants import Grant
from proxy.admin.logins import Logins
from proxy.admin.origin import Provenance, is_foreign
from proxy.admin.scopes import Scope, implied_by
from proxy.admin.used_once import UsedOnce
from proxy.errors import Refused


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request is from."""

    name: str
    """Of the token that it shows, or that it logged in with."""
    scopes: frozenset[Scope]
    """With all that they include."""
    expires_at: datetime | None = None
    """When its JWT or its login ends at the latest, in UTC; None: never."""
    token_id: str = ""
    login: str | None = field(default=None, repr=False)
    """The id of its login, which is a secret."""


nobody: Final = Caller("", frozenset())
"""Whoever asks what anybody may ask."""


class Gate(Protocol):
    """Admits callers."""

    async def admit(self, request: Request, scopes: frozenset[Scope]) -> Caller:
        """Return whom a request is from, if it may be made with any one of these scopes.

        With no scopes anybody may make it, and this is `nobody`.

        Raises:
            Refused: 401 without valid credentials, 403 for other scopes or a foreign origin.

        """

    async def stands(self, caller: Caller) -> bool:
        """Tell whether somebody who was admitted still is: for answers that take long."""


def _now() -> datetime:
    return datetime.now(UTC)


class AdminGate:
    """Admits JWTs and logins, each for as long as the token behind it is there.

    Args:
        issuer: who signs, as in the JWTs.
        run: names this run of the edge, which alone takes the single-use JWTs that it made.
        keys: gives the keys to verify JWTs with.
        tokens: knows which tokens are there.
        logins: the console's.
        clock: the logins' seconds.
        now: the JWTs' time.

    """

    def __init__(
        self,
        *,
        issuer: str,
        run: str,
        keys: Callable[[], Mapping[str, RSAPublicKey]],
        tokens: ApiTokens,
        logins: Logins,
        clock: Callable[[], float] = trio.current_time,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._issuer = issuer
        self._run = run
        self._keys = keys
        self._tokens = tokens
        self._logins = logins
        self._clock = clock
        self._now = now
        self._used = UsedOnce()
        self.refused: Counter[str] = Counter()
        """Requests that were turned away, by reason."""

    async def admit(self, request: Request, scopes: frozenset[Scope]) -> Caller:
        """See `Gate`."""
        try:
            return await self._admit(request, scopes)
        except Refused as error:
            self.refused[error.reason] += 1
            raise

    async def stands(self, caller: Caller) -> bool:
        """See `Gate`."""
        if caller.login is not None:
            if not self._logins.goes_on(caller.login, self._clock()):
                return False
        elif caller.expires_at is not None and caller.expires_at <= self._now():
            return False
        believed = Grant(caller.name, caller.token_id, caller.scopes)
        return await self._tokens.still_granted(believed) is not None

    async def _admit(self, request: Request, scopes: frozenset[Scope]) -> Caller:
        cookies = request.headers.getlist("cookie")
        _check_origin(request, with_cookie=has_cookie(cookies))
        if not scopes:
            return nobody
        bearer = bearer_of(request.headers.getlist("authorization"))
        if bearer is not None:
            return await self._with_jwt(bearer, scopes)
        if has_cookie(cookies):
            return await self._with_login(login_of(cookies), scopes)
        raise denied(Denial.NO_CREDENTIALS)

    async def _with_jwt(self, bearer: str, scopes: frozenset[Scope]) -> Caller:
        claims = jwts.verify(bearer, self._keys(), issuer=self._issuer)
        believed = Grant(claims.name, claims.token_id, claims.scopes)
        grant = await self._tokens.still_granted(believed)
        if grant is None:
            raise denied(Denial.REVOKED)
        may = implied_by(claims.scopes) & implied_by(grant.scopes)
        if not may & scopes:
            raise lacks_scope(scopes)
        self._use(claims)
        return Caller(claims.name, may, claims.expires_at, claims.token_id)

    def _use(self, claims: jwts.Claims) -> None:
        if claims.single_use_at is None:
            return
        if claims.single_use_at != self._run:
            raise denied(Denial.USED)
        # It is believed for a little longer than it says.
        expires_at = (claims.expires_at + jwts.leeway).timestamp()
        denial = self._used.take(claims.jti, expires_at=expires_at, now=self._now().timestamp())
        if denial is not None:
            raise denied(denial)

    async def _with_login(self, login: str | None, scopes: frozenset[Scope]) -> Caller:
        now = self._clock()
        found = None if login is None else self._logins.find(login, now)
        if login is None or found is None:
            raise denied(Denial.LOGIN_ENDED)
        grant = await self._tokens.still_granted(found.grant)
        if grant is None:
            self._logins.end(login)
            raise denied(Denial.REVOKED)
        may = implied_by(grant.scopes)
        if not may & scopes:
            raise lacks_scope(scopes)
        ends_at = self._now() + timedelta(seconds=found.ends_at - now)
        return Caller(grant.name, may, ends_at, grant.token_id, login)


def _check_origin(request: Request, *, with_cookie: bool) -> None:
    headers = request.headers
    told = Provenance(
        origin=headers.getlist("origin"),
        host=headers.getlist("host"),
        sec_fetch_site=headers.getlist("sec-fetch-site"),
        with_cookie=with_cookie,
        over_tls=request.url.scheme == "https",
    )
    if is_foreign(request.method, told):
        raise denied(Denial.FOREIGN_ORIGIN)
