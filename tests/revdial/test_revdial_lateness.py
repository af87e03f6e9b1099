"""Lateness is what a batch took longer than the fastest, whatever the sender's clock shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revdial.lateness import Lateness, max_late_s, window_s


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 90)), min_size=1, max_size=50),
)
def test_a_batch_is_as_late_as_it_took_longer_than_the_fastest(
    clock_us: int, batches: list[tuple[int, int]]
) -> None:
    lateness, sent_ms, taken = Lateness(), 0, list[int]()
    for pause_ms, took_ms in batches:
        sent_ms += pause_ms
        taken.append(took_ms)
        sent_us = (clock_us + sent_ms * 1000) % 2**32
        arrived_s = 5.0 + max(0, sent_ms + took_ms) / 1000
        late_s = lateness.note(sent_us, arrived_s)
        assert late_s == pytest.approx((took_ms - min(taken)) / 1000, abs=3e-6)


def test_a_path_that_became_slower_is_the_measure_after_a_while() -> None:
    lateness = Lateness()
    for second in range(200):
        transit_s = 0.020 if second < 50 else 0.080
        late_s = lateness.note(second * 1_000_000, second + transit_s)
        if 50 <= second < 50 + window_s - 1:
            # Less than is taken for a longer path at once.
            assert late_s == pytest.approx(0.060, abs=3e-6)
        elif second > 50 + 2 * window_s:
            assert late_s == pytest.approx(0.0, abs=3e-6)


def test_after_a_long_silence_the_first_batch_is_the_measure() -> None:
    lateness = Lateness()
    assert lateness.note(0, 0.010) == 0
    assert lateness.note(100_000_000, 100.5) == 0


def test_when_everything_is_late_that_is_soon_the_measure() -> None:
    """An agent's clock that stood still, or a detour: what comes is as fresh as can be."""
    lateness = Lateness()
    lateness.note(0, 0.0)
    late = [lateness.note(n * 20_000, n * 0.020 + 3.0) for n in range(1, 200)]
    assert late[0] == pytest.approx(3.0)
    assert sum(one > 0.2 for one in late) <= max_late_s / 0.020 + 2
    assert late[-1] == pytest.approx(0.0, abs=3e-6)


def test_a_burst_of_old_batches_after_a_stall_stays_late() -> None:
    lateness = Lateness()
    lateness.note(0, 0.0)
    late = [lateness.note(n * 20_000, 2.0 + n * 0.0005) for n in range(1, 80)]
    assert min(late) > 0.4
    assert lateness.note(2_100_000, 2.100) == pytest.approx(0.0, abs=3e-6)
