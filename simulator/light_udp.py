"""A client's UDP socket towards one port, read without waiting: many datagrams with one call.

A client that runs a hundred times in one process must not be woken for every datagram. What has
arrived is taken all at once, and the kernel is asked to hand over runs of equal size as one piece
(UDP_GRO) where it has them so.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from dataclasses import replace
from typing import Final

import trio

from simulator.light_http import Target

_BUFFER_BYTES: Final = 4 * 1024 * 1024
_MAX_READ_BYTES: Final = 65_535
_MAX_READS: Final = 256
"""At one go, so that one session's flood does not stop the others."""
_UDP_GRO: Final = 104
_SEGMENT_SIZE: Final = struct.Struct("=i")
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_SEGMENT_SIZE.size)
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")


class LightSocket:
    """One connected socket. Raises OSError where it cannot be made."""

    def __init__(self, target: Target, port: int = 0) -> None:
        self._target = target
        self._port = port
        self._socket = _connected(target, port)
        self._dropped_before = 0
        self._buffer = bytearray(_MAX_READ_BYTES)
        self._view = memoryview(self._buffer)

    def send(self, datagram: bytes) -> None:
        """Send what the kernel takes now; the protocols above repeat what matters."""
        with suppress(OSError):
            self._socket.send(datagram)

    def move(self, source: str | None) -> None:
        """Go on from another port, and from address `source` if one is given.

        So a client looks whose NAT binds it anew, or who has changed networks: what is still on
        its way to the old port is lost. Raises OSError, and goes on as before then.
        """
        former, target = self._socket, replace(self._target, source=source or self._target.source)
        self._socket = _connected(target, self._port)
        self._target = target
        self._dropped_before += _dropped(former)
        trio.lowlevel.notify_closing(former)
        former.close()

    async def readable(self) -> None:
        """Wait until something has arrived; raises `trio.ClosedResourceError` when closed."""
        while True:
            waited_for = self._socket
            try:
                await trio.lowlevel.wait_readable(waited_for)
            except trio.ClosedResourceError:
                if waited_for is self._socket:
                    raise
            else:
                return

    def drain(self) -> list[bytes]:
        """Take what has arrived, in order; nothing where nothing has."""
        datagrams: list[bytes] = []
        receive, view = self._socket.recvmsg_into, self._view
        for _ in range(_MAX_READS):
            try:
                length, ancillary, _, _ = receive([view], _ANCILLARY_BYTES)
            except OSError:  # nothing more, or a port that was closed at the other end
                break
            size = _segment_size(ancillary) or length
            if size >= length:
                datagrams.append(bytes(view[:length]))
            else:
                datagrams += [
                    bytes(view[at : min(at + size, length)]) for at in range(0, length, size)
                ]
        return datagrams

    def dropped(self) -> int:
        """How many datagrams the kernel had no room for here: this client was too slow."""
        return self._dropped_before + _dropped(self._socket)

    def close(self) -> None:
        """Close the socket; whoever waits in `readable` is told."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


def _connected(target: Target, port: int) -> socket.socket:
    made = socket.socket(target.family, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        if target.source is not None:
            made.bind((target.source, 0))
        made.connect((target.address, port))
        with suppress(OSError):
            made.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
    except OSError:
        made.close()
        raise
    return made


def _dropped(counted: socket.socket) -> int:
    try:
        figures = counted.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return 0
    drops: int = _MEMINFO.unpack(figures)[-1]
    return drops


def _segment_size(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
            size: int = _SEGMENT_SIZE.unpack_from(data)[0]
            return size
    return 0
