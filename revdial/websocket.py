"""The WebSocket under a tunnel: the library's protocol, which does no I/O, on a `Transport`.

The library's own trio connection costs a task, a queue and several locks a message, and its reader
waits for its writer: two full pipes block each other. Here whoever wants a message reads the
socket itself, replies never wait for a sender, and a sender that is cancelled tears no message.

Nobody reads unless somebody wants a message. So each connection has one task that does, for as
long as it is in use; a connection is known to be lost when that task finds out.

The library's log may quote requests (so, tokens) at debug level and prints tracebacks of what
peers cause; `library_log` turns it into single lines of errors only.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final

import structlog
import trio
from websockets.client import ClientProtocol
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    InvalidHandshake,
    ProtocolError,
)
from websockets.frames import CloseCode as LibraryCode
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import CLIENT, CLOSED, OPEN, SERVER, Event, Protocol
from websockets.server import ServerProtocol

from revdial.frames import FrameSplitter, binary_frame
from revdial.framing import Buffer, max_batch_bytes
from revdial.messages import CloseCode, max_control_message_bytes
from revdial.transport import Transport

close_timeout_s: Final = 2.0
max_retransmission_ms: Final = 1_000
"""Between tries on a path that is silent (Linux 6.15 and newer): the least that is allowed."""
max_reply_bytes: Final = 8_192
"""Of pongs that the peer does not read; until it does, nothing more is read of it."""
max_unsent_bytes: Final = 2**20
"""Of whatever we have to say: a peer that reads none of it is not listened to either."""
max_other_frames: Final = 256
"""In one read, of frames that are not whole binary messages: they cost far more than they hold."""
max_fragments: Final = 1_024
_end_of_head: Final = b"\r\n\r\n"
control_path: Final = "/v1/control"
data_path: Final = "/v1/data/"

_TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
_TCP_CONGESTION = getattr(socket, "TCP_CONGESTION", 13)
_TCP_RTO_MAX_MS = 44

# The library fails a connection with these codes when it finds the fault itself.
_BY_OUR_CODE: dict[int, str] = {
    LibraryCode.MESSAGE_TOO_BIG: "message_too_large",
    LibraryCode.INTERNAL_ERROR: "ping_timeout",
    LibraryCode.PROTOCOL_ERROR: "bad_frame",
    LibraryCode.INVALID_DATA: "bad_frame",
}
_BY_THEIR_CODE: dict[int, str] = {code: code.name.lower() for code in CloseCode}

_TRANSPORT_ERRORS: Final = (trio.BrokenResourceError, trio.ClosedResourceError)

CheckRequest = Callable[[ServerProtocol, Request], Awaitable[Response | None]]


class TunnelWebSocket:
    """One connection, on either side; see `upgrade_as_server` and `upgrade_as_client`."""

    def __init__(self, transport: Transport, protocol: Protocol) -> None:
        self.protocol = protocol
        self.stream_closed = trio.Event()
        """Set once the connection is gone, whoever ended it."""
        self.latency = 0.0
        """Round trip of the last ping, in seconds; 0 before the first answer."""
        self._transport = transport
        self._splitter = FrameSplitter(
            masked=protocol.side is SERVER, on_message=self._take, on_other=self._pass_on
        )
        self._messages: deque[str | Buffer] = deque()
        self._fragments: list[Buffer] = []
        self._is_text = False
        self._reading = False
        self._early = b""
        self._reply_bytes = 0
        self._other_frames = 0
        self._pinged_at: float | None = None
        # Since when a reader has waited in vain.
        self._silent_since = trio.current_time()

    @property
    def is_open(self) -> bool:
        """Neither side has begun to close."""
        return self.protocol.state is OPEN and not self.stream_closed.is_set()

    @property
    def peer(self) -> str:
        """The peer's address as text, for logs; empty where the socket has none any more."""
        with suppress(OSError):
            return address_text(self._transport.socket.getpeername())
        return ""

    @property
    def unsent_bytes(self) -> int:
        """How much of what was sent the kernel has not taken."""
        return self._transport.unsent_bytes

    async def recv(self) -> str | Buffer:
        """The next message; raises `ConnectionClosed` at the end. One task at a time."""
        if self._reading:
            raise trio.BusyResourceError("another task is already reading this connection")
        self._reading = True
        try:
            if self._messages or self.stream_closed.is_set():
                # Not its silence, if it was ours.
                self._silent_since = trio.current_time()
                await trio.lowlevel.checkpoint()
            while not self._messages:
                try:
                    await self._read()
                except ConnectionClosed:
                    if not self._messages:
                        raise
            return self._messages.popleft()
        finally:
            self._reading = False

    async def send(self, message: str | Buffer) -> None:
        """Send a message, text for `str`; returns when the kernel has taken it.

        Cancelled before its turn, nothing is sent; after that, the rest follows with whatever is
        sent next, the keep-alive's ping at the latest.
        """
        await self.flush()
        self.send_nowait(message)
        await self.flush()

    def send_nowait(self, message: str | Buffer) -> None:
        """Send a message; what the kernel does not take waits in `unsent_bytes` for `flush`."""
        if not self.is_open:
            raise self.closed_error()
        try:
            if isinstance(message, str):
                self.protocol.send_text(message.encode())
                self._write()
            else:
                frame = binary_frame(message, masked=self.protocol.side is CLIENT)
                self._transport.send_nowait(frame)
        except _TRANSPORT_ERRORS as error:
            raise self._loss(error) from error

    async def flush(self) -> None:
        """Wait until the kernel has taken all that was sent."""
        try:
            await self._transport.flush()
        except _TRANSPORT_ERRORS as error:
            raise self._loss(error) from error

    async def wait_writable(self) -> None:
        """Wait until the kernel would take something."""
        try:
            await self._transport.wait_writable()
        except _TRANSPORT_ERRORS as error:
            raise self._loss(error) from error

    def ping(self) -> None:
        """Send a ping; its round trip is in `latency` once it was answered."""
        if self.is_open:
            if self._pinged_at is None:
                self._pinged_at = trio.current_time()
            self.protocol.send_ping(b"")
            try:
                self._write()
            except _TRANSPORT_ERRORS:
                self._let_go()

    async def keep_alive(self, interval_s: float, timeout_s: float) -> None:
        """Ping until the connection ends; end it when nothing has come for `timeout_s`.

        Anything that arrives is an answer: a peer whose pong waits behind data is alive. While
        nobody reads here nothing can arrive, and nothing is concluded.
        """
        while self.is_open:
            self.ping()
            next_at = trio.current_time() + interval_s
            with trio.move_on_at(next_at), suppress(ConnectionClosed):
                # What a sender that was cancelled has left, too.
                await self.flush()
            await trio.sleep_until(next_at)
            if self._reading and trio.current_time() - self._silent_since > timeout_s:
                self.protocol.fail(LibraryCode.INTERNAL_ERROR, "keepalive ping timeout")
                await self.abort()

    async def close_politely(self, code: int = 1000, reason: str = "") -> None:
        """Close with a code; without one when the peer does not follow in time."""
        try:
            with trio.move_on_after(close_timeout_s):
                if self.is_open:
                    self.protocol.send_close(code, reason)
                    with suppress(*_TRANSPORT_ERRORS):
                        self._write()
                async with trio.open_nursery() as nursery:
                    # Beside each other: the peer may read only once it has written.
                    nursery.start_soon(self._flush_last)
                    await self._await_goodbye()
                    nursery.cancel_scope.cancel()
        finally:
            self._let_go()
        await trio.lowlevel.checkpoint()

    async def _flush_last(self) -> None:
        with suppress(ConnectionClosed):
            await self.flush()

    async def _await_goodbye(self) -> None:
        if self._reading:
            await self.stream_closed.wait()
        with suppress(ConnectionClosed):
            while not self.stream_closed.is_set():
                # What comes before the peer's goodbye is nobody's any more.
                await self.recv()

    async def abort(self) -> None:
        """Close without a closing handshake; works in a cancelled scope."""
        self._let_go()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def be_patient(self, user_timeout_ms: int) -> None:
        """Allow the peer's kernel to have no room for so long; see `TransportLimits`."""
        with suppress(OSError):
            self._transport.socket.setsockopt(
                socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, user_timeout_ms
            )

    def restart_bbr(self) -> None:
        """See `Transport.restart_bbr`."""
        self._transport.restart_bbr()

    async def first_event(self) -> Event:
        """The peer's half of the upgrade; raises the library's errors, or `BrokenResourceError`."""
        protocol, tail = self.protocol, b""
        while not protocol.events and protocol.handshake_exc is None:
            data = await self._transport.receive_some()
            if not data:
                protocol.receive_eof()
                continue
            # The peer need not wait for us: its first frames may come with the end of the head.
            tail += data
            end = tail.find(_end_of_head)
            cut = len(data) if end < 0 else len(data) - (len(tail) - end - len(_end_of_head))
            protocol.receive_data(data[:cut])
            tail = tail[1 - len(_end_of_head) :]
            if protocol.events or cut == len(data):
                self._early = data[cut:]
            else:
                # An answer that is no upgrade has a body.
                protocol.receive_data(data[cut:])
        if protocol.handshake_exc is not None:
            raise protocol.handshake_exc
        return protocol.events_received()[0]

    async def answer(self) -> None:
        """Send what the protocol has to say, as our half of the upgrade."""
        self._write()
        await self._transport.flush()

    def begin(self) -> None:
        """Both halves of the upgrade are done: take what came behind the peer's."""
        early, self._early = self._early, b""
        if early:
            self._feed(early)

    async def _read(self) -> None:
        """Take what is there, after waiting for it; `ConnectionClosed` once that is the end."""
        if self.stream_closed.is_set():
            raise self.closed_error()
        try:
            if self.protocol.state is not OPEN and not self._awaits_close():
                await self._end()
                return
            replies_wait = self._reply_bytes > max_reply_bytes
            if replies_wait or self._transport.unsent_bytes > max_unsent_bytes:
                await self._transport.flush()
                self._reply_bytes = 0
            self._silent_since = trio.current_time()
            data = await self._transport.receive_some()
            if data:
                self._feed(data)
            else:
                self.protocol.receive_eof()
        except _TRANSPORT_ERRORS as error:
            raise self._loss(error) from error

    def _sort(self, events: Iterable[Event]) -> None:
        for event in events:
            assert isinstance(event, Frame)  # noqa: S101 - there is one upgrade, and it is done
            if event.opcode is Opcode.PONG and self._pinged_at is not None:
                self.latency = trio.current_time() - self._pinged_at
                self._pinged_at = None
            elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._assemble(event)

    def _feed(self, data: Buffer) -> None:
        """Take bytes of the peer apart, and reply to what wants a reply, all at once."""
        self._other_frames = 0
        self._splitter.feed(data, self.protocol.max_message_size or max_batch_bytes)
        if self.protocol.writes:
            self._reply_bytes += sum(map(len, self.protocol.writes))
            self._write()

    def _assemble(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if frame.data:
            self._fragments.append(frame.data)
        if not frame.fin:
            return
        message = b"".join(self._fragments)
        self._fragments = []
        if not self._is_text:
            self._messages.append(message)
            return
        try:
            self._messages.append(message.decode())
        except UnicodeDecodeError as error:
            self._fail(LibraryCode.INVALID_DATA, "a text message is not UTF-8", error)

    def _take(self, message: Buffer) -> None:
        if self.protocol.state is OPEN:
            self._messages.append(message)

    def _pass_on(self, data: Buffer) -> bool:
        """Let the library have a frame that is not a whole binary message."""
        protocol = self.protocol
        self._other_frames += 1
        too_many = self._other_frames > max_other_frames or len(self._fragments) > max_fragments
        if too_many and protocol.state is OPEN:
            why = "too many frames that are no messages"
            self._fail(LibraryCode.POLICY_VIOLATION, why, ProtocolError(why))
        if not protocol.reader.eof:
            protocol.receive_data(bytes(data))
        self._sort(protocol.events_received())
        return protocol.current_size is None

    def _fail(self, code: int, why: str, error: Exception) -> None:
        """Give the connection up for what the peer sent; `_end` tells it, and closes."""
        self.protocol.fail(code, why)
        self.protocol.parser_exc = error

    def _awaits_close(self) -> bool:
        """Tell whether we have begun to close, and the peer has yet to follow."""
        protocol = self.protocol
        return (
            protocol.close_rcvd is None
            and protocol.close_sent is not None
            and protocol.parser_exc is None
            and not protocol.reader.eof
        )

    async def _end(self) -> None:
        """Let the peer have our last words, and wait for it to hang up, for a while."""
        with trio.move_on_after(close_timeout_s):
            await self._transport.flush()
            self._transport.end_writing()
            while not self.protocol.reader.eof and await self._transport.receive_some():
                # Nothing that comes now means anything any more.
                continue
        self._let_go()

    def _write(self) -> None:
        for data in self.protocol.data_to_send():
            # An empty one asks to end this direction: that is `_end`'s.
            if data:
                self._transport.send_nowait(data)

    def _let_go(self) -> None:
        """Close the socket, and tell everybody; more than once does no harm."""
        self._transport.close()
        if not self.stream_closed.is_set():
            self.protocol.receive_eof()
            self.stream_closed.set()

    def _loss(self, error: Exception) -> ConnectionClosed:
        """Turn the transport's error into the one that callers know."""
        self._let_go()
        closed = self.closed_error()
        closed.__cause__ = error
        return closed

    def closed_error(self) -> ConnectionClosed:
        """What tells a caller that the connection is not open any more."""
        protocol = self.protocol
        if protocol.state is CLOSED:
            return protocol.close_exc
        return ConnectionClosedError(
            protocol.close_rcvd, protocol.close_sent, protocol.close_rcvd_then_sent
        )


async def upgrade_as_server(
    transport: Transport, protocol: ServerProtocol, check: CheckRequest
) -> TunnelWebSocket | None:
    """Answer the one request of a new connection; None where it did not become a WebSocket.

    `check` may refuse it with an answer of its own. The transport is the caller's to close then.
    """
    websocket = TunnelWebSocket(transport, protocol)
    try:
        request = await websocket.first_event()
    except (InvalidHandshake, trio.BrokenResourceError):
        return None
    assert isinstance(request, Request)  # noqa: S101 - what servers get first
    response = await check(protocol, request)
    if response is None:
        response = protocol.accept(request)
    # The library keeps the request for as long as the connection lives, and it holds the token.
    request.headers.clear()
    protocol.send_response(response)
    try:
        await websocket.answer()
    except trio.BrokenResourceError:
        return None
    if not websocket.is_open:
        return None
    websocket.begin()
    return websocket


async def upgrade_as_client(
    transport: Transport, protocol: ClientProtocol, headers: Mapping[str, str]
) -> TunnelWebSocket:
    """Ask for a WebSocket, with these headers too; the transport is the caller's where this raises.

    Raises `websockets.exceptions.InvalidHandshake` or `trio.BrokenResourceError`.
    """
    websocket = TunnelWebSocket(transport, protocol)
    request = protocol.connect()
    request.headers.update(headers)
    protocol.send_request(request)
    await websocket.answer()
    await websocket.first_event()
    websocket.begin()
    return websocket


def library_log() -> logging.Logger:
    """A logger for the library that belongs to nobody else: errors only, one line, no traceback."""
    # Not from the registry: nobody's logging settings may turn its debug level on.
    logger = logging.Logger("revdial.websockets", level=logging.ERROR)  # noqa: LOG001
    logger.addHandler(_OneLine())
    return logger


class _OneLine(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        error = kind.__name__ if kind else None
        structlog.get_logger().error("websocket_library_error", what=record.msg, error=error)


def address_text(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """A socket's address as people write it."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def message_limit(path: str) -> int:
    """The largest message a connection to this path may carry."""
    return max_control_message_bytes if path == control_path else max_batch_bytes


def tune(sock: socket.socket, *, user_timeout_ms: int, unsent_limit_bytes: int) -> None:
    """Short kernel queues, and an early end for a path that has died; each only where allowed."""
    options: tuple[tuple[int, int | bytes], ...] = (
        (socket.TCP_NODELAY, 1),
        (_TCP_NOTSENT_LOWAT, unsent_limit_bytes),
        (_TCP_USER_TIMEOUT, user_timeout_ms),
        (_TCP_CONGESTION, b"bbr"),
        (_TCP_RTO_MAX_MS, max_retransmission_ms),
    )
    for option, value in options:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def why_closed(websocket: TunnelWebSocket) -> str:
    """A short reason for a metric's label: what ended a connection that is closed."""
    received, sent = websocket.protocol.close_rcvd, websocket.protocol.close_sent
    if received is not None:
        return _BY_THEIR_CODE.get(received.code, "closed_by_peer")
    if sent is not None:
        return _BY_OUR_CODE.get(sent.code, "connection_lost")
    return "connection_lost"
