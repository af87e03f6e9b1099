"""The UDP ports that all clients share, and the connected sockets that take single clients over.

Datagrams of strangers arrive at a `UdpPort`. Once one has proven whose it is, a second socket is
bound to the same address and port and connected to the client: from then on the kernel hands
that client's datagrams to it and everybody else's to the port, and sending needs no address.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from revdial.udp import default_buffer_bytes

max_datagram_bytes: Final = 65_535
max_datagrams_a_turn: Final = 64
# More than a socket's receive buffer holds.
max_stray_datagrams: Final = 8_192
_ancillary_bytes: Final = 128
_in_pktinfo: Final = struct.Struct("=I4s4s")
_in6_pktinfo: Final = struct.Struct("=16sI")
# fe80::/10
_link_local: Final = {bytes([0xFE, second]) for second in range(0x80, 0xC0)}
_ip_pktinfo: Final = getattr(socket, "IP_PKTINFO", 8)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address and a UDP port, as text and number.

    `scope` is the index of the interface that a link-local address is meant on, 0 for all others:
    without it there is no answering, and it means nothing to anybody but this machine.
    """

    ip: str
    port: int
    scope: int = 0

    @classmethod
    def of(cls, address: tuple[Any, ...]) -> Endpoint:
        """Read what the kernel says of a socket."""
        return cls(address[0], address[1], *address[3:4])

    @classmethod
    def from_stored(cls, stored: tuple[str, int]) -> Endpoint:
        """Read what `stored` wrote."""
        ip, _, scope = stored[0].partition("%")
        return cls(ip, stored[1], int(scope or 0))

    @property
    def stored(self) -> tuple[str, int]:
        """Address and port, the scope behind the address where it has one."""
        return (f"{self.ip}%{self.scope}" if self.scope else self.ip), self.port

    @property
    def family(self) -> socket.AddressFamily:
        """IPv4 or IPv6."""
        return socket.AF_INET6 if ":" in self.ip else socket.AF_INET

    @property
    def address(self) -> tuple[Any, ...]:
        """Return it as the kernel takes it."""
        if self.family == socket.AF_INET:
            return self.ip, self.port
        return self.ip, self.port, 0, self.scope

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One datagram at a shared port: from where, and to which of our addresses."""

    datagram: bytes = field(repr=False)
    client: Endpoint
    local: Endpoint


class UdpPort:
    """One shared port: reads what comes from clients that have no socket of their own yet."""

    def __init__(self, address: str, port: int) -> None:
        # By the resolver, which knows the interface of "fe80::1%eth0".
        ((family, _, _, _, where), *_) = socket.getaddrinfo(
            address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )
        self._socket = _shared_socket(family)
        try:
            if family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                self._socket.setsockopt(socket.IPPROTO_IP, _ip_pktinfo, 1)
            self._socket.bind(where)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    async def run(self, on_arrival: Callable[[Arrival], None]) -> None:
        """Hand every datagram to `on_arrival`, until cancelled; then close."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                for arrival in self._drain():
                    on_arrival(arrival)
                await trio.lowlevel.checkpoint()
        finally:
            self.close()

    def close(self) -> None:
        """Close the port; nobody may be reading it any more."""
        self._socket.close()

    def _drain(self) -> Iterator[Arrival]:
        for _ in range(max_datagrams_a_turn):
            try:
                datagram, ancillary, _flags, source = self._socket.recvmsg(
                    max_datagram_bytes, _ancillary_bytes
                )
            except OSError:  # nothing left, or an ICMP error about a datagram long gone
                return
            yield Arrival(
                datagram,
                Endpoint.of(source),
                self._destination(ancillary),
            )

    def _destination(self, ancillary: list[tuple[int, int, bytes]]) -> Endpoint:
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_IP and kind == _ip_pktinfo:
                packed = _in_pktinfo.unpack(data[:12])[2]
                return Endpoint(socket.inet_ntop(socket.AF_INET, packed), self.port)
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                packed, interface = _in6_pktinfo.unpack(data[:20])
                scope = interface if packed[:2] in _link_local else 0
                return Endpoint(socket.inet_ntop(socket.AF_INET6, packed), self.port, scope)
        return Endpoint.of(self._socket.getsockname())


def connect_socket(
    local: Endpoint, client: Endpoint, on_stray: Callable[[Arrival], None]
) -> socket.socket:
    """Return a non-blocking socket on a shared port that takes over one client.

    Between its bind and its connect the kernel may hand it datagrams of others: those go to
    `on_stray`; what the client itself sent in between is delivered there too.
    """
    taken = _shared_socket(client.family)
    try:
        taken.bind(local.address)
        taken.connect(client.address)
        # All of them, and no more can come: what stayed would pass for the client's own.
        for _ in range(max_stray_datagrams):
            try:
                datagram, source = taken.recvfrom(max_datagram_bytes)
            except BlockingIOError:
                break
            on_stray(Arrival(datagram, Endpoint.of(source), local))
    except OSError:
        taken.close()
        raise
    return taken


def _shared_socket(family: Any) -> socket.socket:
    shared = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # A key frame is a burst of several hundred datagrams; the kernel caps what it grants.
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, default_buffer_bytes)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, default_buffer_bytes)
    return shared
