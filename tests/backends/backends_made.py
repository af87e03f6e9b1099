"""Backends as tests need them: healthy and empty unless said otherwise, named by their agent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from backends.apps import AppOffer, AppOffers
from backends.geography import Place
from backends.model import Backend, BackendId, Health
from backends.records import StickyRecord

NOW = datetime(2026, 11, 23, tzinfo=UTC)
EXPIRES = NOW + timedelta(days=1)
DESKTOP = AppOffer("Desktop", 1)
PLACES = {
    "frankfurt": Place(50.11, 8.68),
    # 27 km away: a tie.
    "mainz": Place(50.0, 8.27),
    "paris": Place(48.86, 2.35),
    "oregon": Place(45.6, -121.2),
    "nowhere": None,
}


def backend(
    name: str = "a",
    *,
    region: str = "frankfurt",
    place: Place | None = None,
    apps: tuple[AppOffer, ...] = (DESKTOP,),
    sessions: int = 0,
    max_sessions: int = 2,
    health: Health = Health.HEALTHY,
    draining: bool = False,
    gpu: float | None = 0.5,
    gpu_after: float | None = None,
    rtt_s: float | None = None,
) -> Backend:
    if gpu_after is None and gpu is not None:
        gpu_after = min(1.0, gpu + 0.02)
    return Backend(
        id=BackendId(f"{name}/wolf"),
        agent_id=name,
        host="wolf",
        kind="wolf",
        region=region,
        place=place or PLACES.get(region),
        apps=AppOffers(apps),
        sessions=sessions,
        max_sessions=max_sessions,
        health=health,
        draining=draining,
        gpu_memory_share=gpu,
        gpu_memory_share_after=gpu_after,
        rtt_s=rtt_s,
    )


def sticky_at(name: str, expires_at: datetime = EXPIRES) -> StickyRecord:
    return StickyRecord("client", BackendId(f"{name}/wolf"), expires_at)


names = st.sampled_from("abcdefgh")
any_backend = st.builds(
    backend,
    names,
    region=st.sampled_from(sorted(PLACES)),
    # Agents of a region that is not configured may disagree about where it is.
    place=st.sampled_from([None, None, None, Place(50.5, 8.0), Place(10, 10)]),
    apps=st.sampled_from(
        [(DESKTOP,), (AppOffer("DESKTOP ", 3), AppOffer("Steam", 2)), (AppOffer("Steam", 2),), ()]
    ),
    sessions=st.integers(0, 2),
    max_sessions=st.integers(1, 3),
    health=st.sampled_from([Health.HEALTHY, *Health]),
    draining=st.sampled_from([False, False, True]),
    gpu=st.sampled_from([None, 0.1, 0.104, 0.5, 0.899, 0.91, 0.96]),
    rtt_s=st.sampled_from([None, 0.004, 0.01, 0.014, 0.08]),
)
fleets = st.lists(any_backend, max_size=8, unique_by=lambda each: each.id)
