"""Candidates are kept in order as backends change, and that is the same as sorting them afresh."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.apps import AppOffer
from backends.candidates import Candidates, Exclusion, GpuLimits, Room, exclusion, load
from backends.geography import ClientPlace, LocatedBy, Place
from backends.model import Backend, BackendId, Health, State
from tests.backends.backends_made import DESKTOP, any_backend, backend, fleets

LIMITS = GpuLimits()


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (backend(), None),
        (backend(health=Health.DEGRADED, gpu=None), None),
        (backend(gpu=0.95, gpu_after=0.97), None),
        (backend(gpu=0.95, gpu_after=0.971), Exclusion.GPU_FULL),
        (backend(sessions=2, gpu_after=1.0), Exclusion.FULL),
        (backend(sessions=2, draining=True), Exclusion.DRAINING),
        (backend(health=Health.UNHEALTHY, draining=True), Exclusion.UNHEALTHY),
    ],
)
def test_why_a_backend_can_take_nothing(one: Backend, why: Exclusion | None) -> None:
    assert exclusion(one, LIMITS) is why
    assert Candidates([one]).exclusion(one.id) is why


@pytest.mark.parametrize(
    ("one", "state"),
    [
        (backend(), State.HEALTHY),
        (backend(health=Health.DEGRADED), State.DEGRADED),
        (backend(health=Health.DEGRADED, draining=True), State.DRAINING),
        (backend(health=Health.UNHEALTHY, draining=True), State.UNHEALTHY),
    ],
)
def test_an_operator_sees_the_most_serious_state(one: Backend, state: State) -> None:
    assert one.state is state


def test_the_least_loaded_comes_first() -> None:
    in_order = [
        backend("f", gpu=0.1),
        backend("e", gpu=0.104, sessions=1),
        backend("d", gpu=0.9, sessions=1),
        backend("b", gpu=None),
        backend("c", gpu=None),
        backend("a", gpu=0.91),
    ]
    loads = [load(each, LIMITS) for each in in_order]
    assert loads == sorted(loads)
    assert [each.room for each in loads] == [*[Room.PLENTY] * 3, *[Room.UNKNOWN] * 2, Room.CROWDED]


def test_a_region_has_a_pool_for_each_app() -> None:
    candidates = Candidates(
        [
            backend("a", sessions=2),
            backend("b", draining=True, sessions=2),
            backend("c", gpu=0.6),
            backend("d", gpu=0.5),
            backend("e", region="paris", apps=(AppOffer("Steam", 1),)),
        ]
    )
    pools = candidates.pools("desktop")
    assert pools.keys() == {"frankfurt"}
    pool = pools["frankfurt"]
    assert pool.closed == {Exclusion.FULL: 1, Exclusion.DRAINING: 1}
    first, second = pool.first(), pool.first({BackendId("d/wolf")})
    assert first is not None
    assert second is not None
    assert [candidates.at(each).agent_id for each in (first, second)] == ["d", "c"]
    assert pool.first({BackendId("c/wolf"), BackendId("d/wolf")}) is None
    assert candidates.pools("steam").keys() == {"paris"}
    assert candidates.pools("firefox") == {}


def test_backends_are_listed_by_id() -> None:
    candidates = Candidates([backend("b"), backend("a")])
    assert [each.agent_id for each in candidates] == ["a", "b"]
    assert len(candidates) == 2
    assert candidates.get(BackendId("c/wolf")) is None


def test_a_region_is_where_its_first_backend_says_that_knows() -> None:
    here, there = Place(1, 1), Place(2, 2)
    one, two, three = (
        backend("a", region="nowhere"),
        backend("b", region="nowhere", place=here),
        backend("c", region="nowhere", place=there),
    )
    candidates = Candidates([three])
    assert candidates.place("nowhere") == there
    candidates.put(two)
    candidates.put(one)
    assert candidates.place("nowhere") == here
    candidates.remove(two.id)
    assert candidates.place("nowhere") == there
    candidates.remove(three.id)
    assert candidates.place("nowhere") is None
    assert candidates.place("frankfurt") is None


def test_the_version_of_the_apps_changes_with_them_and_not_with_load() -> None:
    candidates = Candidates([backend("a")])
    before = candidates.apps_version
    candidates.put(backend("a", sessions=1, gpu=0.8))
    assert candidates.apps_version == before
    candidates.put(backend("a", apps=(DESKTOP, AppOffer("Steam", 2))))
    after = candidates.apps_version
    assert after > before
    candidates.remove(BackendId("a/wolf"))
    assert candidates.apps_version > after


def test_distances_are_kept_for_so_many_places_and_follow_the_regions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backends.candidates.max_known_places", 2)
    candidates = Candidates([backend("a"), backend("p", region="paris")])
    for longitude in (8, 2, -120):
        client = ClientPlace(LocatedBy.DATABASE, None, Place(49, longitude))
        distances = candidates.nearest_first(client)
        assert candidates.nearest_first(client) is distances
        assert next(region for _, region in distances) == (
            "frankfurt" if longitude == 8 else "paris"
        )
    assert len(candidates._nearest) == 2
    candidates.put(backend("o", region="oregon"))
    assert candidates.nearest_first(client)[0][1] == "oregon"


def contents(candidates: Candidates) -> object:
    """Everything that a decision can depend on, whatever way it came about."""
    return (
        list(candidates),
        {
            title: {
                region: (list(pool._open), {why: n for why, n in pool.closed.items() if n})
                for region, pool in regions.items()
            }
            for title, regions in candidates._pools.items()
        },
        candidates._entries,
        candidates._places,
    )


@given(st.lists(any_backend | st.sampled_from("abcdefgh"), max_size=40))
def test_changing_them_one_by_one_is_the_same_as_starting_afresh(
    changes: list[Backend | str],
) -> None:
    candidates, model = Candidates(), dict[BackendId, Backend]()
    for change in changes:
        if isinstance(change, Backend):
            candidates.put(change)
            model[change.id] = change
        elif (identifier := BackendId(f"{change}/wolf")) in model:
            candidates.remove(identifier)
            del model[identifier]
    assert contents(candidates) == contents(Candidates(model.values()))


@given(fleets)
def test_nothing_is_left_once_all_are_gone(fleet: list[Backend]) -> None:
    candidates = Candidates(fleet)
    for each in fleet:
        candidates.remove(each.id)
    assert contents(candidates) == contents(Candidates())
