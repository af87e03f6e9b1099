"""Everything that decides who may use the admin API, put together for one edge."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from backends.store import Store
from proxy.admin.api_tokens import ApiTokens
from proxy.admin.endpoints import Endpoint
from proxy.admin.gate import AdminGate
from proxy.admin.login_endpoints import LoginsApi
from proxy.admin.logins import Logins
from proxy.admin.signing_keys import SigningKeys, rotation_rules
from proxy.admin.throttle import Throttle
from proxy.admin.token_check import TokenCheck
from proxy.admin.token_endpoints import TokensApi

_run_bytes: Final = 8


class Authority:
    """The gate, and the endpoints by which callers get what it wants to see.

    Args:
        store: keeps tokens and keys.
        issuer: the edge's hostname.
        local_token: the local operator's.
        key_lifetime: how long a key signs.
        dismiss: ends the tunnel of an agent whose tokens were revoked.

    """

    def __init__(
        self,
        store: Store,
        *,
        issuer: str,
        local_token: str,
        key_lifetime: timedelta,
        dismiss: Callable[[str], None],
    ) -> None:
        run = secrets.token_urlsafe(_run_bytes)
        self.keys = SigningKeys(store, rotation_rules(key_lifetime))
        tokens, logins = ApiTokens(store, local_token), Logins()
        check = TokenCheck(tokens, Throttle())
        self.gate = AdminGate(
            issuer=issuer, run=run, keys=self.keys.published, tokens=tokens, logins=logins
        )
        self._tokens = TokensApi(
            store, check, self.keys, logins, issuer=issuer, run=run, dismiss=dismiss
        )
        self._logins = LoginsApi(check, logins)
        self.attempts: Counter[str] = check.outcomes
        """Long-lived tokens that were shown, by `proxy.admin.token_check.LoginOutcome`."""

    def endpoints(self) -> list[Endpoint]:
        """Return what may be asked about tokens and logins."""
        return [*self._tokens.endpoints(), *self._logins.endpoints()]
