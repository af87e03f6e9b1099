"""Who is logged in to the console: random ids, each standing for a long-lived token."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final

from proxy.admin.grants import Grant

_id_bytes: Final = 32


@dataclass(slots=True)
class Login:
    """One browser that showed a token; times are of the caller's clock, in seconds."""

    grant: Grant
    ends_at: float
    used_at: float


class Logins:
    """The logins that go on. Only hashes of their ids are kept."""

    def __init__(
        self,
        *,
        max_logins: int = 1_024,
        max_logins_per_token: int = 32,
        idle_timeout_s: float = 3_600.0,
        lifetime_s: float = 12 * 3_600.0,
    ) -> None:
        self._max_logins = max_logins
        self._max_logins_per_token = max_logins_per_token
        self._idle_timeout_s = idle_timeout_s
        self.lifetime_s = lifetime_s
        # The least recently used first.
        self._logins: dict[bytes, Login] = {}

    def __len__(self) -> int:
        return len(self._logins)

    def begin(self, grant: Grant, now: float) -> str | None:
        """Return the id of a new login; None if there are too many of other tokens.

        A token that has as many as it may loses the one that was used least recently.
        """
        self._drop_ended(now)
        own = [id_ for id_, login in self._logins.items() if login.grant == grant]
        if len(own) >= self._max_logins_per_token:
            del self._logins[own[0]]
        elif len(self._logins) >= self._max_logins:
            return None
        login = secrets.token_urlsafe(_id_bytes)
        self._logins[_digest(login)] = Login(grant, now + self.lifetime_s, now)
        return login

    def find(self, login: str, now: float) -> Login | None:
        """Return a login that goes on; this counts as a use of it."""
        digest = _digest(login)
        found = self._logins.pop(digest, None)
        if found is None or self._has_ended(found, now):
            return None
        found.used_at = now
        self._logins[digest] = found
        return found

    def goes_on(self, login: str, now: float) -> bool:
        """Tell whether a login goes on, without using it."""
        found = self._logins.get(_digest(login))
        return found is not None and not self._has_ended(found, now)

    def end(self, login: str) -> None:
        """End a login, if it goes on."""
        self._logins.pop(_digest(login), None)

    def end_all_of(self, name: str) -> None:
        """End the logins of a token that was revoked."""
        self._logins = {
            id_: login for id_, login in self._logins.items() if login.grant.name != name
        }

    def _drop_ended(self, now: float) -> None:
        self._logins = {
            id_: login for id_, login in self._logins.items() if not self._has_ended(login, now)
        }

    def _has_ended(self, login: Login, now: float) -> bool:
        return now >= min(login.ends_at, login.used_at + self._idle_timeout_s)


def _digest(login: str) -> bytes:
    return hashlib.sha256(login.encode()).digest()
