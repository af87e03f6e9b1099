"""The WebSocket under a tunnel: the library's connection, made safe for traffic in both directions.

Two things of websockets 17.4 on trio do not suit a relay, and are put right here:

- Its reader takes the send lock after every read, even with nothing to send. When both sides have
  a full pipe, each reader waits for its own sender and nobody reads: a deadlock. Here the reader
  never waits for a sender: its replies (pongs) are written by a task of their own.
- A reader paused by a full queue is not woken when the connection is closed, and a reader that is
  cancelled while it closes leaves others waiting for its messages. Here every way of closing lets
  go of both.

Its log may quote requests (so, tokens) at debug level and prints tracebacks of what peers cause;
`library_log` turns it into single lines of errors only.
"""

from __future__ import annotations

import logging
import socket
from contextlib import suppress

import structlog
import trio
from websockets.frames import CloseCode as LibraryCode
from websockets.protocol import State
from websockets.trio.client import ClientConnection
from websockets.trio.connection import Connection
from websockets.trio.server import ServerConnection

from revdial.framing import max_batch_bytes
from revdial.messages import CloseCode, max_control_message_bytes

close_timeout_s = 2.0
max_pending_replies = 64
max_queued_messages = 8
control_path = "/v1/control"
data_path = "/v1/data/"

_TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
_TCP_CONGESTION = getattr(socket, "TCP_CONGESTION", 13)

# The library fails a connection with these codes when it finds the fault itself.
_BY_OUR_CODE: dict[int, str] = {
    LibraryCode.MESSAGE_TOO_BIG: "message_too_large",
    LibraryCode.INTERNAL_ERROR: "ping_timeout",
    LibraryCode.PROTOCOL_ERROR: "bad_frame",
    LibraryCode.INVALID_DATA: "bad_frame",
}
_BY_THEIR_CODE: dict[int, str] = {code: code.name.lower() for code in CloseCode}


class TunnelWebSocket(Connection):
    """What tunnels need of a connection, on either side."""

    _reader: trio.lowlevel.Task | None = None
    _replying = False

    async def recv_events(self) -> None:
        """Read for as long as the connection lives; the library starts this once."""
        self._reader = trio.lowlevel.current_task()
        await super().recv_events()

    async def send_data(self) -> None:
        """Write what the protocol has to say, in order; see the module for why this differs."""
        pending = len(self.protocol.writes)
        if trio.lowlevel.current_task() is not self._reader or pending > max_pending_replies:
            await super().send_data()
        elif pending and not self._replying:
            self._replying = True
            self.nursery.start_soon(self._reply)

    async def _reply(self) -> None:
        try:
            while self.protocol.writes:
                await super().send_data()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            # The reader meets the same end, and tells everybody.
            return
        finally:
            self._replying = False

    async def close_stream(self) -> None:
        """Close at once, and let go of everybody who waits, also when this is cancelled."""
        try:
            await super().close_stream()
        finally:
            self._settle()

    async def abort(self) -> None:
        """Close without a closing handshake; works in a cancelled scope."""
        try:
            await trio.aclose_forcefully(self.stream)
        finally:
            self._settle()

    def _settle(self) -> None:
        if not self.stream_closed.is_set():
            self.protocol.receive_eof()
            self.recv_messages.close()
            self.acknowledge_pending_pings()
            self.stream_closed.set()
        if self.recv_flow_control is not None:
            self.resume_reading()

    async def wait_writable(self) -> None:
        """Wait until the kernel would take something."""
        async with self.send_lock:
            await self.stream.wait_send_all_might_not_block()
        await self.send_data()

    async def close_politely(self, code: int = 1000, reason: str = "") -> None:
        """Close with a code; without one when the peer does not follow in time.

        The library's own `aclose` has no deadline while a sender is stuck, and swallows
        cancellation.
        """
        try:
            with trio.move_on_after(close_timeout_s):
                await self.aclose(code, reason)
        finally:
            if not self.stream_closed.is_set():
                await self.abort()
        await trio.lowlevel.checkpoint()

    def be_patient(self, user_timeout_ms: int) -> None:
        """Allow the peer's kernel to have no room for so long; see `TransportLimits`."""
        stream = self.stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        if isinstance(stream, trio.SocketStream):
            with suppress(OSError):
                stream.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, user_timeout_ms)

    @property
    def is_open(self) -> bool:
        """Neither side has begun to close."""
        return self.state is State.OPEN

    @property
    def peer(self) -> str:
        """The peer's address as text, for logs; empty where the stream has none."""
        with suppress(NotImplementedError, OSError):
            return address_text(self.remote_address)
        return ""


class ServerWebSocket(TunnelWebSocket, ServerConnection):
    """The edge's end."""


class ClientWebSocket(TunnelWebSocket, ClientConnection):
    """The agent's end."""


def library_log() -> logging.Logger:
    """A logger for the library that belongs to nobody else: errors only, one line, no traceback."""
    # Not from the registry: nobody's logging settings may turn its debug level on.
    logger = logging.Logger("revdial.websockets", level=logging.ERROR)  # noqa: LOG001
    logger.addHandler(_OneLine())
    return logger


class _OneLine(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        if kind is EOFError:
            # Bytes that were read in the very moment in which we closed.
            return
        error = kind.__name__ if kind else None
        structlog.get_logger().error("websocket_library_error", what=record.msg, error=error)


def address_text(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """A socket's address as people write it."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def message_limit(path: str) -> int:
    """The largest message a connection to this path may carry."""
    return max_control_message_bytes if path == control_path else max_batch_bytes


def tune(stream: trio.SocketStream, *, user_timeout_ms: int, unsent_limit_bytes: int) -> None:
    """Short kernel queues, and an early end for a path that has died; each only where allowed."""
    options: tuple[tuple[int, int | bytes], ...] = (
        (socket.TCP_NODELAY, 1),
        (_TCP_NOTSENT_LOWAT, unsent_limit_bytes),
        (_TCP_USER_TIMEOUT, user_timeout_ms),
        (_TCP_CONGESTION, b"bbr"),
    )
    for option, value in options:
        with suppress(OSError):
            stream.setsockopt(socket.IPPROTO_TCP, option, value)


def why_closed(websocket: TunnelWebSocket) -> str:
    """A short reason for a metric's label: what ended a connection that is closed."""
    received, sent = websocket.protocol.close_rcvd, websocket.protocol.close_sent
    if received is not None:
        return _BY_THEIR_CODE.get(received.code, "closed_by_peer")
    if sent is not None:
        return _BY_OUR_CODE.get(sent.code, "connection_lost")
    return "connection_lost"
