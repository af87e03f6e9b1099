"""One direction of an emulated link loses, delays, queues and reorders as asked, and counts it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.link_model import (
    Blackout,
    LinkConfig,
    LinkCounts,
    LinkDirection,
    RateStep,
    ns_per_ms,
    ns_per_s,
)

packets = st.lists(
    st.tuples(st.integers(0, 20 * ns_per_ms), st.integers(20, 1500)), min_size=1, max_size=80
)
"""Of each: nanoseconds since the one before, and bytes."""

probabilities = st.sampled_from([0.0, 0.1, 1.0])
configs = st.builds(
    LinkConfig,
    delay_ms=st.floats(0, 50),
    jitter_ms=st.floats(0, 20),
    jitter_hold_ms=st.sampled_from([0.0, 10.0]),
    loss=probabilities,
    reorder=probabilities,
    reorder_ms=st.floats(0, 20),
    rate_mbps=st.none() | st.floats(0.1, 100),
    queue_ms=st.floats(0, 50),
    blackouts=st.lists(
        st.builds(Blackout, st.floats(0, 0.5), st.floats(0.001, 0.2)), max_size=2
    ).map(tuple),
    rate_steps=st.lists(
        st.builds(RateStep, st.floats(0, 0.5), st.floats(0.1, 100)),
        max_size=3,
        unique_by=lambda step: step.at_s,
    ).map(lambda steps: tuple(sorted(steps, key=lambda step: step.at_s))),
    seed=st.integers(0, 3),
)


def send_all(
    link: LinkDirection, plan: Sequence[tuple[int, int]]
) -> list[tuple[int, int, int | None]]:
    """Send what is planned; of each packet: when, how many bytes, and when it arrived."""
    now_ns = 1_000_000_007
    told = []
    link.start_clock(now_ns)
    for gap_ns, size_bytes in plan:
        now_ns += gap_ns
        told.append((now_ns, size_bytes, link.send(now_ns, size_bytes)))
    return told


@settings(max_examples=300)
@given(configs, packets)
def test_every_packet_arrives_once_and_no_sooner_than_asked_or_is_counted_as_lost(
    config: LinkConfig, plan: list[tuple[int, int]]
) -> None:
    link = LinkDirection(config)
    told = send_all(link, plan)
    arrived = [(sent, size, at) for sent, size, at in told if at is not None]
    counts = link.counts
    assert counts.delivered == len(arrived)
    assert counts.delivered_bytes == sum(size for _, size, _ in arrived)
    lost = counts.lost_random + counts.lost_queue + counts.lost_blackout
    assert counts.delivered + lost == len(plan)
    assert counts.largest_packet_bytes == max(size for _, size in plan)
    assert counts.max_queue_ms <= config.queue_ms + 1e-6
    head_start_ms = config.reorder_ms if config.reorder else 0
    for sent, _, at in arrived:
        assert at >= sent
        assert at >= sent + (config.delay_ms - head_start_ms) * ns_per_ms - 1


@given(configs, packets)
def test_the_same_seed_and_packets_give_the_same_link(
    config: LinkConfig, plan: list[tuple[int, int]]
) -> None:
    assert send_all(LinkDirection(config), plan) == send_all(LinkDirection(config), plan)


@settings(max_examples=300)
@given(configs.filter(lambda config: config.reorder == 0), packets)
def test_order_is_kept_whatever_jitter_and_rate_do(
    config: LinkConfig, plan: list[tuple[int, int]]
) -> None:
    arrivals = [at for *_, at in send_all(LinkDirection(config), plan) if at is not None]
    assert arrivals == sorted(arrivals)


@settings(max_examples=300)
@given(configs.filter(lambda config: config.rate_mbps is not None), packets)
def test_no_more_leaves_the_bottleneck_than_its_rates_allow(
    config: LinkConfig, plan: list[tuple[int, int]]
) -> None:
    still = LinkConfig(
        rate_mbps=config.rate_mbps, rate_steps=config.rate_steps, queue_ms=config.queue_ms
    )
    told = send_all(LinkDirection(still), plan)
    begin_ns = told[0][0] - plan[0][0]
    arrived = [(size, at) for _, size, at in told if at is not None]
    passed_bits = 0
    for size, at in arrived:
        passed_bits += size * 8
        assert passed_bits <= capacity_bits(still, (at - begin_ns + len(arrived)) / ns_per_s) + 1


def capacity_bits(config: LinkConfig, until_s: float) -> float:
    """Add up the rates from the clock's start on, without the code under test."""
    assert config.rate_mbps is not None
    starts = [0.0, *(step.at_s for step in config.rate_steps), until_s]
    rates = [config.rate_mbps, *(step.mbps for step in config.rate_steps)]
    return sum(
        max(0.0, min(end, until_s) - begin) * rate * 1e6
        for begin, end, rate in zip(starts, starts[1:], rates, strict=False)
    )


def test_a_packet_takes_delay_and_its_time_on_the_wire() -> None:
    link = LinkDirection(LinkConfig(delay_ms=20, rate_mbps=12))
    assert link.send(0, 1500) == 21 * ns_per_ms
    assert link.send(0, 1500) == 22 * ns_per_ms
    assert link.send(ns_per_s, 1500) == ns_per_s + 21 * ns_per_ms
    assert link.counts.max_queue_ms == 1


def test_without_a_rate_nothing_waits() -> None:
    link = LinkDirection(LinkConfig(delay_ms=1, queue_ms=0))
    assert [link.send(5, 1500) for _ in range(3)] == [5 + ns_per_ms] * 3
    assert link.counts.lost_queue == 0


def test_the_queue_is_bounded_in_time_and_drops_what_comes_last() -> None:
    link = LinkDirection(LinkConfig(rate_mbps=12, queue_ms=3))
    arrivals = [link.send(0, 1500) for _ in range(6)]
    assert arrivals == [ns_per_ms, 2 * ns_per_ms, 3 * ns_per_ms, 4 * ns_per_ms, None, None]
    assert link.counts == LinkCounts(
        delivered=4,
        lost_queue=2,
        delivered_bytes=6000,
        max_queue_ms=3,
        largest_packet_bytes=1500,
    )


def test_what_crosses_a_rate_step_goes_at_both_rates() -> None:
    link = LinkDirection(LinkConfig(rate_mbps=12, rate_steps=(RateStep(1.0, 1.2),)))
    link.start_clock(0)
    before_step_ns = ns_per_s - ns_per_ms // 2
    assert link.send(before_step_ns, 1500) == ns_per_s + 5 * ns_per_ms
    assert link.send(2 * ns_per_s, 1500) == 2 * ns_per_s + 10 * ns_per_ms


def test_the_queue_is_measured_at_the_rate_of_now() -> None:
    link = LinkDirection(LinkConfig(rate_mbps=12, queue_ms=5, rate_steps=(RateStep(0.002, 1.2),)))
    link.start_clock(0)
    # Five packets are 5 ms at 12 Mbit/s, though the last of them leaves much later.
    assert all(link.send(0, 1500) for _ in range(6))
    assert link.send(0, 1500) is None
    # After the step what remains of them is 40 ms.
    assert link.send(3 * ns_per_ms, 1500) is None
    assert link.send(39 * ns_per_ms, 1500) is not None


def test_rates_change_only_once_the_clock_runs() -> None:
    link = LinkDirection(LinkConfig(rate_mbps=12, rate_steps=(RateStep(0, 1.2),)))
    assert link.send(ns_per_s, 1500) == ns_per_s + ns_per_ms
    link.start_clock(2 * ns_per_s)
    assert link.send(2 * ns_per_s, 1500) == 2 * ns_per_s + 10 * ns_per_ms
    with pytest.raises(RuntimeError, match="once"):
        link.start_clock(3 * ns_per_s)


def test_a_blackout_loses_what_enters_while_it_lasts() -> None:
    link = LinkDirection(LinkConfig(delay_ms=5, blackouts=(Blackout(1.0, 0.5),)))
    assert link.send(ns_per_s, 100) is not None, "the clock does not run yet"
    link.start_clock(10 * ns_per_s)
    entered_s = [10.999, 11.0, 11.499, 11.5]
    arrivals = [link.send(round(at_s * ns_per_s), 100) for at_s in entered_s]
    assert [at is None for at in arrivals] == [False, True, True, False]
    assert link.counts.lost_blackout == 2


def test_what_is_lost_at_random_has_used_the_bottleneck() -> None:
    link = LinkDirection(LinkConfig(rate_mbps=12, loss=1.0, queue_ms=1))
    assert [link.send(0, 1500) for _ in range(3)] == [None] * 3
    assert (link.counts.lost_random, link.counts.lost_queue) == (2, 1)


def test_random_loss_is_as_frequent_as_asked() -> None:
    link = LinkDirection(LinkConfig(loss=0.01))
    for now_ns in range(100_000):
        link.send(now_ns, 100)
    assert 0.008 < link.counts.lost_random / 100_000 < 0.012


def test_jitter_spreads_arrivals_over_all_that_was_asked() -> None:
    link = LinkDirection(LinkConfig(delay_ms=50, jitter_ms=20))
    took_ms = []
    for now_ns in range(0, 20 * ns_per_s, ns_per_ms):
        arrival_ns = link.send(now_ns, 1000)
        assert arrival_ns is not None
        took_ms.append((arrival_ns - now_ns) / ns_per_ms)
    assert 50 <= min(took_ms) < 51
    assert 69 < max(took_ms) <= 70
    assert 59 < sum(took_ms) / len(took_ms) < 63


def test_an_overtaking_packet_arrives_before_those_sent_shortly_before() -> None:
    link = LinkDirection(LinkConfig(delay_ms=20, reorder=0.05, reorder_ms=5))
    arrivals = []
    for now_ns in range(0, 1000 * ns_per_ms, ns_per_ms):
        arrival_ns = link.send(now_ns, 1000)
        assert arrival_ns is not None
        arrivals.append(arrival_ns)
    early = sum(later < earlier for earlier, later in pairwise(arrivals))
    assert 20 < early <= link.counts.overtook < 90
    link = LinkDirection(LinkConfig(delay_ms=2, reorder=1.0, reorder_ms=5))
    assert link.send(7, 1000) == 7, "not before it was sent"


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay_ms": -1},
        {"queue_ms": float("inf")},
        {"jitter_ms": float("nan")},
        {"loss": 1.1},
        {"reorder": -0.1},
        {"rate_mbps": 0},
        {"rate_steps": (RateStep(2, 1), RateStep(1, 1))},
    ],
)
def test_a_link_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LinkConfig(**wrong)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(Blackout, (-1, 1)), (Blackout, (0, 0)), (RateStep, (-1, 5)), (RateStep, (0, 0))],
)
def test_a_schedule_that_makes_no_sense_is_refused(
    kind: type[Blackout | RateStep], arguments: tuple[float, float]
) -> None:
    with pytest.raises(ValueError, match=r"than 0|or later"):
        kind(*arguments)
