"""Wakes machines beside the agent: a magic packet for one that its own list names.

The edge says which neighbour, and no more: what is sent where stands in the agent's configuration.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final

import structlog
import trio

from agent.config import NeighbourConfig
from agent.errors import NeighbourError
from moonlight.wake import magic_packet

_log = structlog.get_logger()

copies: Final = 3
"""Datagrams get lost, and one that came twice does no harm."""
min_interval_s: Final = 5.0
"""One that was woken so lately is not woken again, whoever asks."""


class Neighbours:
    """The machines that this agent may wake, by name."""

    def __init__(self, neighbours: Iterable[NeighbourConfig]) -> None:
        self.apply(neighbours)
        self._woken_at: dict[str, float] = {}

    def apply(self, neighbours: Iterable[NeighbourConfig]) -> None:
        """Know these from now on, and no others."""
        self._neighbours = {neighbour.name: neighbour for neighbour in neighbours}

    async def wake(self, name: str) -> None:
        """Send a neighbour's magic packet; nothing if that has just been done.

        Raises:
            NeighbourError: it is not on the list, or nothing can be sent there.

        """
        neighbour = self._neighbours.get(name)
        if neighbour is None:
            raise NeighbourError("unknown_neighbour", "this agent has no such neighbour")
        now = trio.current_time()
        if now - self._woken_at.get(name, now - min_interval_s) < min_interval_s:
            return
        await _send(neighbour)
        self._woken_at[name] = now
        _log.info("neighbour_woken", neighbour=name, broadcast=str(neighbour.broadcast))


async def _send(neighbour: NeighbourConfig) -> None:
    packet = magic_packet(neighbour.mac_bytes)
    where = (str(neighbour.broadcast), neighbour.port)
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for _ in range(copies):
                await sender.sendto(packet, where)
        except OSError as error:
            raise NeighbourError(
                "wake_not_sent",
                f"the magic packet for {neighbour.name} cannot be sent to "
                f"{neighbour.broadcast}: {error.strerror}",
            ) from error
