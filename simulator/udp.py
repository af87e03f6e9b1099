"""A UDP socket that is read with trio and written without ever waiting.

What the kernel does not take at once is lost and counted: media that waits is late.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import trio

Address: TypeAlias = tuple[str, int]

_BUFFER_BYTES: Final = 4 * 1024 * 1024
_MAX_DATAGRAM_BYTES: Final = 2048
_MAX_DATAGRAMS_AT_ONCE: Final = 64


class UdpPort:
    """One bound socket. Raises OSError where the address is taken."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            self._socket.bind((address, port))
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self.sent = 0
        self.dropped = 0

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for datagrams, and take those that are there and where each came from.

        All at once: a host that is busy with its streams would else fall behind one by one. Longer
        ones than any peer sends are cut. Raises `trio.ClosedResourceError` when closed.
        """
        received: list[tuple[bytes, Address]] = []
        while not received:
            if self._socket.fileno() == -1:
                raise trio.ClosedResourceError("this UDP port is closed")
            await trio.lowlevel.wait_readable(self._socket)
            received = list(self._drain())
        return received

    def _drain(self) -> Iterator[tuple[bytes, Address]]:
        for _ in range(_MAX_DATAGRAMS_AT_ONCE):
            try:
                yield self._socket.recvfrom(_MAX_DATAGRAM_BYTES)
            except OSError:  # nothing more, or news of a peer that is gone
                return

    def send(self, datagrams: Iterable[bytes], address: Address) -> None:
        """Send what the kernel takes; count what it does not."""
        send = self._socket.sendto
        for datagram in datagrams:
            try:
                send(datagram, address)
                self.sent += 1
            except OSError:  # a full buffer, or a network that is not there
                self.dropped += 1

    def close(self) -> None:
        """Close the socket; whoever waits in `receive` gets trio.ClosedResourceError."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
