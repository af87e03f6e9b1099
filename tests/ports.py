"""Ports that are a test's own, for as long as it needs them.

A port that a socket on port 0 had and gave back is anybody's: the system gives it to whoever opens
the next connection. These are from below the range that it gives from, and no two tests of whatever
process have the same ones.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from moonhost.ports import is_free, shift_step
from moonhost.sample_configs import lowest_port

_places: Final = range(20_000, 32_600, shift_step)


@contextmanager
def reserved() -> Iterator[range]:
    """Have a block of ports, free on every IPv4 address, to oneself."""
    locks = Path(tempfile.gettempdir()) / f"moonhost-test-ports-{os.getuid()}"
    locks.mkdir(exist_ok=True)
    for first in _places:
        with (locks / str(first)).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            block = range(first, first + shift_step)
            if _are_free(block):
                yield block
                return
    raise AssertionError("no block of free ports is left for this test")


def shift_to(block: range) -> int:
    """Return the shift that takes `write_edge_config` to a block."""
    return block[0] - lowest_port


def _are_free(block: range) -> bool:
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    return all(is_free("0.0.0.0", port, kind) for port in block for kind in kinds)
