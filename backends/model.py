"""What a backend is: the values that the registry keeps and that selection reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

from backends.apps import AppOffers
from backends.errors import InvalidOffer
from backends.geography import Place

BackendId = NewType("BackendId", str)
"""``<agent id>/<host name>``; neither part holds a slash, so no two pairs share an id."""

name_pattern: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
name_rule: Final = "1 to 64 letters, digits, dots, dashes or underscores"
"""`name_pattern` for people."""
_NAME = re.compile(name_pattern)


def is_valid_name(name: str) -> bool:
    """Tell whether `name` fits `name_pattern`, as those of agents, hosts, users and tokens do."""
    return _NAME.fullmatch(name) is not None


def backend_id(agent_id: str, host: str) -> BackendId:
    """Name the backend that `agent_id` offers as `host`; `InvalidOffer` if either is no name."""
    for name, what in ((agent_id, "agent id"), (host, "host name")):
        if not is_valid_name(name):
            raise InvalidOffer("bad_name", f"The {what} is not {name_rule}.")
    return BackendId(f"{agent_id}/{host}")


def agent_of(target: str) -> str:
    """Return the agent that a backend id names; an agent id stands for itself."""
    return target.partition("/")[0]


class Health(StrEnum):
    """How a backend is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It can be reached, but its telemetry is stale: takes launches after those that are known."""
    UNHEALTHY = "unhealthy"
    """A port of the host does not answer, or its agent is not connected."""


class State(StrEnum):
    """A backend in one word, the most serious first: what operators see."""

    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    DEGRADED = "degraded"
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class Backend:
    """One host as the edge sees it, through its agent, at one moment.

    `sessions` counts reservations as well. What is not known, or stale, is None.
    """

    id: BackendId
    agent_id: str
    host: str
    kind: str
    region: str
    place: Place | None
    """Of its region, as configured; else what its agent says."""
    apps: AppOffers
    sessions: int
    max_sessions: int
    health: Health = Health.HEALTHY
    trouble: str | None = None
    """Why it is not healthy: ``tunnel_down``, ``telemetry_stale`` or the service that is down."""
    draining: bool = False
    gpu_memory_share: float | None = None
    """0-1, of its fullest GPU; sessions that may still grow are counted by what they may need."""
    gpu_memory_share_after: float | None = None
    """The same once it has taken one session more."""
    rtt_s: float | None = None
    """Round trip through the tunnel to its agent."""

    @property
    def state(self) -> State:
        """The backend in one word."""
        if self.health is Health.UNHEALTHY:
            return State.UNHEALTHY
        if self.draining:
            return State.DRAINING
        return State.HEALTHY if self.health is Health.HEALTHY else State.DEGRADED
