"""The admin API behind a real server on loopback, as an edge serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from starlette.types import ASGIApp

from proxy.admin.http_server import HttpServer
from proxy.admin.port import admin_doors, listen


@asynccontextmanager
async def served(application: ASGIApp, patience_s: float = 10.0) -> AsyncIterator[str]:
    """Serve an application for a block; gives its base URL."""
    listener = await listen("127.0.0.1", 0, patience_s)
    async with trio.open_nursery() as nursery:
        await nursery.start(admin_doors().serve, [listener], HttpServer(application).serve)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()
