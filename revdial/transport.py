"""A TCP connection, with TLS or without, that is read and written without waiting.

`trio.SSLStream` costs a relay more than its cryptography does: locks, a retry loop and two or three
tasks' worth of bookkeeping a call. Here reading and writing are plain calls on a non-blocking
socket; only who finds nothing to read, or no room to write, waits. What the kernel did not take
stays in order in a buffer of our own, so a writer that is cancelled while it waits tears nothing.
"""

from __future__ import annotations

import socket as socket_module
import ssl
from contextlib import suppress
from socket import IPPROTO_TCP, SHUT_WR
from socket import socket as Socket  # noqa: N812 - `socket` is a property here
from typing import Final

import trio

from revdial.framing import Buffer

read_bytes: Final = 65_536
_record_bytes: Final = 16_384
_TCP_CONGESTION: Final = getattr(socket_module, "TCP_CONGESTION", 13)
_bbr: Final = b"bbr"
_reno: Final = b"reno"
_would_block: Final = BlockingIOError


class Transport:
    """A connected socket, which it owns. Errors of the connection are `trio.BrokenResourceError`.

    One task may receive, and any number may send.
    """

    def __init__(self, sock: Socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._unsent: memoryview = memoryview(b"")
        self._behind: list[bytes] = []
        self._behind_bytes = 0
        # Whether the last read left the kernel's buffer empty, as far as its length tells.
        self._drained = True
        self._ended = False
        self._flushing = trio.Lock()

    @classmethod
    def of(cls, stream: trio.SocketStream) -> Transport:
        """Take the socket out of a stream, which is of no use afterwards."""
        sock = stream.socket
        family, kind, proto = sock.family, sock.type, sock.proto
        return cls(Socket(family, kind, proto, fileno=sock.detach()))

    @property
    def socket(self) -> Socket:
        """The socket, for its options and addresses."""
        return self._socket

    @property
    def closed(self) -> bool:
        """Whether it was closed on this side."""
        return self._socket.fileno() == -1

    @property
    def unsent_bytes(self) -> int:
        """How much of what was sent the kernel has not taken."""
        return len(self._unsent) + self._behind_bytes

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        """Shake hands; the cause of a failure is OpenSSL's error."""
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._write_tls()
                data = await self._read_raw()
                if not data:
                    raise trio.BrokenResourceError("the peer left during the handshake") from None
                self._incoming.write(data)
            except ssl.SSLError as error:
                with suppress(trio.BrokenResourceError):
                    # The alert tells the peer why.
                    self._queue(self._outgoing.read())
                raise trio.BrokenResourceError("the TLS handshake failed") from error
            else:
                await self._write_tls()
                return

    async def receive_some(self) -> bytes:
        """Bytes, as soon as there are some; none at the end of the connection."""
        if self._drained and not self._incoming.pending and not self._ended:
            # Asking first would only say so, at the price of a call.
            await trio.lowlevel.wait_readable(self._open_socket())
        else:
            await trio.lowlevel.checkpoint()
        while True:
            data = self.receive_nowait()
            if data is not None:
                return data
            await trio.lowlevel.wait_readable(self._open_socket())

    def receive_nowait(self) -> bytes | None:
        """Bytes that are there now; none at the end of the connection, None where there are none.

        Up to `read_bytes` are read from the kernel at a time.
        """
        if self._tls is None:
            return self._read_raw_nowait()
        plain = self._decrypt(self._tls)
        while not plain:
            if self._ended:
                return b""
            data = self._read_raw_nowait()
            if not data:
                return data
            self._incoming.write(data)
            plain = self._decrypt(self._tls)
            if self._drained and not plain and not self._ended:
                # The rest of a record is on its way.
                return None
        return plain

    def send_nowait(self, data: Buffer) -> None:
        """Write what the kernel takes now; the rest waits here for `flush`, in order."""
        if self._tls is not None:
            try:
                view = memoryview(data)
                while view:
                    view = view[self._tls.write(view) :]
            except ssl.SSLError as error:
                raise trio.BrokenResourceError("TLS takes no more") from error
            data = self._outgoing.read()
        self._queue(data)

    async def flush(self) -> None:
        """Wait until the kernel has taken everything; no checkpoint where it has."""
        while self.unsent_bytes:
            async with self._flushing:
                while self.unsent_bytes:
                    await trio.lowlevel.wait_writable(self._open_socket())
                    self._write_unsent()

    async def wait_writable(self) -> None:
        """Wait until the kernel would take something, and has taken all that was sent before."""
        async with self._flushing:
            await trio.lowlevel.wait_writable(self._open_socket())
            self._write_unsent()
        await self.flush()

    def restart_bbr(self) -> None:
        """Let BBR begin anew where it is in use, so that it does not stop to measure the path.

        Every 10 s without a round trip as short as the shortest, as under steady video, BBR sends
        next to nothing for 200 ms and a round trip (PROBE_RTT). Chosen anew, it starts from the
        congestion window that there is, and its 10 s begin again.
        """
        with suppress(OSError):
            if self._socket.getsockopt(IPPROTO_TCP, _TCP_CONGESTION, 16).startswith(_bbr):
                self._socket.setsockopt(IPPROTO_TCP, _TCP_CONGESTION, _reno)
                self._socket.setsockopt(IPPROTO_TCP, _TCP_CONGESTION, _bbr)

    def end_writing(self) -> None:
        """Let the peer know that nothing more comes."""
        with suppress(OSError):
            self._open_socket().shutdown(SHUT_WR)

    def close(self) -> None:
        """Close at once; who waits on it gets `trio.ClosedResourceError`."""
        if not self.closed:
            with suppress(RuntimeError):
                # Outside of trio nobody can be waiting.
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _open_socket(self) -> Socket:
        if self.closed:
            raise trio.ClosedResourceError("this connection is closed")
        return self._socket

    def _queue(self, data: Buffer) -> None:
        if self.unsent_bytes:
            self._behind.append(bytes(data))
            self._behind_bytes += len(data)
        else:
            self._unsent = memoryview(data)
        # Also what waited: whoever left it may not come back.
        self._write_unsent()

    def _write_unsent(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._open_socket().send(self._unsent) :]
                if not self._unsent and self._behind:
                    self._unsent = memoryview(b"".join(self._behind))
                    self._behind.clear()
                    self._behind_bytes = 0
        except _would_block:
            return
        except OSError as error:
            raise trio.BrokenResourceError("the connection broke") from error

    def _decrypt(self, tls: ssl.SSLObject) -> bytes:
        """Return what whole records hold of what was read; nothing where none is whole."""
        pieces: list[bytes] = []
        while self._incoming.pending or tls.pending():
            try:
                piece = tls.read(_record_bytes)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                raise trio.BrokenResourceError("the peer broke TLS") from error
            if not piece:
                self._ended = True
                break
            pieces.append(piece)
        if self._outgoing.pending:
            # What TLS has to say of its own accord, as new keys.
            self._queue(self._outgoing.read())
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _write_tls(self) -> None:
        if self._outgoing.pending:
            self._queue(self._outgoing.read())
        await self.flush()

    async def _read_raw(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._open_socket())
            data = self._read_raw_nowait()
            if data is not None:
                return data

    def _read_raw_nowait(self) -> bytes | None:
        try:
            data: bytes = self._open_socket().recv(read_bytes)
        except _would_block:
            self._drained = True
            return None
        except OSError as error:
            raise trio.BrokenResourceError("the connection broke") from error
        self._drained = len(data) < read_bytes
        return data
