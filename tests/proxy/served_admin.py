"""The admin API behind a real server on loopback, as an edge serves it, and a gate that is open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from starlette.requests import Request
from starlette.types import ASGIApp

from proxy.admin.gate import Caller
from proxy.admin.http_server import HttpServer
from proxy.admin.port import admin_doors, listen
from proxy.admin.scopes import Scope
from proxy.errors import Refused


class FakeGate:
    """Admits everybody as one caller with these scopes, or all; with a `token`, who shows that."""

    def __init__(self, *scopes: Scope, token: str | None = None) -> None:
        self.scopes = frozenset(scopes or Scope)
        self.revoked = False
        self._wanted = None if token is None else f"Bearer {token}"

    async def admit(self, request: Request, scopes: frozenset[Scope]) -> Caller:
        if scopes and self._wanted not in (None, request.headers.get("authorization")):
            raise Refused(401, "unauthorized", "A token is needed.")
        if scopes and not self.scopes & scopes:
            raise Refused(403, "insufficient_scope", "That token may not do this.")
        return Caller("anna", self.scopes)

    async def stands(self, caller: Caller) -> bool:
        return not self.revoked


@asynccontextmanager
async def served(application: ASGIApp, patience_s: float = 10.0) -> AsyncIterator[str]:
    """Serve an application for a block; gives its base URL."""
    listener = await listen("127.0.0.1", 0, patience_s)
    async with trio.open_nursery() as nursery:
        await nursery.start(admin_doors().serve, [listener], HttpServer(application).serve)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()
