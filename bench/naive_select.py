"""The selection that everybody writes first, as a baseline: every launch looks at every backend.

It says in the plainest way what `backends.selection.select` has to answer, refusals apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from backends.apps import normalise_title
from backends.geography import Place
from backends.model import Backend, BackendId, Health
from backends.policies import PolicyName
from backends.records import StickyRecord
from backends.selection import LaunchIntent

Measure = Callable[[Backend], float]


def select(
    intent: LaunchIntent,
    backends: Collection[Backend],
    *,
    sticky: StickyRecord | None = None,
    running: BackendId | None = None,
    now: datetime,
    policy: PolicyName = PolicyName.GEO,
) -> Backend | None:
    """Return the backend for a launch, or None."""
    title = normalise_title(intent.app_title)
    for backend in backends:
        if backend.id == running and backend.id not in intent.tried and _goes_on(backend, title):
            return backend
    eligible = [backend for backend in backends if is_eligible(backend, title, intent)]
    for backend in eligible:
        if sticky is not None and sticky.expires_at > now and sticky.backend_id == backend.id:
            return backend
    if not eligible:
        return None
    roomy = [backend for backend in eligible if (backend.gpu_memory_share or 0.0) <= 0.90]
    firsts: dict[str, Backend] = {}
    for backend in roomy or eligible:
        first = firsts.get(backend.region)
        if first is None or load(backend) < load(first):
            firsts[backend.region] = backend
    return _by(policy, intent, list(firsts.values()), _places(backends))


def is_eligible(backend: Backend, title: str, intent: LaunchIntent) -> bool:
    """Tell whether a backend can take a launch; `title` is normalised."""
    return (
        title in backend.apps.titles
        and (intent.regions is None or backend.region in intent.regions)
        and backend.id not in intent.tried
        and backend.health is not Health.UNHEALTHY
        and not backend.draining
        and backend.sessions < backend.max_sessions
        and (backend.gpu_memory_share_after is None or backend.gpu_memory_share_after <= 0.97)
    )


def load(backend: Backend) -> tuple[int, int, int, str]:
    """Return what is less where a backend is less loaded."""
    share = backend.gpu_memory_share
    room = 1 if share is None else 2 if share > 0.90 else 0
    return room, round(100 * (share or 0.0)), backend.sessions, backend.id


def _goes_on(backend: Backend, title: str) -> bool:
    return backend.health is not Health.UNHEALTHY and title in backend.apps.titles


def _places(backends: Collection[Backend]) -> Mapping[str, Place]:
    known: dict[str, tuple[str, Place]] = {}
    for backend in backends:
        if backend.place is not None and backend.id <= known.get(backend.region, ("~",))[0]:
            known[backend.region] = (backend.id, backend.place)
    return {region: place for region, (_, place) in known.items()}


def _by(
    policy: PolicyName, intent: LaunchIntent, firsts: list[Backend], places: Mapping[str, Place]
) -> Backend:
    def far(backend: Backend) -> float:
        return intent.place.distance_km(backend.region, places.get(backend.region))

    def slow(backend: Backend) -> float:
        return math.inf if backend.rtt_s is None else backend.rtt_s

    if policy is PolicyName.LOAD:
        least = min(load(backend)[:3] for backend in firsts)
        firsts = [backend for backend in firsts if load(backend)[:3] == least]
    if policy is PolicyName.RTT:
        ties = _ties(_ties(firsts, slow, 0.005), far, 50.0)
    else:
        ties = _ties(_ties(firsts, far, 50.0), slow, 0.005)
    return min(ties, key=load)


def _ties(backends: list[Backend], measure: Measure, tie: float) -> list[Backend]:
    best = min(map(measure, backends))
    return [backend for backend in backends if measure(backend) <= best + tie]
