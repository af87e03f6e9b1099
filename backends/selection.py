"""Which backend takes a launch: a pure decision that says why.

What makes a backend ineligible is decided here, the same for every policy. A `Policy` then
chooses among the eligible ones; stickiness comes before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from backends.apps import display_title, normalise_title
from backends.errors import NoBackend
from backends.model import Backend, BackendId
from backends.records import StickyRecord


class Reason(StrEnum):
    """Why a backend was chosen."""

    RUNNING = "running"
    STICKY = "sticky"
    FEWEST_SESSIONS = "fewest_sessions"


class Exclusion(StrEnum):
    """Why a backend could not be chosen; the first that holds, in this order."""

    NO_SUCH_APP = "no_such_app"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    FULL = "full"


class Refusal(StrEnum):
    """Why no backend could be chosen: the `reason` of `NoBackend`."""

    NO_BACKENDS = "no_backends"
    NO_SUCH_APP = "no_such_app"
    ALL_UNHEALTHY = "all_unhealthy"
    ALL_DRAINING = "all_draining"
    ALL_FULL = "all_full"


@dataclass(frozen=True, slots=True)
class LaunchIntent:
    """Who wants to play what."""

    client: str
    app_title: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The chosen backend, and why none of the others in `considered` could be."""

    backend: Backend
    reason: str
    considered: tuple[tuple[BackendId, Exclusion], ...]


class Policy(Protocol):
    """Chooses among backends that are all eligible."""

    @property
    def reason(self) -> str:
        """What to give as the decision's reason."""

    def select(self, pool: Sequence[Backend], request: LaunchIntent) -> Backend:
        """Choose one of `pool`, which is never empty; equal inputs must give equal answers."""


@dataclass(frozen=True, slots=True)
class FewestSessions:
    """The backend with the fewest sessions; among equals, the one with the lowest id."""

    reason: str = Reason.FEWEST_SESSIONS

    def select(self, pool: Sequence[Backend], request: LaunchIntent) -> Backend:
        """Choose one of `pool`."""
        return min(pool, key=lambda backend: (backend.sessions, backend.id))


_FEWEST_SESSIONS = FewestSessions()


def select(
    intent: LaunchIntent,
    backends: Iterable[Backend],
    *,
    sticky: StickyRecord | None = None,
    running: BackendId | None = None,
    now: datetime,
    policy: Policy = _FEWEST_SESSIONS,
) -> Decision:
    """Choose a backend for `intent`, or raise `NoBackend` with a sentence for the player.

    `running` is where this client's session runs now. It wins even where that backend drains or
    is full, since the session is already counted there; the caller takes no reservation then.
    `sticky` counts until it expires, and only while its backend is eligible.
    """
    known = sorted(backends, key=lambda backend: backend.id)
    verdicts = {backend.id: _exclusion(backend, intent) for backend in known}
    considered = tuple((name, verdict) for name, verdict in verdicts.items() if verdict)
    by_id = {backend.id: backend for backend in known}
    if running is not None and verdicts.get(running, Exclusion.UNHEALTHY) in _FINE_WHEN_RUNNING:
        others = tuple(entry for entry in considered if entry[0] != running)
        return Decision(by_id[running], Reason.RUNNING, others)
    pool = [backend for backend in known if verdicts[backend.id] is None]
    if not pool:
        raise _refusal(intent, verdicts.values())
    if sticky is not None and sticky.expires_at > now:
        last = by_id.get(sticky.backend_id)
        if last in pool:
            return Decision(last, Reason.STICKY, considered)
    return Decision(policy.select(pool, intent), policy.reason, considered)


_FINE_WHEN_RUNNING = (None, Exclusion.DRAINING, Exclusion.FULL)


def _exclusion(backend: Backend, intent: LaunchIntent) -> Exclusion | None:
    wanted = normalise_title(intent.app_title)
    if all(normalise_title(app.title) != wanted for app in backend.apps):
        return Exclusion.NO_SUCH_APP
    if not backend.healthy:
        return Exclusion.UNHEALTHY
    if backend.draining:
        return Exclusion.DRAINING
    if backend.sessions >= backend.max_sessions:
        return Exclusion.FULL
    return None


# The nearest to working comes first: a full host is worth waiting for, a broken one is not.
_REFUSALS = (
    (
        Exclusion.FULL,
        Refusal.ALL_FULL,
        "Every computer that has {title} is in use right now. Please try again later.",
    ),
    (
        Exclusion.DRAINING,
        Refusal.ALL_DRAINING,
        "The computers that have {title} are going into maintenance and start nothing new.",
    ),
    (
        Exclusion.UNHEALTHY,
        Refusal.ALL_UNHEALTHY,
        "The computers that have {title} are not answering right now. Please try again later.",
    ),
    (
        Exclusion.NO_SUCH_APP,
        Refusal.NO_SUCH_APP,
        "No computer that has {title} is online right now.",
    ),
)


def _refusal(intent: LaunchIntent, verdicts: Iterable[Exclusion | None]) -> NoBackend:
    found = set(verdicts)
    title = display_title(intent.app_title)
    named = f'"{title}"' if title else "this app"
    for exclusion, refusal, sentence in _REFUSALS:
        if exclusion in found:
            return NoBackend(refusal, sentence.format(title=named))
    return NoBackend(
        Refusal.NO_BACKENDS, "No computer is online right now. Please try again later."
    )
