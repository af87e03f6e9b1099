"""Finds room for a block of ports that belong together."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final

shift_step: Final = 200
max_shift: Final = 16_000


class NoRoom(Exception):
    """No shift makes the whole block free."""


def find_shift(address: str, tcp: Iterable[int], udp: Iterable[int], *, start: int = 0) -> int:
    """Return the smallest shift, from `start` up, at which every port is free on `address`.

    Raises:
        NoRoom: there is none.

    """
    wanted = [*((socket.SOCK_STREAM, port) for port in tcp)]
    wanted += [(socket.SOCK_DGRAM, port) for port in udp]
    for shift in range(start, max_shift + 1, shift_step):
        if all(is_free(address, port + shift, kind) for kind, port in wanted):
            return shift
    raise NoRoom(f"no block of {len(wanted)} free ports was found on {address}")


def is_free(address: str, port: int, kind: socket.SocketKind) -> bool:
    """Tell whether a server could have a port now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            # As the servers do: what lingers from earlier connections is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            if kind == socket.SOCK_STREAM:
                probe.listen(1)
        except OSError:
            return False
    return True
