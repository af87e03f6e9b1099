"""Checks the long-lived tokens that callers show, and slows down those who guess."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

import structlog
import trio
from starlette.requests import Request

from backends.errors import StoreError
from backends.tokens import max_token_characters
from proxy.admin.api_tokens import ApiTokens
from proxy.admin.denials import Denial, wait, wrong_token
from proxy.admin.grants import Grant
from proxy.admin.throttle import Throttle
from revdial.networks import network_of

_log = structlog.get_logger()


class LoginOutcome(StrEnum):
    """What came of a long-lived token that was shown, to log in or for a JWT."""

    ACCEPTED = "accepted"
    WRONG_TOKEN = "wrong_token"  # noqa: S105 - a metric's label
    THROTTLED = "throttled"
    """It was not looked at: its network has shown too many wrong ones."""
    STORE_FAILED = "store_failed"


refusals: Final[Mapping[int, tuple[str, ...]]] = {
    401: (Denial.NO_CREDENTIALS, Denial.MALFORMED, "wrong_token"),
    429: ("too_many_attempts",),
    503: ("unavailable",),
}
"""What callers who show a token may be told, by status."""


class TokenCheck:
    """Tells what a token grants, at a bounded rate of wrong ones."""

    def __init__(
        self,
        tokens: ApiTokens,
        throttle: Throttle,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._tokens = tokens
        self._throttle = throttle
        self._clock = clock
        self.outcomes: Counter[str] = Counter()

    async def check(self, token: str, request: Request) -> Grant:
        """Return what a token grants.

        Raises:
            proxy.errors.Refused: it grants nothing, or its sender has to wait.
            backends.errors.StoreError: the store cannot tell.

        """
        address = "" if request.client is None else request.client.host
        network = network_of(address)
        seconds = self._throttle.attempt(network, self._clock())
        if seconds > 0:
            self.outcomes[LoginOutcome.THROTTLED] += 1
            raise wait(seconds)
        try:
            grant = await self._tokens.find(token) if len(token) <= max_token_characters else None
        except StoreError:
            # Counts as a wrong one: it was compared with the local token all the same.
            self.outcomes[LoginOutcome.STORE_FAILED] += 1
            raise
        if grant is None:
            self._throttle.was_wrong(self._clock())
            self.outcomes[LoginOutcome.WRONG_TOKEN] += 1
            _log.warning("admin_token_wrong", network=network)
            raise wrong_token()
        self._throttle.was_right(network, self._clock())
        self.outcomes[LoginOutcome.ACCEPTED] += 1
        return grant
