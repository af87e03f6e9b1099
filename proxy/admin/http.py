"""What the admin API says and reads over HTTP: bounded bodies, values, problems (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing, suppress
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeVar

import msgspec
import trio
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from proxy.errors import Refused

max_body_bytes: Final = 4_096
body_timeout_s: Final = 10.0

json_type: Final = "application/json"
problem_type: Final = "application/problem+json"
_urn: Final = "urn:moonhost:"
# Some hold what peers chose, and most are for one caller: nothing is to be run, framed, loaded by
# another site's page or kept.
_as_data: Final = MappingProxyType(
    {
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
)

_T = TypeVar("_T")
_Parameters = TypeVar("_Parameters", bound=msgspec.Struct)


class Problem(msgspec.Struct, frozen=True):
    """What went wrong, as RFC 9457 writes it."""

    type: Annotated[
        str,
        msgspec.Meta(
            pattern=f"^{_urn}[a-z0-9_]+$", description=f"`{_urn}` and the reason, for programs."
        ),
    ]
    title: Annotated[str, msgspec.Meta(description="The reason in words; the same each time.")]
    status: int
    detail: Annotated[str, msgspec.Meta(description="What was wrong here, and what to do.")]


async def read_json(request: Request, kind: type[_T], example: object) -> _T:
    """Read a request's body.

    Raises:
        Refused: it is no JSON, too large, too slow, or something else than `example` shows.

    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != json_type:
        raise Refused(415, "not_json", f"The body's Content-Type has to be {json_type}.")
    try:
        return msgspec.json.decode(await _body(request), type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # The library's text could quote what was sent.
        raise Refused(
            400, "bad_body", f"The body has to be like this: {json.dumps(example)}."
        ) from None


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


def read_path(parameters: Mapping[str, Any], kind: type[_Parameters]) -> _Parameters:
    """Read the parameters of a path.

    Raises:
        Refused: one is out of its bounds.

    """
    try:
        return msgspec.convert(parameters, kind, strict=False)
    except msgspec.ValidationError:
        raise Refused(400, "bad_path", f"The path holds {_described(kind)}") from None


def read_query(query: QueryParams, kind: type[_Parameters]) -> _Parameters:
    """Read the parameters of a query.

    Raises:
        Refused: one is missing, unknown, said twice or out of its bounds.

    """
    said = query.multi_items()
    values = dict(said)
    if len(values) == len(said):
        with suppress(msgspec.ValidationError):
            return msgspec.convert(values, kind, strict=False)
    # The library's text could quote what was sent.
    raise Refused(400, "bad_query", f"The query holds {_described(kind)}")


def _described(kind: type[msgspec.Struct]) -> str:
    _, components = msgspec.json.schema_components([kind])
    shape = components[kind.__name__]
    known = [
        f"{name}{'' if name in shape['required'] else ' (or not)'}: {told.get('description', '')}"
        for name, told in shape["properties"].items()
    ]
    return " ".join(known) or "nothing."


def as_data(answer: Response) -> Response:
    """Have browsers take an answer as nothing but data, where it does not say otherwise itself."""
    for name, said in _as_data.items():
        answer.headers.setdefault(name, said)
    return answer


def value(content: object, status: int, headers: Mapping[str, str]) -> Response:
    """Return an answer that holds a value."""
    return Response(
        msgspec.json.encode(content), status_code=status, headers=headers, media_type=json_type
    )


def problem(
    status: int, reason: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error; `reason` is a snake_case token."""
    told = Problem(f"{_urn}{reason}", reason.replace("_", " ").capitalize(), status, message)
    return as_data(
        Response(
            msgspec.json.encode(told), status_code=status, headers=headers, media_type=problem_type
        )
    )


def refusal(error: Refused) -> Response:
    """Return what a caller is told of a refusal."""
    return problem(error.status, error.reason, str(error), error.headers)
