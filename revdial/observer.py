"""Every way a tunnel refuses or loses something, by name, so that each can be a counter.

The names are closed enumerations: whoever counts can make all counters at start, and a reason
without one is found then and not in an outage.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Protocol


class Refusal(StrEnum):
    """Why the listener turned a connection or a message away."""

    TOO_MANY_WAITING = "too_many_waiting"
    TLS_FAILED = "tls_failed"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    NOT_WEBSOCKET = "not_websocket"
    NO_TOKEN = "no_token"  # noqa: S105 - the name of a reason
    BAD_TOKEN = "bad_token"  # noqa: S105 - the name of a reason
    AUTHENTICATION_UNAVAILABLE = "authentication_unavailable"
    UNKNOWN_PATH = "unknown_path"
    DATA_ID_UNKNOWN = "data_id_unknown"
    DATA_ID_FOREIGN = "data_id_foreign"
    HELLO_TIMEOUT = "hello_timeout"
    HELLO_MISSING = "hello_missing"
    HELLO_MISMATCH = "hello_mismatch"
    VERSION_MISMATCH = "version_mismatch"
    BAD_MESSAGE = "bad_message"
    MESSAGE_TOO_LARGE = "message_too_large"
    # Of connections from trusted proxies; named as in `revdial.proxy_protocol.HeaderFault`.
    PROXY_HEADER_MISSING = "proxy_header_missing"
    PROXY_HEADER_MALFORMED = "proxy_header_malformed"
    PROXY_HEADER_UNSUPPORTED = "proxy_header_unsupported"
    PROXY_HEADER_TOO_LONG = "proxy_header_too_long"
    PROXY_HEADER_CUT_SHORT = "proxy_header_cut_short"
    PROXY_HEADER_TOO_SLOW = "proxy_header_too_slow"


class Loss(StrEnum):
    """What was dropped, or given up, on either side of a working tunnel."""

    FLOW_PARITY = "flow_parity"
    """Parity for which a slow tunnel had no time."""
    FLOW_STALE = "flow_stale"
    """Datagrams of frames that waited longer than their flow's backlog limit."""
    FLOW_OVERFULL = "flow_overfull"
    """Datagrams pushed out of a backlog by newer ones."""
    FLOW_CLOSED = "flow_closed"
    """Datagrams still waiting when their data connection went away."""
    HEARTBEAT_UNREAD = "heartbeat_unread"
    """Heartbeats replaced by a newer one before anybody read them."""
    PICKUP_TIMEOUT = "pickup_timeout"
    """Dials nobody picked up in time."""
    PICKUP_ABANDONED = "pickup_abandoned"
    """Data connections picked up for a caller who had gone."""
    LATE_ANSWER = "late_answer"
    """Replies and refusals for something nobody waits for any more."""
    SEND_TIMEOUT = "send_timeout"
    """Connections given up because the peer did not take a message in time."""
    REQUEST_REFUSED = "request_refused"
    """Dials and requests the agent turned away because it has too many at once."""


class AgentLoss(StrEnum):
    """What an agent drops beside what its tunnel does (`Loss`), in datagrams."""

    HELD = "flow_held"
    """From a host, while no data WebSocket carried its flow."""
    HOST_SOCKET_FULL = "host_socket_full"
    HOST_REFUSED = "host_refused"
    """An earlier one was answered by "port unreachable"."""
    HOST_UNREACHABLE = "host_unreachable"
    """There is no route to the host, or its path takes no datagram of that size."""


AGENT_LOSSES = (*map(str, Loss), *map(str, AgentLoss))
"""Every name under which an agent tells of losses in its heartbeats."""


class TunnelObserver(Protocol):
    """Who counts; called synchronously, and must neither block nor raise."""

    def refused(self, reason: Refusal) -> None:
        """A connection or message was turned away."""

    def lost(self, reason: Loss, count: int = 1) -> None:
        """Something was dropped."""

    def tunnel_up(self, agent_id: str) -> None:
        """An agent's hello was accepted, or this agent was welcomed."""

    def tunnel_down(self, agent_id: str, reason: str) -> None:
        """That tunnel ended."""


class Counters:
    """The observer that only counts."""

    def __init__(self) -> None:
        self.refusals: Counter[Refusal] = Counter()
        self.losses: Counter[Loss] = Counter()
        self.ups: Counter[str] = Counter()
        self.downs: Counter[str] = Counter()
        """By reason, over all agents."""

    def refused(self, reason: Refusal) -> None:
        """See `TunnelObserver`."""
        self.refusals[reason] += 1

    def lost(self, reason: Loss, count: int = 1) -> None:
        """See `TunnelObserver`."""
        self.losses[reason] += count

    def tunnel_up(self, agent_id: str) -> None:
        """See `TunnelObserver`."""
        self.ups[agent_id] += 1

    def tunnel_down(self, agent_id: str, reason: str) -> None:
        """See `TunnelObserver`."""
        self.downs[reason] += 1
