"""Opens WebSockets to the edge with the agent's token, and tells failures apart in words."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.uri import parse_uri

from revdial.backoff import Outcome
from revdial.errors import TunnelError, printable
from revdial.limits import TransportLimits
from revdial.websocket import (
    ClientWebSocket,
    close_timeout_s,
    library_log,
    max_queued_messages,
    message_limit,
    tune,
)


class NotConnected(TunnelError):
    """The edge was not reached, or turned this agent away."""

    default_reason = "not_connected"

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(outcome.value, message)
        self.outcome = outcome


class Connector:
    """Where the edge is and what to show it. Holds the token, so it has no telling repr."""

    def __init__(
        self, url: str, token: str, ssl_context: ssl.SSLContext | None, limits: TransportLimits
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.username is not None:
            raise ValueError("the edge's URL must look like wss://host or wss://host:port")
        if (parts.scheme == "wss") is (ssl_context is None):
            raise ValueError("wss:// needs a TLS context, and ws:// takes none")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("the token must be one word of printable ASCII")
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "wss" else 80)
        self._base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._token = token
        self._limits = limits
        self._ssl_context = ssl_context
        self._library_log = library_log()

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[ClientWebSocket]:
        """A WebSocket to this path of the edge for as long as the block runs, or `NotConnected`.

        What the block raises comes out in an exception group, as of a nursery.
        """
        failed: NotConnected | None = None
        async with trio.open_nursery() as nursery:
            try:
                websocket = await self._connect(nursery, path)
            except NotConnected as error:
                failed = error
            else:
                websocket.start_keepalive()
                yield websocket
                await websocket.close_politely()
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _connect(self, nursery: trio.Nursery, path: str) -> ClientWebSocket:
        try:
            with trio.fail_after(self._limits.handshake_timeout_s):
                return await self._handshake(nursery, path, await self._open_stream())
        except trio.TooSlowError:
            raise NotConnected(Outcome.FAILED, "the edge did not answer in time") from None
        except (OSError, InvalidHandshake, ConnectionClosed, trio.BrokenResourceError) as error:
            raise explain(error) from None

    async def _handshake(
        self, nursery: trio.Nursery, path: str, stream: trio.abc.Stream
    ) -> ClientWebSocket:
        try:
            if self._ssl_context is not None:
                stream = trio.SSLStream(
                    stream, self._ssl_context, server_hostname=self.host, https_compatible=True
                )
                await stream.do_handshake()
            websocket = ClientWebSocket(
                nursery,
                stream,
                ClientProtocol(
                    parse_uri(self._base + path),
                    max_size=message_limit(path),
                    logger=self._library_log,
                ),
                ping_interval=self._limits.ping_interval_s,
                ping_timeout=self._limits.ping_timeout_s,
                close_timeout=close_timeout_s,
                max_queue=max_queued_messages,
            )
            await websocket.handshake({"Authorization": f"Bearer {self._token}"}, None)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return websocket

    async def _open_stream(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream(self.host, self.port)
        tune(
            stream,
            user_timeout_ms=self._limits.tcp_user_timeout_ms,
            unsent_limit_bytes=self._limits.tcp_unsent_limit_bytes,
        )
        return stream


def explain(error: BaseException) -> NotConnected:
    """One sentence an operator can act on, without the request (it holds the token)."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = printable(cause.verify_message)
            return NotConnected(
                Outcome.UNTRUSTED, f"the edge's certificate does not verify: {text}"
            )
        cause = cause.__cause__
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        if status in (401, 403):
            return NotConnected(
                Outcome.UNAUTHORISED, f"the edge does not take this agent's token ({status})"
            )
        return NotConnected(Outcome.FAILED, f"the edge answered {status}")
    if isinstance(error, trio.BrokenResourceError):
        return NotConnected(Outcome.FAILED, "the connection broke during the TLS handshake")
    if isinstance(error, OSError):
        text = error.strerror or str(error) or type(error).__name__
        return NotConnected(Outcome.FAILED, f"cannot connect: {printable(text)}")
    return NotConnected(Outcome.FAILED, "the answer is not that of an edge")
