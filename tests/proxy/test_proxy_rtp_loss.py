from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rtp_loss import SequenceGaps, max_gap_packets


def rtp(sequence: int, payload_type: int = 0) -> bytes:
    return bytes([0x90, payload_type]) + (sequence % 65_536).to_bytes(2, "big") + bytes(8)


def noted(sequences: Iterable[int]) -> tuple[int, int]:
    gaps = SequenceGaps()
    gaps.note(map(rtp, sequences))
    return gaps.received, gaps.missing


@pytest.mark.parametrize(
    ("sequences", "received", "missing"),
    [
        ([], 0, 0),
        ([7], 1, 0),
        ([0, 1, 2], 3, 0),
        ([0, 1, 4], 3, 2),
        ([0, 3, 6], 3, 4),
        ([0, 2, 1, 3], 4, 0),
        ([0, 3, 1], 3, 1),
        ([65_534, 65_535, 0, 1], 4, 0),
        ([65_534, 1], 2, 2),
        ([65_535, 1, 0], 3, 0),
        ([0, max_gap_packets], 2, max_gap_packets - 1),
        ([0, max_gap_packets + 1, max_gap_packets + 2], 3, 0),
        ([20_000, 5, 6, 8], 4, 1),
        ([5, 4, 3], 3, 0),
    ],
    ids=[
        "nothing",
        "a first packet loses nothing, whatever its number",
        "in order",
        "two lost",
        "lost twice",
        "swapped",
        "one of two came late",
        "wrap",
        "lost over the wrap",
        "late over the wrap",
        "the largest gap that counts as loss",
        "a larger one is a new stream",
        "a new stream from a lower number",
        "late packets that left no gap",
    ],
)
def test_missing_packets_by_their_numbers(
    sequences: list[int], received: int, missing: int
) -> None:
    assert noted(sequences) == (received, missing)


def test_a_packet_that_comes_twice_makes_up_for_no_loss() -> None:
    assert noted([0, 0, 0, 1])[1] == 0
    assert noted([0, 5, 5, 5])[1] == 4
    assert noted([0, 2, 1, 1, 1])[1] == 0


def test_what_may_still_come_late_is_bounded() -> None:
    gaps = SequenceGaps()
    gaps.note(rtp(number) for number in range(0, 300_000, 2))
    assert gaps.missing == 149_999
    assert gaps._gaps.bit_length() <= max_gap_packets


def test_a_new_stream_does_not_fill_the_gaps_of_the_former_one() -> None:
    assert noted([0, 5, 30_000, 4, 3])[1] == 4


def test_only_the_wanted_payload_type_counts_whatever_its_marker_bit() -> None:
    gaps = SequenceGaps(97)
    gaps.note([rtp(0, 97), rtp(500, 127), rtp(1, 97 | 0x80), rtp(3, 97)])
    assert (gaps.received, gaps.missing) == (3, 1)


@pytest.mark.parametrize(
    "datagram", [b"", b"PING", bytes(12), bytes([0x40]) + bytes(11), rtp(9)[:11]]
)
def test_what_is_no_rtp_is_passed_over(datagram: bytes) -> None:
    gaps = SequenceGaps()
    gaps.note([rtp(0), memoryview(datagram), rtp(1)])
    assert (gaps.received, gaps.missing) == (2, 0)


@given(
    start=st.integers(0, 65_535),
    kept=st.lists(st.booleans(), min_size=2, max_size=300),
    order=st.randoms(use_true_random=False),
)
def test_whatever_is_lost_in_a_stream_is_counted_once_even_if_pairs_are_swapped(
    start: int, kept: list[bool], order: object
) -> None:
    sent = [start + number for number in range(len(kept))]
    kept[0] = kept[-1] = True
    arrived = [number for number, keep in zip(sent, kept, strict=True) if keep]
    for at in range(1, len(arrived) - 2, 3):
        if order.random() < 0.5:  # type: ignore[attr-defined]
            arrived[at], arrived[at + 1] = arrived[at + 1], arrived[at]
    assert noted(arrived) == (len(arrived), len(sent) - len(arrived))


runs = st.lists(
    st.one_of(
        # In order from some number, as hosts send, or any numbers at all.
        st.tuples(st.integers(0, 65_535), st.integers(1, 20)).map(
            lambda run: [run[0] + n for n in range(run[1])]
        ),
        st.lists(st.integers(0, 40), min_size=1, max_size=4),
    ),
    max_size=8,
)


@given(runs, st.sampled_from([None, 0, 97]))
def test_a_run_counts_as_its_packets_one_by_one(
    runs: list[list[int]], payload_type: int | None
) -> None:
    one_by_one, at_once = SequenceGaps(payload_type), SequenceGaps(payload_type)
    for numbers in runs:
        packets = [rtp(number) for number in numbers]
        one_by_one.note(packets)
        at_once.note_run(memoryview(b"".join(packets)), len(packets[0]))
        swapped_inside = len(set(numbers)) < len(numbers) or numbers != sorted(numbers)
        if swapped_inside and numbers[-1] - numbers[0] == len(numbers) - 1:
            return  # the one case in which a look at both ends is deceived
    assert (at_once.received, at_once.missing) == (one_by_one.received, one_by_one.missing)
    assert (at_once._next, at_once._gaps) == (one_by_one._next, one_by_one._gaps)


@pytest.mark.parametrize("data", [b"", b"PING", rtp(1) + bytes(6), bytes(24)])
def test_a_run_of_other_things_is_passed_over(data: bytes) -> None:
    gaps = SequenceGaps()
    gaps.note_run(memoryview(data), min(12, len(data)))
    assert gaps.received == data.startswith(b"\x90")
