"""The admin API behind a real server on loopback, as an edge serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hypercorn.trio
import trio
from starlette.types import ASGIApp

from proxy.admin.port import PortConfig


@asynccontextmanager
async def served(application: ASGIApp, patience_s: float = 10.0) -> AsyncIterator[str]:
    """Serve an application for a block; gives its base URL."""
    settings = PortConfig(None, patience_s)
    settings.bind = ["127.0.0.1:0"]
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(hypercorn.trio.serve, application, settings)
        yield url
        nursery.cancel_scope.cancel()
