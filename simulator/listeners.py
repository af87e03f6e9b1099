"""Sockets that a host accepts connections on, with a bound on how many it holds at a time."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import trio

_BACKLOG = 64

Serve: TypeAlias = Callable[[trio.SocketStream], Awaitable[None]]


async def open_tcp(address: str, port: int) -> trio.SocketListener:
    """Listen on one TCP port, a free one for 0. Raises OSError."""
    (listener,) = await trio.open_tcp_listeners(port, host=address, backlog=_BACKLOG)
    return listener


async def open_unix(path: Path) -> trio.SocketListener:
    """Listen on a Unix socket; one that an earlier run left behind is replaced. Raises OSError."""
    if await trio.Path(path).is_socket():
        await trio.Path(path).unlink()
    await trio.Path(path.parent).mkdir(parents=True, exist_ok=True)
    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await listening.bind(str(path))
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return trio.SocketListener(listening)


def listening_port(listener: trio.SocketListener) -> int:
    """The port that was taken."""
    port: int = listener.socket.getsockname()[1]
    return port


async def accept(listener: trio.SocketListener, serve: Serve, max_connections: int) -> None:
    """Serve each connection in a task of its own; those beyond the bound are closed at once."""
    open_connections = 0

    async def serve_one(stream: trio.SocketStream) -> None:
        nonlocal open_connections
        async with stream:
            if open_connections >= max_connections:
                return
            open_connections += 1
            try:
                await serve(stream)
            finally:
                open_connections -= 1

    await trio.serve_listeners(serve_one, [listener])
