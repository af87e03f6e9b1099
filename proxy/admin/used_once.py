"""Which single-use JWTs have been used: each is good for one request."""

from __future__ import annotations

from proxy.admin.denials import Denial


class UsedOnce:
    """Remembers ids until their JWTs have expired; what it has no room for is refused.

    Forgetting one early would let it be used twice.
    """

    def __init__(self, max_ids: int = 8_192) -> None:
        self._max_ids = max_ids
        self._expiry: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._expiry)

    def take(self, jti: str, *, expires_at: float, now: float) -> Denial | None:
        """Use an id, or say why that cannot be; times in seconds since 1970."""
        if len(self._expiry) >= self._max_ids:
            self._expiry = {used: end for used, end in self._expiry.items() if end > now}
        if jti in self._expiry:
            return Denial.USED
        if len(self._expiry) >= self._max_ids:
            return Denial.NO_ROOM
        self._expiry[jti] = expires_at
        return None
