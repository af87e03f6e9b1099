"""UDP sockets read and written in runs, so that the kernel is called per burst and not per packet.

Reading asks for generic receive offload: one call may return up to 64 KiB of datagrams of one
size, with that size beside it. Writing hands the kernel a run and its segment size. Where the
kernel or the route refuses segmentation, the socket falls back to one call a datagram, for good.

trio's own sockets cannot try to read without waiting; this one is a non-blocking socket of the
standard library, waited for through `trio.lowlevel`. Nothing here ever waits to send: what the
kernel does not take is dropped and counted, since for a stream late is lost.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

import trio

from revdial.framing import Buffer, Run, gather, max_datagram_bytes

Address: TypeAlias = tuple[str, int]

max_segments = 64
default_receive_bytes = 131_072
default_buffer_bytes = 2**20
receive_buffer_ms = 250
min_buffer_bytes = 2**18
"""A key frame is a burst of several hundred datagrams, however slow the stream."""
max_buffer_bytes = 2**23

_SOL_UDP = socket.IPPROTO_UDP
_UDP_SEGMENT = 103
_UDP_GRO = 104
_SEGMENT_SIZE = struct.Struct("=H")
_GRO_SIZE = struct.Struct("=i")
_READ_BYTES = 65_535
_ANCILLARY_BYTES = socket.CMSG_SPACE(_GRO_SIZE.size)
_SEGMENTATION_REFUSED = frozenset(
    {errno.EINVAL, errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT, errno.EMSGSIZE}
)


@dataclass(slots=True)
class DatagramCounters:
    """What went through one socket and what did not, in datagrams."""

    received: int = 0
    received_bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0
    send_would_block: int = 0
    """Dropped because the socket's buffer was full."""
    send_refused: int = 0
    """Dropped on an earlier "port unreachable"; the peer may be back for the next one."""
    send_too_large: int = 0
    send_failed: int = 0
    """Dropped for any other reason, as when there is no route."""
    receive_refused: int = 0
    """"Port unreachable" and its like, seen while reading."""
    segmentation_fallbacks: int = 0
    """1 once this socket has given up segmentation offload."""


class DatagramSocket:
    """A UDP socket, which it owns. Use `open`, and close it (or use it as a context manager)."""

    def __init__(self, sock: socket.socket, *, offload: bool = True) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._segments = offload
        # Whether the last read took all there was: then asking first would be in vain.
        self._drained = True
        self.counters = DatagramCounters()
        if offload:
            with suppress(OSError):
                sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)

    @classmethod
    def open(
        cls,
        local: Address | None = None,
        remote: Address | None = None,
        *,
        reuse_port: bool = False,
        receive_buffer_bytes: int = default_buffer_bytes,
        send_buffer_bytes: int = default_buffer_bytes,
    ) -> DatagramSocket:
        """A socket bound to `local` and connected to `remote` (IP addresses); raises OSError."""
        host = (local or remote or ("0.0.0.0", 0))[0]  # noqa: S104 - what "no address" means
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if local is not None:
                sock.bind(local)
            if remote is not None:
                sock.connect(remote)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    @property
    def local_address(self) -> Address:
        """Where it is bound."""
        return _address(self._socket.getsockname())

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._socket.fileno() == -1

    def expect(self, kbps: int) -> None:
        """Size the receive buffer for a stream of so much: for `receive_buffer_ms` of it.

        That is what a process may be held up without losing anything; more would only be late.
        The kernel caps what it grants, and counts its own overhead on top.
        """
        wanted = kbps * receive_buffer_ms // 8
        size = min(max(wanted, min_buffer_bytes), max_buffer_bytes)
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def connect(self, remote: Address) -> None:
        """Send to, and take from, this address only."""
        self._socket.connect(remote)

    async def receive_batch(self, max_bytes: int = default_receive_bytes) -> list[Run]:
        """Wait for datagrams, then take what is there without waiting; in order of arrival.

        Stops after `max_bytes`, which one more read may exceed. Raises
        `trio.ClosedResourceError` when it is closed meanwhile.
        """
        return _joined([run for _, run in await self.receive_from(max_bytes)])

    async def receive_from(
        self, max_bytes: int = default_receive_bytes
    ) -> list[tuple[Address, Run]]:
        """The same with the sender of each run, for a socket that is not connected."""
        if not self._drained:
            await trio.lowlevel.checkpoint()
        received: list[tuple[Address, Run]] = []
        while not received:
            if self.closed:
                raise trio.ClosedResourceError("this UDP socket is closed")
            if self._drained:
                await trio.lowlevel.wait_readable(self._socket)
            self._drained = self._drain(received, max_bytes)
        return received

    def send_runs(self, runs: Iterable[Run], to: Address | None = None) -> None:
        """Send what the kernel takes now; the rest is dropped and counted."""
        for run in runs:
            if run.segment_size == len(run.data):
                self.send(run.data, to)
                continue
            for piece in _pieces(run):
                if self._segments and len(piece) > 1:
                    self._send_segments(piece, to)
                else:
                    for datagram in piece.datagrams():
                        self.send(datagram, to)

    def send(self, datagram: Buffer, to: Address | None = None) -> bool:
        """Send one datagram; False where it was dropped (and counted)."""
        try:
            if to is None:
                self._socket.send(datagram)
            else:
                self._socket.sendto(datagram, to)
        except OSError as error:
            self._count_failure(error, 1)
            return False
        self.counters.sent += 1
        self.counters.sent_bytes += len(datagram)
        return True

    def close(self) -> None:
        """Close it; who waits for datagrams gets `trio.ClosedResourceError`."""
        if not self.closed:
            with suppress(RuntimeError):
                # Outside of trio nobody can be waiting.
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def __enter__(self) -> DatagramSocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _drain(self, received: list[tuple[Address, Run]], max_bytes: int) -> bool:
        """Take what is there, up to `max_bytes`; tells whether that was all."""
        total = 0
        while total < max_bytes:
            try:
                data, ancillary, _, sender = self._socket.recvmsg(_READ_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                return True
            except OSError as error:
                if self.closed:
                    raise trio.ClosedResourceError("this UDP socket is closed") from error
                # The kernel tells once per ICMP error about what was sent ("port unreachable",
                # "administratively prohibited", …); the next read goes on.
                self.counters.receive_refused += 1
                total += 1
                continue
            length = len(data)
            size = _segment_size(ancillary, length) if ancillary else length
            self.counters.received += 1 if size == length else -(-length // size)
            self.counters.received_bytes += length
            total += length + 1
            received.append((_address(sender), Run(size, memoryview(data))))
        return False

    def _send_segments(self, run: Run, to: Address | None) -> None:
        ancillary = [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT_SIZE.pack(run.segment_size))]
        try:
            if to is None:
                self._socket.sendmsg([run.data], ancillary)
            else:
                self._socket.sendmsg([run.data], ancillary, 0, to)
        except OSError as error:
            if error.errno not in _SEGMENTATION_REFUSED:
                self._count_failure(error, len(run))
                return
            self._segments = False
            self.counters.segmentation_fallbacks += 1
            for datagram in run.datagrams():
                self.send(datagram, to)
            return
        self.counters.sent += len(run)
        self.counters.sent_bytes += len(run.data)

    def _count_failure(self, error: OSError, datagrams: int) -> None:
        if self.closed:
            raise trio.ClosedResourceError("this UDP socket is closed") from None
        if isinstance(error, BlockingIOError) or error.errno == errno.ENOBUFS:
            self.counters.send_would_block += datagrams
        elif isinstance(error, ConnectionRefusedError):
            self.counters.send_refused += datagrams
        elif error.errno == errno.EMSGSIZE:
            self.counters.send_too_large += datagrams
        else:
            self.counters.send_failed += datagrams


def _address(sockaddr: Any) -> Address:
    # A connected socket may leave the sender out; IPv6 has four parts.
    return (sockaddr[0], sockaddr[1]) if sockaddr else ("", 0)


def _segment_size(ancillary: list[tuple[int, int, bytes]], length: int) -> int:
    for level, kind, data in ancillary:
        if level == _SOL_UDP and kind == _UDP_GRO and len(data) >= _GRO_SIZE.size:
            return min(int(_GRO_SIZE.unpack_from(data)[0]), length)
    return length


def _pieces(run: Run) -> Iterator[Run]:
    """A run in pieces that one call may take."""
    segments = min(max_segments, max(1, max_datagram_bytes // run.segment_size))
    step = segments * run.segment_size
    if len(run.data) <= step:
        yield run
        return
    for start in range(0, len(run.data), step):
        data = run.data[start : start + step]
        yield Run(min(run.segment_size, len(data)), data)


def _joined(runs: list[Run]) -> list[Run]:
    """The same datagrams in fewer runs, where single ones came one by one."""
    if len(runs) == 1:
        return runs
    joined: list[Run] = []
    singles: list[Buffer] = []
    for run in runs:
        if run.segment_size == len(run.data):
            singles.append(run.data)
        else:
            joined += gather(singles)
            singles = []
            joined.append(run)
    joined += gather(singles)
    return joined
