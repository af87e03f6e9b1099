"""What the admin API's handlers share: bounded bodies, and problems as RFC 9457 has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from proxy.admin.scopes import Scope
from proxy.errors import Refused

max_body_bytes: Final = 4_096
body_timeout_s: Final = 10.0

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Something to ask of an edge."""

    method: str
    path: str
    """As Starlette writes it: parameters in braces."""
    handler: Handler
    scopes: frozenset[Scope]
    """Any one of them admits a caller; empty for what anybody may ask."""


_T = TypeVar("_T")


async def read_json(request: Request, kind: type[_T], example: str) -> _T:
    """Read a request's body.

    Raises:
        Refused: it is too large, too slow, or something else than `example` shows.

    """
    try:
        return msgspec.json.decode(await _body(request), type=kind)
    except (msgspec.DecodeError, UnicodeError):
        # The library's text could quote what was sent.
        raise Refused(400, "bad_body", f"The body has to be {example}.") from None


async def _body(request: Request) -> bytes:
    body = b""
    try:
        with trio.fail_after(body_timeout_s):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > max_body_bytes:
                        raise Refused(413, "body_too_large", f"At most {max_body_bytes} bytes.")
    except trio.TooSlowError:
        raise Refused(408, "body_too_slow", f"The body took over {body_timeout_s:g} s.") from None
    except ClientDisconnect:
        raise Refused(400, "body_cut_short", "The body ended before its end.") from None
    return body


def problem(status: int, reason: str, message: str) -> Response:
    """Return an error."""
    return JSONResponse(
        {"type": f"urn:moonhost:{reason}", "title": message, "status": status},
        status_code=status,
        media_type="application/problem+json",
    )
