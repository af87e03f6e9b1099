from __future__ import annotations

from proxy.tallies import Histogram, Tally


def test_what_is_expected_is_there_before_it_happens() -> None:
    tally = Tally([("launch", "started"), ("launch", "failed")])
    tally.add("launch", "failed")
    assert list(tally) == [(("launch", "failed"), 1), (("launch", "started"), 0)]


def test_names_that_others_made_up_are_told_apart_up_to_a_bound() -> None:
    tally = Tally([("launch", "known")], max_others=2)
    for reason in ("a", "b", "c", "d", "a", "known"):
        tally.add("launch", reason)
    assert dict(tally) == {
        ("launch", "a"): 2,
        ("launch", "b"): 1,
        ("launch", "known"): 1,
        ("launch", "other"): 2,
    }
    assert len(tally) == 4
    assert (tally["launch", "other"], tally["launch", "never"]) == (2, 0)


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 3.0):
        histogram.observe(value)
    assert histogram.buckets() == [("0.1", 2.0), ("1.0", 3.0), ("+Inf", 4.0)]
    assert (histogram.count, histogram.sum) == (4, 3.65)
