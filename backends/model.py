"""What a backend is: the values that the registry keeps and that selection reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from backends.errors import InvalidOffer

BackendId = NewType("BackendId", str)
"""``<agent id>/<host name>``; neither part holds a slash, so no two pairs share an id."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_valid_name(name: str) -> bool:
    """Tell whether `name` can name an agent or a host: 1-64 letters, digits and ``._-``."""
    return _NAME.fullmatch(name) is not None


def backend_id(agent_id: str, host: str) -> BackendId:
    """Name the backend that `agent_id` offers as `host`; `InvalidOffer` if either is no name."""
    for name, what in ((agent_id, "agent id"), (host, "host name")):
        if not is_valid_name(name):
            raise InvalidOffer(
                "bad_name", f"The {what} is not 1-64 letters, digits, dots or dashes."
            )
    return BackendId(f"{agent_id}/{host}")


@dataclass(frozen=True, slots=True)
class AppOffer:
    """An app of one host; `id` is the host's own number for it."""

    title: str
    id: int
    hdr: bool = False


@dataclass(frozen=True, slots=True)
class Backend:
    """One host as the edge sees it, through its agent, at one moment.

    `sessions` counts reservations as well. `gpu_memory_share` (0-1) and `rtt_s` (to the agent)
    are None while unknown or stale.
    """

    id: BackendId
    agent_id: str
    host: str
    kind: str
    region: str
    latitude: float | None
    longitude: float | None
    apps: tuple[AppOffer, ...]
    sessions: int
    max_sessions: int
    healthy: bool
    draining: bool
    gpu_memory_share: float | None = None
    rtt_s: float | None = None
