"""Opens WebSockets to the edge with the agent's token, and tells failures apart in words."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.uri import parse_uri

from revdial.backoff import Outcome
from revdial.errors import TunnelError, printable
from revdial.limits import TransportLimits
from revdial.transport import Transport
from revdial.websocket import (
    TunnelWebSocket,
    library_log,
    message_limit,
    tune,
    upgrade_as_client,
)


class NotConnected(TunnelError):
    """The edge was not reached, or turned this agent away."""

    default_reason = "not_connected"

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(outcome.value, message)
        self.outcome = outcome


def check_token(token: str) -> None:
    """Raise ValueError for what can be no token."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token must be one word of printable ASCII")


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
        check_token(token)
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "wss" else 80)
        self._base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.use(token, ssl_context)
        self._limits = limits
        self._library_log = library_log()

    def use(self, token: str, ssl_context: ssl.SSLContext | None) -> None:
        """Show this token, and verify the edge like this, from the next connection on."""
        self._token, self._ssl_context = token, ssl_context

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[TunnelWebSocket]:
        """A WebSocket to this path of the edge for as long as the block runs, or `NotConnected`.

        What the block raises comes out in an exception group, as of a nursery.
        """
        websocket = await self._connect(path)
        limits = self._limits
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    websocket.keep_alive, limits.ping_interval_s, limits.ping_timeout_s
                )
                yield websocket
                await websocket.close_politely()
                nursery.cancel_scope.cancel()
        finally:
            await websocket.abort()

    async def _connect(self, path: str) -> TunnelWebSocket:
        try:
            with trio.fail_after(self._limits.handshake_timeout_s):
                stream = await trio.open_tcp_stream(self.host, self.port)
                return await self._handshake(path, Transport.of(stream))
        except trio.TooSlowError:
            raise NotConnected(Outcome.FAILED, "the edge did not answer in time") from None
        except (OSError, InvalidHandshake, trio.BrokenResourceError) as error:
            raise explain(error) from None

    async def _handshake(self, path: str, transport: Transport) -> TunnelWebSocket:
        tune(
            transport.socket,
            user_timeout_ms=self._limits.tcp_user_timeout_ms,
            unsent_limit_bytes=self._limits.tcp_unsent_limit_bytes,
        )
        try:
            if self._ssl_context is not None:
                await transport.start_tls(self._ssl_context, server_hostname=self.host)
            protocol = ClientProtocol(
                parse_uri(self._base + path),
                max_size=message_limit(path),
                logger=self._library_log,
            )
            headers = {"Authorization": f"Bearer {self._token}"}
            return await upgrade_as_client(transport, protocol, headers)
        except BaseException:
            transport.close()
            raise


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
