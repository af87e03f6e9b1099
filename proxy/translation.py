"""What a client proves to the edge, turned into what the host wants to see, datagram by datagram.

Towards clients every flow has a secret of the edge's own, so that flows of many hosts share a
port and no host's secret leaves its tunnel: 16 characters in each ping of video and audio, 32
bits in the ENet CONNECT of control (``protocol.md`` §5 and §6). All other datagrams of the
control flow pass unchanged.
"""

from __future__ import annotations

import enum
import hmac
from dataclasses import dataclass, field
from typing import Final, Protocol

from moonlight.enet import connect_data, rewrite_connect_data
from moonlight.ping import build_ping, parse_ping

no_connect_data: Final = 0
"""What the CONNECT of a client says that was given no data, or does not know of it."""


class UplinkDrop(enum.StrEnum):
    """Why a datagram from a client did not go on to its host."""

    NOT_A_PING = "not_a_ping"
    WRONG_PAYLOAD = "wrong_payload"
    WRONG_CONNECT_DATA = "wrong_connect_data"
    EMPTY = "empty"


class Translation(Protocol):
    """What one flow does to each datagram from its client."""

    def to_host(self, datagram: bytes) -> bytes | UplinkDrop:
        """Return the datagram that the host gets, or why it gets none."""


@dataclass(frozen=True, slots=True)
class PingTranslation:
    """Video and audio: clients send nothing but pings there."""

    edge_payload: str = field(repr=False)
    host_payload: str | None = field(repr=False)
    """None: the host is of the kind that knows only the four bytes ``PING``."""
    without_payload: bool = False
    """The flow has a port of its own, so that pings of old clients, without payload, are its."""

    def to_host(self, datagram: bytes) -> bytes | UplinkDrop:
        """Return the ping with the host's payload, its counter kept."""
        ping = parse_ping(datagram)
        if ping is None:
            return UplinkDrop.NOT_A_PING
        if ping.payload is None:
            if not self.without_payload:
                return UplinkDrop.WRONG_PAYLOAD
        elif not hmac.compare_digest(ping.payload.encode(), self.edge_payload.encode()):
            return UplinkDrop.WRONG_PAYLOAD
        return build_ping(self.host_payload, ping.counter)


@dataclass(frozen=True, slots=True)
class ConnectTranslation:
    """Control: ENet, of which only the data of CONNECT is the edge's business."""

    edge_data: int = field(repr=False)
    host_data: int | None = field(repr=False)
    """None: the host gave none and ignores what it gets."""
    without_data: bool = False
    """The flow has a port of its own, so that an old client's CONNECT, without data, is its."""

    def to_host(self, datagram: bytes) -> bytes | UplinkDrop:
        """Return the datagram, with the host's connect data if it is a CONNECT."""
        if not datagram:
            return UplinkDrop.EMPTY
        data = connect_data(datagram)
        if data is None:
            return datagram
        if data != self.edge_data and not (self.without_data and data == no_connect_data):
            return UplinkDrop.WRONG_CONNECT_DATA
        return rewrite_connect_data(datagram, self.host_data or 0)
