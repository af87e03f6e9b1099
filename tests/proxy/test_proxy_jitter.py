from __future__ import annotations

import pytest

from proxy.jitter import Jitter


def test_a_steady_stream_has_none_whatever_the_clocks_show() -> None:
    jitter = Jitter()
    for number in range(100):
        jitter.note((4_294_967_000 + number * 10_000) % 2**32, 5.0 + number / 100)
    assert jitter.seconds == pytest.approx(0, abs=1e-6)


def test_it_nears_the_difference_between_batches_by_a_sixteenth_each() -> None:
    jitter = Jitter()
    jitter.note(0, 1.0)
    jitter.note(10_000, 1.026)
    assert jitter.seconds == pytest.approx(0.001)
    jitter.note(20_000, 1.036)
    assert jitter.seconds == pytest.approx(0.001 * 15 / 16)


def test_early_counts_as_late_does() -> None:
    early, late = Jitter(), Jitter()
    for jitter, offset_s in ((early, -0.016), (late, 0.016)):
        jitter.note(0, 1.0)
        jitter.note(50_000, 1.05 + offset_s)
    assert early.seconds == pytest.approx(late.seconds)


def test_another_sender_is_not_compared_with_the_one_before() -> None:
    jitter = Jitter()
    jitter.note(0, 1.0)
    jitter.restart()
    jitter.note(3_000_000_000, 1.01)
    assert jitter.seconds == pytest.approx(0, abs=1e-6)
