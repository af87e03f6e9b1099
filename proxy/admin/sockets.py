"""The admin port's sockets: a caller that stops reading is given up, so that nothing waits for it.

Hypercorn lets nobody interrupt what it sends: an edge that is told to stop would wait for as long
as somebody keeps a connection open and reads nothing. So the kernel gives such connections up.
"""

from __future__ import annotations

import socket
from typing import Final

from hypercorn.config import Config, Sockets

max_unread_s: Final = 10.0


class ImpatientConfig(Config):
    """Settings for hypercorn whose connections break once nothing gets through for a while.

    Args:
        patience_s: for how long a caller may leave unread, or unacknowledged, what is sent to it.

    """

    def __init__(self, patience_s: float = max_unread_s) -> None:
        super().__init__()
        self._patience_ms = round(patience_s * 1000)

    def create_sockets(self) -> Sockets:
        """Return the sockets, whose connections inherit the patience."""
        made = super().create_sockets()
        for listener in (*made.secure_sockets, *made.insecure_sockets):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._patience_ms)
        return made
