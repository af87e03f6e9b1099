"""A source address of its own for everybody a host shall tell apart.

Hosts match RTSP, pings and pairing attempts by the address they come from. On Linux all of
127.0.0.0/8 can be bound, so towards a host on loopback every origin (a session, a pairing) gets
an address out of 127.64.0.0/10: the same at each time, also after a restart of the agent, as long
as no other origin holds it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from revdial.errors import DialRefused

NETWORK = IPv4Network("127.64.0.0/10")


@dataclass(slots=True)
class _Entry:
    address: str
    leases: int = 0


class SourceAddresses:
    """Which origin has which address; never two origins the same one.

    At most `max_origins` are remembered. Those without a lease are forgotten first, the longest
    unused before all others.
    """

    def __init__(self, *, max_origins: int = 4_096) -> None:
        self._max_origins = max_origins
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._taken: set[str] = set()

    @contextmanager
    def lease(self, origin: str) -> Iterator[str]:
        """Hold the origin's address; `DialRefused` while all that can be remembered are held."""
        entry = self._entries.get(origin) or self._enter(origin)
        self._entries.move_to_end(origin)
        entry.leases += 1
        try:
            yield entry.address
        finally:
            entry.leases -= 1

    def __len__(self) -> int:
        return len(self._entries)

    def _enter(self, origin: str) -> _Entry:
        if len(self._entries) >= self._max_origins:
            self._forget_one()
        entry = _Entry(self._free_address(origin))
        self._entries[origin] = entry
        self._taken.add(entry.address)
        return entry

    def _forget_one(self) -> None:
        for origin, entry in self._entries.items():
            if not entry.leases:
                del self._entries[origin]
                self._taken.discard(entry.address)
                return
        raise DialRefused(
            "too_many_origins", f"more than {self._max_origins} sessions and pairings at once"
        )

    def _free_address(self, origin: str) -> str:
        position = first_choice(origin)
        # The network has far more addresses than origins are remembered, so this ends soon.
        while (address := _address(position)) in self._taken:
            position += 1
        return address


def first_choice(origin: str) -> int:
    """Give the position in the network where an origin's address is looked for first."""
    digest = hashlib.sha256(origin.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") % NETWORK.num_addresses


def _address(position: int) -> str:
    return str(IPv4Address(int(NETWORK.network_address) + position % NETWORK.num_addresses))
