"""Exchanges a long-lived token for JWTs, as often as they expire, for `moonhost.admin_client`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

import httpx
import trio

from moonhost.errors import AdminError

renew_before_s: Final = 30.0
max_wait_s: Final = 10.0
"""How long a command waits where its network has shown too many wrong tokens."""
_token_path: Final = "/api/v1/token"  # noqa: S105 - a path


class JwtAuth(httpx.Auth):
    """Shows a JWT with each request; asks for one at first, and when it expires or is refused.

    Args:
        token: the long-lived one.
        source: where it is from, as it can be told.

    """

    def __init__(self, token: str, source: str) -> None:
        self._token = token
        self._source = source
        self._jwt: str | None = None
        self._renew_at = 0.0

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """See `httpx.Auth`."""
        renewed = self._jwt is None or trio.current_time() >= self._renew_at
        while True:
            if renewed:
                answer = yield self._exchange(request)
                if (wait_s := _wait_s(answer)) is not None:
                    await trio.sleep(wait_s)
                    answer = yield self._exchange(request)
                await answer.aread()
                self._take(answer)
            request.headers["Authorization"] = f"Bearer {self._jwt}"
            response = yield request
            if response.status_code != httpx.codes.UNAUTHORIZED or renewed:
                return
            renewed = True

    def _exchange(self, request: httpx.Request) -> httpx.Request:
        return httpx.Request(
            "POST",
            request.url.copy_with(raw_path=_token_path.encode()),
            headers={"Authorization": f"Bearer {self._token}"},
            json={},
            extensions=request.extensions,
        )

    def _take(self, answer: httpx.Response) -> None:
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise AdminError(
                f"the edge does not know the token in {self._source}: was it revoked, or is it "
                "another edge's? Name a file with a valid one as admin.token_file.",
                answer.status_code,
            )
        try:
            told = answer.json()
            self._jwt = str(told["access_token"])
            self._renew_at = trio.current_time() + float(told["expires_in"]) - renew_before_s
        except (ValueError, KeyError, TypeError):
            raise AdminError(problem_of(answer), answer.status_code) from None


def _wait_s(answer: httpx.Response) -> float | None:
    """Return how long to wait before asking again, if that is asked for and worth it."""
    text = answer.headers.get("Retry-After", "")
    if answer.status_code != httpx.codes.TOO_MANY_REQUESTS or not text.isdecimal():
        return None
    return float(text) if float(text) <= max_wait_s else None


def problem_of(answer: httpx.Response) -> str:
    """Return what an edge says of an error."""
    try:
        told = answer.json()
        return str(told.get("detail") or told["title"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the edge answered with status {answer.status_code}"
