"""The web console's files: the same for everybody, without any data, read once at start."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from types import MappingProxyType
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from proxy.admin.http import problem

_front_page: Final = "index.html"
_types: Final = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)

# Nothing from elsewhere, nothing inline, nowhere framed: a page that shows names that peers chose,
# and whose cookie may end sessions.
SECURITY_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": (
            "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"
        ),
        "Cache-Control": "no-cache",
    }
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    type: str
    etag: str


def routes() -> list[Route]:
    """Return where the console is; unknown names below ``/console/`` are answered by a problem."""
    by_name = _load()

    async def file(request: Request) -> Response:
        found = by_name.get(request.path_params.get("name") or _front_page)
        return _not_found() if found is None else _answer(request, found)

    return [
        Route("/", _to_console),
        Route("/console", _to_console),
        Route("/console/", file),
        Route("/console/{name:path}", file),
    ]


def _load() -> dict[str, _File]:
    # A table of what is there: whatever a path says, nothing else can be read.
    folder = files("proxy.admin") / "console"
    return {
        entry.name: _File(content, _types[PurePath(entry.name).suffix], _etag(content))
        for entry in folder.iterdir()
        for content in (entry.read_bytes(),)
    }


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _answer(request: Request, file: _File) -> Response:
    headers = {**SECURITY_HEADERS, "ETag": file.etag}
    if _is_known(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    headers["Content-Type"] = file.type
    if request.method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(len(file.content))})
    return Response(file.content, headers=headers)


def _is_known(if_none_match: str, etag: str) -> bool:
    """Compare as RFC 9110 §13.1.2 wants it: weakly, and any of a list."""
    named = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in (etag, "*") for tag in named)


async def _to_console(request: Request) -> Response:
    return RedirectResponse("/console/", headers=dict(SECURITY_HEADERS))


def _not_found() -> Response:
    answer = problem(404, "no_such_page", "The console has no such file: it begins at /console/.")
    answer.headers.update(SECURITY_HEADERS)
    return answer
