"""Which ports of a pool tell the clients of one address apart, now and for a while after.

A port by itself says nothing of who uses it: what a client sends to it is taken for that of the
client who was told it. So no port is told to another client of the same address while the last
one's messages can still come.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from moonlight.identity import ClientId


@dataclass(slots=True)
class _Use:
    client: ClientId
    free_at: float


class PortPool:
    """A pool of ports, given out per client address: the same port serves many addresses.

    Args:
        ports: the pool; the first ones are given first.
        rest_s: how long after its use a port is kept from other clients of the same address.

    """

    def __init__(self, ports: range, rest_s: float) -> None:
        self._ports = ports
        self._rest_s = rest_s
        self._uses: dict[tuple[str, int], _Use] = {}
        self._held: dict[ClientId, set[tuple[str, int]]] = {}
        self._resting: deque[tuple[float, tuple[str, int]]] = deque()

    def choose(self, address: str, client: ClientId, now: float, count: int = 1) -> tuple[int, ...]:
        """Return the first ports that no other client of that address has, or had of late.

        Raises:
            LookupError: fewer than `count` are free.

        """
        self._forget_rested(now)
        free: list[int] = []
        for port in self._ports:
            if self._is_free(address, port, client):
                free.append(port)
                if len(free) == count:
                    return tuple(free)
        raise LookupError(f"fewer than {count} of {len(self._ports)} ports are free")

    def hold(self, address: str, client: ClientId, ports: Iterable[int]) -> None:
        """Keep ports for a client until it lets them rest."""
        keys = [(address, port) for port in ports]
        self._uses.update((key, _Use(client, math.inf)) for key in keys)
        self._held.setdefault(client, set()).update(keys)

    def has(self, address: str, client: ClientId, ports: Iterable[int]) -> bool:
        """Tell whether nobody else had any of these ports since the client did."""
        uses = [self._uses.get((address, port)) for port in ports]
        return all(use is not None and use.client == client for use in uses)

    def rest(self, client: ClientId, now: float) -> None:
        """Keep what a client holds from others for the time of rest, wherever it may be by now."""
        for key in self._held.pop(client, ()):
            use = self._uses.get(key)
            if use is not None and use.client == client:
                use.free_at = now + self._rest_s
                self._resting.append((use.free_at, key))

    def rest_anew(
        self, address: str, client: ClientId, ports: Iterable[int], *, now: float
    ) -> None:
        """Keep ports that a client has had from others, unless they are another's by now."""
        free = [port for port in ports if self._is_free(address, port, client)]
        self.hold(address, client, free)
        self.rest(client, now)

    def _is_free(self, address: str, port: int, client: ClientId) -> bool:
        use = self._uses.get((address, port))
        return use is None or use.client == client

    def __len__(self) -> int:
        return len(self._uses)

    def _forget_rested(self, now: float) -> None:
        while self._resting and self._resting[0][0] <= now:
            free_at, key = self._resting.popleft()
            use = self._uses.get(key)
            # It may be held anew, or rest for longer, since it was put here.
            if use is not None and use.free_at == free_at:
                del self._uses[key]
