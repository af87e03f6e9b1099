"""The bounds of a tunnel's two ends, by name and in one place.

A ping goes out every `ping_interval_s`, and a peer of which nothing at all has come for
`ping_timeout_s` has missed two. A dead path with data on it ends earlier, by TCP_USER_TIMEOUT.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """What both ends share."""

    handshake_timeout_s: float = 10.0
    """TCP (agent), TLS, the upgrade and the check of the token, together."""
    hello_timeout_s: float = 10.0
    ping_interval_s: float = 18.0
    ping_timeout_s: float = 36.0
    tcp_user_timeout_ms: int = 6_000
    """How long the peer's kernel may acknowledge nothing, or have no room, before it is dead."""
    stream_user_timeout_ms: int = 30_000
    """The same for byte streams, where a slow reader stops the sender and that is no fault."""
    tcp_unsent_limit_bytes: int = 16_384


@dataclass(frozen=True, slots=True)
class ListenerLimits(TransportLimits):
    """What the edge allows."""

    pickup_timeout_s: float = 10.0
    heartbeat_interval_s: float = 10.0
    max_waiting: int = 512
    """Connections that have not been authenticated, or have not said hello."""
    max_waiting_per_address: int = 64
    """Of one address. Where an agent is connected, as many more as it may have data connections,
    and strangers elsewhere cannot take those places."""
    max_data_connections: int = 256
    """Of one agent, open or being opened."""
    max_requests: int = 64
    """Of one agent, unanswered."""
    spare_connections: int = 4
    """Data connections kept ready at an agent that is in use."""
    spare_linger_s: float = 300.0
    """How long after the last dial they are kept."""
    software: str = "moonhost"


@dataclass(frozen=True, slots=True)
class DialerLimits(TransportLimits):
    """What the agent allows."""

    max_data_connections: int = 256
    max_requests: int = 64
