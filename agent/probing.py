"""Sends UDP probes to the edge that this agent dials, so that the edge sees which ports are open.

Whatever the edge asks, they go to the host of `edge.url` and nowhere else, a few at a time and
seldom: an edge, or who holds its place, gains no packet gun.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import trio

from revdial.errors import BadMessage, RequestFailed, printable
from revdial.messages import Json
from revdial.probes import datagrams_a_port, probe_datagram, read_request

min_interval_s: Final = 10.0
resolve_timeout_s: Final = 3.0
spacing_s: Final = 0.1
"""Between two rounds: a moment's loss takes one datagram of each port and not all three."""
max_host_characters: Final = 128

Resolve: TypeAlias = Callable[[str], Awaitable[list[tuple[Any, ...]]]]


async def _resolve(host: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    return found


class UdpProbes:
    """Answers the edge's wish for probes.

    Args:
        edge_url: what this agent dials; nothing is sent to any other host.
        resolve: tells the addresses of a host as `socket.getaddrinfo` does.

    """

    def __init__(self, edge_url: str, resolve: Resolve = _resolve) -> None:
        self._host = urlsplit(edge_url).hostname or ""
        self._resolve = resolve
        self._last_at = -min_interval_s

    async def send(self, params: dict[str, Json]) -> dict[str, Json]:
        """Send what the edge asked for, and tell where to; `RequestFailed` says why not."""
        try:
            request = read_request(params)
        except BadMessage as error:
            raise RequestFailed(error.reason, error.message) from None
        now = trio.current_time()
        if now - self._last_at < min_interval_s:
            raise RequestFailed(
                "probe_too_soon", f"this agent sends probes once in {min_interval_s:g} s"
            )
        # Longer than sending takes, so it is also one at a time.
        self._last_at = now
        sent = await self._send(probe_datagram(bytes.fromhex(request.nonce)), request.ports)
        return {"host": self._host[:max_host_characters], "sent": sent}

    async def _send(self, datagram: bytes, ports: tuple[int, ...]) -> int:
        sent = 0
        addresses = await self._addresses()
        for round_number in range(datagrams_a_port):
            if round_number:
                await trio.sleep(spacing_s)
            for family, address in addresses.items():
                with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                    sent += sum(_sent(sender, datagram, address, port) for port in ports)
        if not sent:
            raise RequestFailed(
                "nothing_sent", f"no datagram to {printable(self._host)} could be sent from here"
            )
        return sent

    async def _addresses(self) -> dict[socket.AddressFamily, tuple[Any, ...]]:
        """Give the edge's first address of each family."""
        try:
            with trio.fail_after(resolve_timeout_s):
                found = await self._resolve(self._host)
        except (OSError, UnicodeError, trio.TooSlowError):
            raise RequestFailed(
                "edge_not_resolved", f"the name {printable(self._host)} cannot be looked up here"
            ) from None
        addresses: dict[socket.AddressFamily, tuple[Any, ...]] = {}
        for family, _, _, _, address in found:
            if family in (socket.AF_INET, socket.AF_INET6):
                addresses.setdefault(family, address)
        return addresses


def _sent(sender: socket.socket, datagram: bytes, address: tuple[Any, ...], port: int) -> bool:
    """Send one; False where this machine has no way there, as without IPv6."""
    try:
        sender.sendto(datagram, (address[0], port, *address[2:]))
    except OSError:
        return False
    return True
