"""Load balancers in front of a listener: whom to believe a PROXY header, and how it is read.

A connection from one of the configured networks must begin with a header. One from anywhere else
is served as it is: a header of a stranger's is never looked for, so nobody can speak for others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, TypeAlias

import trio

from revdial.networks import plain_address
from revdial.proxy_protocol import HeaderFault, HeaderParser, HeaderRefused, Route

Network: TypeAlias = IPv4Network | IPv6Network

header_timeout_s: Final = 5.0
"""For the whole header: enough for one retransmission on the way, which the protocol asks for."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A header that was read. `route` is None where the socket's own addresses hold."""

    route: Route | None


class TrustedProxies:
    """The networks whose connections begin with a PROXY header; none by default."""

    def __init__(
        self, networks: Iterable[Network] = (), *, timeout_s: float = header_timeout_s
    ) -> None:
        self._networks = tuple(networks)
        self._timeout_s = timeout_s

    def speak_for_others(self, address: str) -> bool:
        """Tell whether connections from `address` begin with a header."""
        if not self._networks:
            return False
        try:
            parsed = ip_address(plain_address(address))
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    async def read_header(self, stream: trio.abc.ReceiveStream) -> Announced | None:
        """Read the header and not a byte more; None where the proxy left without a word.

        That is how many balancers see whether a port is open.

        Raises:
            HeaderRefused: no header came in time, or none that can be used.

        """
        parser = HeaderParser()
        try:
            with trio.fail_after(self._timeout_s):
                while not parser.finished:
                    data = await stream.receive_some(parser.wants)
                    if not data:
                        break
                    parser.receive(bytes(data))
        except trio.TooSlowError:
            raise HeaderRefused(
                HeaderFault.TOO_SLOW, f"no whole PROXY header came within {self._timeout_s:g} s"
            ) from None
        except trio.BrokenResourceError:
            pass
        parser.end()
        return Announced(parser.route) if parser.finished else None
