"""Policies choose among regions; differences that say nothing are ties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.candidates import GpuLimits, load
from backends.policies import Offer, PolicyName, policies
from tests.backends.backends_made import backend

GEO, RTT, LOAD = (policies[name] for name in PolicyName)


def offer(name: str, km: float = 100, rtt_s: float | None = 0.02, gpu: float | None = 0.5) -> Offer:
    made = backend(name, rtt_s=rtt_s, gpu=gpu)
    return Offer(made, load(made, GpuLimits()), km)


def test_every_policy_is_known_by_its_own_name() -> None:
    assert {name: policy.name for name, policy in policies.items()} == {n: n for n in PolicyName}


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([offer("b", km=160, rtt_s=0.001, gpu=0.1)], id="nearer by more than 50 km"),
        pytest.param([offer("b", km=60, rtt_s=0.03, gpu=0.1)], id="a near-tie: the quicker"),
        pytest.param([offer("b", km=60, rtt_s=0.016, gpu=0.6)], id="both ties: the less loaded"),
        pytest.param([offer("b", km=60, rtt_s=None, gpu=0.1)], id="the other's tunnel is unknown"),
        pytest.param([offer("b", km=math.inf, rtt_s=0.001)], id="the other is nobody knows where"),
        pytest.param([offer("b")], id="all the same: the lower id"),
    ],
)
def test_geo_takes_the_nearest(others: list[Offer]) -> None:
    assert GEO.select([*others, offer("a")]).backend.agent_id == "a"


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([offer("b", km=1, rtt_s=0.026, gpu=0.1)], id="quicker by more than 5 ms"),
        pytest.param([offer("b", km=200, rtt_s=0.016, gpu=0.1)], id="a near-tie: the nearer"),
        pytest.param([offer("b", km=60, rtt_s=0.016, gpu=0.6)], id="both ties: the less loaded"),
        pytest.param([offer("b", km=1, rtt_s=None)], id="the other's tunnel is unknown"),
    ],
)
def test_rtt_takes_the_quickest(others: list[Offer]) -> None:
    assert RTT.select([*others, offer("a")]).backend.agent_id == "a"


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([offer("b", km=1, rtt_s=0.001, gpu=0.52)], id="less loaded"),
        pytest.param([offer("b", km=1, rtt_s=0.001, gpu=None)], id="known before unknown"),
        pytest.param([offer("b", km=200, rtt_s=0.001, gpu=0.503)], id="as loaded: the nearer"),
        pytest.param([offer("b", km=60, rtt_s=0.03, gpu=0.5)], id="as near: the quicker"),
    ],
)
def test_load_takes_the_least_loaded(others: list[Offer]) -> None:
    assert LOAD.select([*others, offer("a")]).backend.agent_id == "a"


def test_while_nobody_knows_any_distance_the_tunnel_decides() -> None:
    offers = [offer("a", km=math.inf, rtt_s=0.03), offer("b", km=math.inf, rtt_s=0.01)]
    assert GEO.select(offers).backend.agent_id == "b"


offers = st.lists(
    st.builds(
        offer,
        st.sampled_from("abcdefgh"),
        st.sampled_from([0.0, 49, 51, 99, 101, 5_000, math.inf]),
        st.sampled_from([None, 0.0, 0.004, 0.006, 0.009, 0.011]),
        st.sampled_from([None, 0.5, 0.504, 0.6, 0.95]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each.backend.id,
)


@given(offers.flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))))
def test_the_order_of_regions_changes_nothing(orders: tuple[list[Offer], list[Offer]]) -> None:
    one, two = orders
    for policy in policies.values():
        assert policy.select(one) == policy.select(two)
