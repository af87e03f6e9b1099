"""Why the edge did not carry a datagram on, or a connection: every reason that is its own.

Others are those of `proxy.flow_table.NoFlow`, `proxy.roaming.Refusal`, `proxy.following.Stray`,
`proxy.translation.UplinkDrop` and, after ``late_``, of `revdial.backlog.Drop`.
"""

from __future__ import annotations

import enum
from itertools import chain
from typing import Final

from proxy.flow_table import NoFlow
from proxy.following import Stray
from proxy.roaming import Refusal
from proxy.translation import UplinkDrop
from revdial.backlog import Drop


class PortDrop(enum.StrEnum):
    """Why a datagram at a port that clients share was dropped."""

    NOT_A_PING = "not_a_ping"
    REBINDING_TOO_OFTEN = "rebinding_too_often"
    NO_MAGIC_PACKET = "no_magic_packet_of_ours"
    UNKNOWN_PROBE = "unknown_probe"
    """It looks like a probe of an agent's, and none was asked for it."""


class FlowDrop(enum.StrEnum):
    """Why a datagram of a flow was dropped."""

    STRAY = "stray"
    """It came to the flow's socket before that was connected, and is somebody else's."""
    CANNOT_BIND = "cannot_bind"
    """The kernel gave no socket towards the client."""
    TUNNEL_BROKE = "tunnel_broke"
    """The data WebSocket ended; what was on its way is not known, so each break counts one."""
    WAITING_TOO_LONG = "client_ahead_of_tunnel"
    """It came before the flow's tunnel was open, and newer ones needed its place."""
    NOT_BOUND = "client_not_bound"
    """The client has not shown yet where it is."""
    SOCKET_FULL = "client_socket_full"
    CLIENT_REFUSED = "client_refused"
    """An earlier one was answered by "port unreachable"."""
    UNREACHABLE = "client_unreachable"
    """There is no route to the client, or its path takes no datagram of that size."""


class DoorRefusal(enum.StrEnum):
    """Why a TCP connection of a client was turned away, beside the faults of a proxy's header."""

    NO_DESCRIPTORS = "no_descriptors"
    TOO_MANY = "too_many_connections"
    TOO_MANY_FROM_ADDRESS = "too_many_from_address"


def late(drop: Drop) -> str:
    """Name what was dropped because it came too late through the tunnel."""
    return f"late_{drop}"


PORT_REASONS: Final = tuple(map(str, chain(PortDrop, NoFlow, Refusal, Stray)))
"""What a datagram without a flow can be lost for."""
FLOW_REASONS: Final = tuple(map(str, chain(FlowDrop, UplinkDrop, map(late, Drop))))
"""What a datagram of a flow can be lost for at the edge."""
