"""A byte stream over one data WebSocket, for HTTPS and RTSP, with trio's contract for streams.

Binary messages are the bytes, in order, cut anywhere. An empty message is the end of one
direction, since WebSocket itself knows only closing both. Back-pressure is the connection's own:
who does not read, stops the sender. The closing handshake without an empty message before it is an
end of both directions; any other close code than "normal" breaks the stream.
"""

from __future__ import annotations

from types import TracebackType

import trio
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from revdial.errors import DialRefused, TunnelClosed, TunnelError, printable, token
from revdial.framing import Buffer
from revdial.messages import CloseCode
from revdial.websocket import TunnelWebSocket

max_piece_bytes = 65_536


def cause_of(error: ConnectionClosed) -> TunnelError:
    """Why a data connection was closed, as one of this package's errors."""
    if error.rcvd is not None and error.rcvd.code == CloseCode.DIAL_FAILED:
        reason, _, message = error.rcvd.reason.partition(": ")
        return DialRefused(token(reason), printable(message))
    return TunnelClosed("data_connection_lost", "the data connection was lost")


class _Exclusive:
    """Lets one task at a time use one direction of a stream."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._busy = False

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(f"another task is already {self._what} this stream")
        self._busy = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._busy = False


class WebSocketStream(trio.abc.HalfCloseableStream):
    """Bytes over `websocket`, which this stream owns from now on."""

    def __init__(self, websocket: TunnelWebSocket) -> None:
        self._websocket = websocket
        self._closed = False
        self._eof_sent = False
        self._eof_received = False
        self._rest = memoryview(b"")
        self._sending = _Exclusive("sending on")
        self._receiving = _Exclusive("receiving from")

    @property
    def closed(self) -> trio.Event:
        """Set once the data connection is gone; that shows to whoever receives, or closes it."""
        return self._websocket.stream_closed

    async def send_all(self, data: Buffer) -> None:
        """Send all of `data`; returns when the kernel has taken it."""
        with self._sending:
            if self._closed or self._eof_sent:
                raise trio.ClosedResourceError
            if not data:
                # An empty message would be the end of this direction.
                await trio.lowlevel.checkpoint()
            view = memoryview(data)
            for start in range(0, len(view), max_piece_bytes):
                await self._send(view[start : start + max_piece_bytes])

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel would take something."""
        with self._sending:
            if self._closed or self._eof_sent:
                raise trio.ClosedResourceError
            try:
                await self._websocket.wait_writable()
            except ConnectionClosed as error:
                raise self._gone(error) from cause_of(error)

    async def send_eof(self) -> None:
        """End this direction; the other goes on."""
        with self._sending:
            if self._closed:
                raise trio.ClosedResourceError
            if self._eof_sent:
                await trio.lowlevel.checkpoint()
                return
            self._eof_sent = True
            await self._send(b"")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, at most `max_bytes`; none at the end of this direction."""
        if max_bytes is not None:
            if not isinstance(max_bytes, int):
                raise TypeError("max_bytes must be an integer or None")
            if max_bytes < 1:
                raise ValueError("max_bytes must be positive")
        with self._receiving:
            if self._closed:
                raise trio.ClosedResourceError
            if self._rest or self._eof_received:
                await trio.lowlevel.checkpoint()
            else:
                await self._receive()
            piece, self._rest = self._rest[:max_bytes], self._rest[len(self._rest[:max_bytes]) :]
            return bytes(piece)

    async def aclose(self) -> None:
        """Close both directions. What was sent before is still delivered."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        await self._websocket.close_politely()

    async def _send(self, piece: Buffer) -> None:
        # Sending yields only when the kernel takes no more.
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            await self._websocket.send(piece)
        except ConnectionClosed as error:
            raise self._gone(error) from cause_of(error)
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _receive(self) -> None:
        try:
            message = await self._websocket.recv()
        except ConnectionClosedOK as error:
            if self._closed:
                raise trio.ClosedResourceError from error
            self._eof_received = True
            return
        except ConnectionClosed as error:
            raise self._gone(error) from cause_of(error)
        if isinstance(message, str):
            await self._websocket.close_politely(
                CloseCode.PROTOCOL_ERROR, "a stream carries binary messages only"
            )
            raise trio.BrokenResourceError("the peer sent text on a stream")
        self._eof_received = not message
        self._rest = memoryview(message)

    def _gone(self, error: ConnectionClosed) -> Exception:
        if self._closed:
            return trio.ClosedResourceError()
        return trio.BrokenResourceError(str(cause_of(error)))
