"""Who asks: admits callers of the admin API, or turns them away."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from starlette.requests import Request

from proxy.admin.scopes import Scope
from proxy.errors import Refused


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request is from."""

    name: str
    """Of the token that it shows."""
    scopes: frozenset[Scope]
    expires_at: datetime | None = None
    """Until when it may go on with what lasts, in UTC; None: for as long as it likes."""


class Gate(Protocol):
    """Admits callers."""

    async def admit(self, request: Request, scopes: frozenset[Scope]) -> Caller:
        """Return whom a request is from, if it may be made with any one of these scopes.

        Raises:
            Refused: 401 without a valid token, 403 for one of other scopes or a foreign origin.

        """


class BearerGate:
    """Admits whoever shows one token, to everything."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def admit(self, request: Request, scopes: frozenset[Scope]) -> Caller:
        """Return the one caller that there is; see `Gate`."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            token.encode(), self._token.encode()
        ):
            raise Refused(401, "unauthorized", "A bearer token is needed: see admin.token.")
        return Caller("admin", frozenset({Scope.ADMIN}))
