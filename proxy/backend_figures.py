"""What is counted of each backend and agent while the edge runs, over all of an agent's tunnels."""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from dataclasses import dataclass

from backends.model import BackendId, agent_of
from moonlight.errors import ProtocolError
from proxy.errors import EdgeError, HostIdentityChanged
from revdial.errors import DialRefused, PickupTimeout, TunnelError, refusal_behind


class ConnectionFailure(enum.StrEnum):
    """What went wrong with a connection to a host."""

    NO_AGENT = "no_agent"
    """Its agent is not connected, or its tunnel ended meanwhile."""
    REFUSED = "refused"
    """The agent could not reach the host, or would not."""
    TIMEOUT = "timeout"
    BROKEN = "broken"
    INVALID_ANSWER = "invalid_answer"
    IDENTITY_CHANGED = "identity_changed"
    """The host shows another certificate than the one it was paired with."""


def failure_of(error: EdgeError | TunnelError) -> ConnectionFailure:
    """Tell what an error means for the connection that it ended."""
    if isinstance(error, HostIdentityChanged):
        return ConnectionFailure.IDENTITY_CHANGED
    cause = error if isinstance(error, TunnelError) else error.__cause__
    if isinstance(cause, DialRefused) or (cause is not None and refusal_behind(cause)):
        return ConnectionFailure.REFUSED
    if isinstance(cause, PickupTimeout) or error.reason.endswith("timeout"):
        return ConnectionFailure.TIMEOUT
    if isinstance(cause, ProtocolError):
        return ConnectionFailure.INVALID_ANSWER
    if isinstance(cause, TunnelError) or error.reason == "agent_offline":
        return ConnectionFailure.NO_AGENT
    return ConnectionFailure.BROKEN


@dataclass(slots=True)
class AgentFigures:
    """Of one agent since the edge started."""

    connects: int = 0
    """Tunnels, the first included."""
    warm_dials: int = 0
    cold_dials: int = 0
    """Data connections of tunnels that have ended, by whether they were ready when needed."""

    @property
    def reconnects(self) -> int:
        """How often it came back."""
        return max(0, self.connects - 1)


class BackendFigures:
    """Figures by agent and backend; as many of them as there are backends."""

    def __init__(self) -> None:
        self._agents: dict[str, AgentFigures] = {}
        self._failures: defaultdict[BackendId, Counter[ConnectionFailure]] = defaultdict(Counter)

    def agent(self, agent_id: str) -> AgentFigures:
        """Return an agent's figures."""
        return self._agents.get(agent_id, AgentFigures())

    def failures(self, backend: BackendId) -> Counter[ConnectionFailure]:
        """Return the connections to a backend that failed."""
        return Counter(self._failures.get(backend, ()))

    def connected(self, agent_id: str) -> None:
        """Note that an agent's tunnel is up."""
        self._agents.setdefault(agent_id, AgentFigures()).connects += 1

    def tunnel_ended(self, agent_id: str, *, warm_dials: int, cold_dials: int) -> None:
        """Take over what an agent's tunnel has counted."""
        figures = self._agents.setdefault(agent_id, AgentFigures())
        figures.warm_dials += warm_dials
        figures.cold_dials += cold_dials

    def failed(self, backend: BackendId, failure: ConnectionFailure) -> None:
        """Count a connection to a backend that failed."""
        self._failures[backend][failure] += 1

    def forget(self, backend: BackendId, *, connected: bool) -> None:
        """Forget a backend, and its agent as well unless that is connected."""
        self._failures.pop(backend, None)
        if not connected:
            self._agents.pop(agent_of(backend), None)
