"""A UDP socket that is read with trio and written without ever waiting.

What the kernel does not take at once is lost and counted: media that waits is late.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final, TypeAlias

import trio

Address: TypeAlias = tuple[str, int]

_BUFFER_BYTES: Final = 4 * 1024 * 1024
_MAX_DATAGRAM_BYTES: Final = 2048


class UdpPort:
    """One bound socket. Raises OSError where the address is taken."""

    def __init__(self, address: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            self._socket.bind((address, port))
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise
        self._reader = trio.socket.from_stdlib_socket(self._socket)
        self.port: int = self._socket.getsockname()[1]
        self.sent = 0
        self.dropped = 0

    async def receive(self) -> tuple[bytes, Address]:
        """The next datagram and where it came from; longer ones than any peer sends are cut."""
        data, address = await self._reader.recvfrom(_MAX_DATAGRAM_BYTES)
        return data, address

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
        self._reader.close()
