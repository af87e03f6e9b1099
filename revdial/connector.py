"""Opens WebSockets to the edge with the agent's token, and tells failures apart in words."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import trio
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.trio.client import connect

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
        self._connect = partial(
            connect,
            ssl=ssl_context,
            compression=None,
            proxy=None,
            ping_interval=limits.ping_interval_s,
            ping_timeout=limits.ping_timeout_s,
            close_timeout=close_timeout_s,
            max_queue=max_queued_messages,
            logger=library_log(),
            create_connection=ClientWebSocket,
        )

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[ClientWebSocket]:
        """A WebSocket to this path of the edge for as long as the block runs, or `NotConnected`."""
        async with AsyncExitStack() as stack:
            try:
                with trio.fail_after(self._limits.handshake_timeout_s):
                    stream = await self._open_stream()
                    websocket = await stack.enter_async_context(
                        self._connect(
                            self._base + path,
                            stream=stream,
                            additional_headers={"Authorization": f"Bearer {self._token}"},
                            max_size=message_limit(path),
                            open_timeout=None,
                        )
                    )
            except trio.TooSlowError:
                raise NotConnected(Outcome.FAILED, "the edge did not answer in time") from None
            except (
                OSError,
                InvalidHandshake,
                ConnectionClosed,
                trio.BrokenResourceError,
                # The library's answer to a redirect.
                ValueError,
            ) as error:
                raise explain(error) from None
            assert isinstance(websocket, ClientWebSocket)  # noqa: S101 - as asked for
            yield websocket

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
