"""Which backend takes a launch: a pure decision that says why.

In this order: where the client's session runs already, where it played last, and what the policy
makes of the regions that have room.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from backends.apps import display_title, normalise_title
from backends.candidates import Candidates, Exclusion, Pool, Room
from backends.errors import NoBackend
from backends.geography import ClientPlace
from backends.model import Backend, BackendId
from backends.policies import ByDistance, Offer, Policy, PolicyName, tie_km
from backends.records import StickyRecord


class Reason(StrEnum):
    """Why a backend was chosen."""

    RUNNING = "running"
    """The client's session runs there."""
    STICKY = "sticky"
    """The client played there last."""
    NEAREST = "nearest"
    """Policy ``geo``: no region that has the app is nearer."""
    SPILLED = "spilled"
    """Policy ``geo``: the nearest region that has room; nearer ones have none."""
    QUICKEST = "quickest"
    """Policy ``rtt``."""
    LEAST_LOADED = "least_loaded"
    """Policy ``load``."""


class Refusal(StrEnum):
    """Why no backend could be chosen: the `reason` of `NoBackend`."""

    NO_BACKENDS = "no_backends"
    NO_SUCH_APP = "no_such_app"
    NOT_ALLOWED = "not_allowed"
    ALL_TRIED = "all_tried"
    ALL_UNHEALTHY = "all_unhealthy"
    ALL_DRAINING = "all_draining"
    ALL_FULL = "all_full"


@dataclass(frozen=True, slots=True)
class LaunchIntent:
    """Who wants to play what, from where."""

    client: str
    app_title: str
    place: ClientPlace = field(default_factory=ClientPlace)
    regions: frozenset[str] | None = None
    """The regions that the user may use; None for all."""
    tried: frozenset[BackendId] = frozenset()
    """Backends that have failed to start this launch."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The chosen backend, and why this one."""

    backend: Backend
    reason: Reason
    place: ClientPlace
    distance_km: float
    """From client to backend; infinite if one of the places is not known."""
    passed_over: tuple[str, ...] = ()
    """Regions that are nearer and have the app, but no room for this launch; the nearest first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What there is to say about one backend and one launch."""

    backend: Backend
    distance_km: float
    excluded: Exclusion | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a launch would get now, and how every backend fares."""

    outcome: Decision | NoBackend
    verdicts: tuple[Verdict, ...]
    """Those that can take it first, the nearest first."""


_BY_DISTANCE: Final = ByDistance()
_REASONS: Final = {
    PolicyName.GEO: Reason.NEAREST,
    PolicyName.RTT: Reason.QUICKEST,
    PolicyName.LOAD: Reason.LEAST_LOADED,
}
_FINE_WHEN_RUNNING: Final = (None, Exclusion.DRAINING, Exclusion.FULL, Exclusion.GPU_FULL)


def select(
    intent: LaunchIntent,
    candidates: Candidates,
    *,
    sticky: StickyRecord | None = None,
    running: BackendId | None = None,
    now: datetime,
    policy: Policy = _BY_DISTANCE,
) -> Decision:
    """Choose a backend for `intent`, or raise `NoBackend` with a sentence for the player.

    `running` is where this client's session runs now. It wins even where that backend drains or
    is full, since the session is already counted there; the caller takes no reservation then.
    Where it has just failed to go on (`LaunchIntent.tried`), it does not win.
    `sticky` counts until it expires, and only while its backend can take the launch.
    """
    title = normalise_title(intent.app_title)
    if running is not None and running not in intent.tried:
        backend = candidates.get(running)
        if backend is not None and _has_it_running(backend, title, candidates):
            return _at(backend, Reason.RUNNING, intent, candidates)
    if sticky is not None and sticky.expires_at > now:
        backend = candidates.get(sticky.backend_id)
        if backend is not None and _verdict(backend, title, intent, candidates) is None:
            return _at(backend, Reason.STICKY, intent, candidates)
    pools = _allowed(intent, candidates.pools(title))
    offers, closed = _survey(intent, pools, candidates, policy)
    if not offers:
        raise _refusal(intent, candidates.pools(title), candidates)
    roomy = [offer for offer in offers if offer.load.room is not Room.CROWDED]
    chosen = policy.select(roomy or offers)
    passed_over = _passed_over(chosen, offers, closed)
    spilled = bool(passed_over) and policy.name is PolicyName.GEO
    return Decision(
        chosen.backend,
        Reason.SPILLED if spilled else _REASONS[policy.name],
        intent.place,
        chosen.distance_km,
        passed_over,
    )


def explain(
    intent: LaunchIntent,
    candidates: Candidates,
    *,
    sticky: StickyRecord | None = None,
    running: BackendId | None = None,
    now: datetime,
    policy: Policy = _BY_DISTANCE,
) -> Explanation:
    """Tell what `select` would say to the same arguments, and how every backend fares."""
    outcome: Decision | NoBackend
    try:
        outcome = select(intent, candidates, sticky=sticky, running=running, now=now, policy=policy)
    except NoBackend as error:
        outcome = error
    title = normalise_title(intent.app_title)
    verdicts = [
        Verdict(
            backend,
            _distance_km(backend, intent, candidates),
            _verdict(backend, title, intent, candidates),
        )
        for backend in candidates
    ]
    verdicts.sort(key=lambda verdict: (verdict.excluded is not None, verdict.distance_km))
    return Explanation(outcome, tuple(verdicts))


def _at(backend: Backend, reason: Reason, intent: LaunchIntent, candidates: Candidates) -> Decision:
    return Decision(backend, reason, intent.place, _distance_km(backend, intent, candidates))


def _distance_km(backend: Backend, intent: LaunchIntent, candidates: Candidates) -> float:
    return intent.place.distance_km(backend.region, candidates.place(backend.region))


def _has_it_running(backend: Backend, title: str, candidates: Candidates) -> bool:
    verdict = candidates.exclusion(backend.id)
    return verdict in _FINE_WHEN_RUNNING and backend.apps.get(title) is not None


def _verdict(
    backend: Backend, title: str, intent: LaunchIntent, candidates: Candidates
) -> Exclusion | None:
    if backend.apps.get(title) is None:
        return Exclusion.NO_SUCH_APP
    if intent.regions is not None and backend.region not in intent.regions:
        return Exclusion.REGION_NOT_ALLOWED
    if backend.id in intent.tried:
        return Exclusion.TRIED
    return candidates.exclusion(backend.id)


def _allowed(intent: LaunchIntent, pools: Mapping[str, Pool]) -> Mapping[str, Pool]:
    if intent.regions is None:
        return pools
    return {region: pool for region, pool in pools.items() if region in intent.regions}


def _survey(
    intent: LaunchIntent,
    pools: Mapping[str, Pool],
    candidates: Candidates,
    policy: Policy,
) -> tuple[list[Offer], list[tuple[float, str]]]:
    """Give what each region offers, as far as the policy can choose it, and who offers nothing.

    Both the nearest first.
    """
    offers, closed = [], []
    farthest_km = math.inf
    nearest_counts = policy.name is PolicyName.GEO
    for distance_km, region in candidates.nearest_first(intent.place):
        if distance_km > farthest_km:
            break
        pool = pools.get(region)
        if pool is None:
            continue
        load = pool.first(intent.tried)
        if load is None:
            closed.append((distance_km, region))
            continue
        offers.append(Offer(candidates.at(load), load, distance_km))
        if nearest_counts and load.room is not Room.CROWDED:
            farthest_km = min(farthest_km, distance_km + tie_km)
    return offers, closed


def _passed_over(
    chosen: Offer, offers: Iterable[Offer], closed: Iterable[tuple[float, str]]
) -> tuple[str, ...]:
    """Tell which regions are nearer than the chosen one and have no room, the nearest first."""
    without_room = [*closed]
    if chosen.load.room is not Room.CROWDED:
        without_room += [
            (offer.distance_km, offer.backend.region)
            for offer in offers
            if offer.load.room is Room.CROWDED
        ]
    near_km = chosen.distance_km - tie_km
    return tuple(region for distance_km, region in sorted(without_room) if distance_km < near_km)


# The nearest to working comes first: a full host is worth waiting for, a broken one is not.
_REFUSALS: Final = (
    (
        (Exclusion.FULL, Exclusion.GPU_FULL),
        Refusal.ALL_FULL,
        "Every computer that has {title} is in use right now. Please try again later.",
    ),
    (
        (Exclusion.DRAINING,),
        Refusal.ALL_DRAINING,
        "The computers that have {title} are going into maintenance and start nothing new.",
    ),
    (
        (Exclusion.TRIED,),
        Refusal.ALL_TRIED,
        "No computer could start {title} right now. Please try again later.",
    ),
    (
        (Exclusion.UNHEALTHY,),
        Refusal.ALL_UNHEALTHY,
        "The computers that have {title} are not answering right now. Please try again later.",
    ),
    (
        (Exclusion.REGION_NOT_ALLOWED,),
        Refusal.NOT_ALLOWED,
        "No computer that you may use has {title}.",
    ),
)


def _refusal(intent: LaunchIntent, pools: Mapping[str, Pool], candidates: Candidates) -> NoBackend:
    if not len(candidates):
        return NoBackend(
            Refusal.NO_BACKENDS, "No computer is online right now. Please try again later."
        )
    title = display_title(intent.app_title)
    named = f'"{title}"' if title else "this app"
    found = Counter({Exclusion.TRIED: len(intent.tried), Exclusion.REGION_NOT_ALLOWED: len(pools)})
    for pool in _allowed(intent, pools).values():
        found += pool.closed
    for exclusions, refusal, sentence in _REFUSALS:
        if any(found[exclusion] for exclusion in exclusions):
            return NoBackend(refusal, sentence.format(title=named))
    return NoBackend(Refusal.NO_SUCH_APP, f"No computer that has {named} is online right now.")
