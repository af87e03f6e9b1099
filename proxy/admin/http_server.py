"""Serves an application over HTTP/1.1, each connection on its own: what one does harms no other.

The protocol is hypercorn's; what is around it is not. Hypercorn's server lets an error of one
connection, which a stranger can bring about, end all others and the edge with them. It speaks
HTTP/2 and WebSockets to whoever asks for them. And a connection whose body the application does
not read to its end can stay for good.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    HTTPDisconnectEvent,
    Scope,
)
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp

from proxy.doors import Connection

handshake_timeout_s: Final = 10.0
max_queued_events: Final = 4
"""Pieces of a body, of 64 KiB each at most, that wait for the application."""
_versions: Final = frozenset({b"1.0", b"1.1"})
_version_not_supported: Final = 505
_gone: Final[HTTPDisconnectEvent] = {"type": "http.disconnect"}


class HttpServer:
    """Answers connections with an application.

    Args:
        application: any ASGI application.
        tls: the context to serve with; None: without TLS.

    """

    def __init__(self, application: ASGIApp, tls: ssl.SSLContext | None = None) -> None:
        self._config = Config()
        self._config.errorlog = None
        self._config.include_server_header = False
        self._application = wrap_app(application, 0, "asgi")  # type: ignore[arg-type]
        self._context = WorkerContext(None)
        self._tls = tls

    async def serve(self, connection: Connection) -> None:
        """Serve a connection until either side ends it."""
        stream: trio.abc.Stream = connection.stream
        if self._tls is not None:
            secured = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
            with trio.move_on_after(handshake_timeout_s) as handshake:
                await secured.do_handshake()
            if handshake.cancelled_caught:
                return
            stream = secured
        served = _Served(self._application, self._config, self._context, stream)
        async with _Tasks() as tasks:
            await served.run_in(tasks, connection, secure=self._tls is not None)


class _Served(TCPServer):
    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, stream: Any
    ) -> None:
        super().__init__(app, config, context, ConnectionState({}), stream)

    async def run_in(self, tasks: TaskGroup, connection: Connection, *, secure: bool) -> None:
        self._task_group = tasks
        self.protocol = _Http1(  # type: ignore[assignment]
            self.app,
            self.config,
            self.context,
            tasks,
            ConnectionState({}),
            secure,
            # Of the client its address alone is of interest.
            (connection.address, 0),
            (connection.local_address, connection.local_port),
            self.protocol_send,
        )
        try:
            await self.protocol_send(Updated(idle=True))
            await self._read_data()
        finally:
            await self._close()
            await self.idle_task.stop()

    async def _close(self) -> None:
        # Not with an end of what is sent first: it fails where an answer is just being sent.
        await self.stream.aclose()


class _Http1(H11Protocol):
    """HTTP/1.1, whatever else is asked for: nobody has to take an upgrade (RFC 9110, 7.8)."""

    async def _check_protocol(self, event: h11.Request) -> None:
        return None

    async def _create_stream(self, request: h11.Request) -> None:
        if request.http_version not in _versions:
            await self._send_error_response(_version_not_supported)
            await self.send(Closed())
            return
        await super()._create_stream(
            h11.Request(
                method=request.method,
                target=request.target,
                headers=[one for one in request.headers if one[0] != b"upgrade"],
                http_version=request.http_version,
            )
        )


class _Tasks(TaskGroup):
    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        telling, told = trio.open_memory_channel[ASGIReceiveEvent](max_queued_events)
        self.spawn(_answer, app, scope, told, send)

        async def tell(event: ASGIReceiveEvent) -> None:
            if event["type"] == _gone["type"]:
                # Without waiting for room: where nobody reads the body there will be none.
                telling.close()
                return
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await telling.send(event)

        return tell


async def _answer(
    app: AppWrapper,
    scope: Scope,
    told: trio.MemoryReceiveChannel[ASGIReceiveEvent],
    send: Callable[[ASGISendEvent | None], Awaitable[None]],
) -> None:
    async def receive() -> ASGIReceiveEvent:
        try:
            return await told.receive()
        except trio.EndOfChannel:
            return _gone

    try:
        # What an application raises it has logged itself.
        with suppress(Exception):
            async with told:
                await app(scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run)
    finally:
        await send(None)
