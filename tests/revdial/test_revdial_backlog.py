"""A backlog sends what is fresh, whole and in order; what it drops, it drops by rule and counts."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revdial.backlog import (
    Backlog,
    BacklogLimits,
    Drop,
    limits_of,
    max_message_bytes,
    overhead_bytes,
)
from revdial.framing import Buffer, Run, encode_runs, gather

SHARD = struct.Struct(">I?I")
"""Frame, parity, number in the stream."""
VIDEO = limits_of("video")


def shard(frame: int, *, parity: bool = False, number: int = 0, size: int = 100) -> bytes:
    return SHARD.pack(frame, parity, number).ljust(size, b"\0")


def classify(datagram: Buffer) -> tuple[int | None, bool]:
    frame, parity, _ = SHARD.unpack_from(datagram)
    return frame or None, parity


def frame_of(index: int, data: int = 4, parity: int = 2, size: int = 100) -> list[Run]:
    shards = [shard(index, number=n, size=size) for n in range(data)]
    shards += [shard(index, parity=True, number=data + n, size=size) for n in range(parity)]
    return list(gather(shards))


def popped(backlog: Backlog, now_s: float) -> list[tuple[int, bool]]:
    """Frame and parity of each datagram that goes next."""
    return [
        SHARD.unpack_from(datagram)[:2]
        for run in backlog.pop(now_s)
        for datagram in run.datagrams()
    ]


def everything(backlog: Backlog, now_s: float) -> list[tuple[int, bool]]:
    sent = []
    while some := popped(backlog, now_s):
        sent += some
    return sent


DATA, PARITY = False, True


def test_what_is_fresh_goes_as_it_came() -> None:
    backlog = Backlog(VIDEO, classify)
    first, second = frame_of(1), frame_of(2)
    backlog.push(first, 1.000)
    backlog.push(second, 1.016)
    assert backlog.pop(1.020) == first + second
    assert backlog.pop(1.020) == []
    assert not backlog.dropped
    assert (backlog.size_bytes, backlog.datagrams, backlog.age_s(9.0)) == (0, 0, 0.0)


def test_parity_goes_first_of_every_frame_that_waits() -> None:
    backlog = Backlog(VIDEO, classify)
    backlog.push(frame_of(1), 1.000)
    backlog.push(frame_of(2), 1.016)
    assert everything(backlog, 1.030) == [(1, DATA)] * 4 + [(2, DATA)] * 4
    assert backlog.dropped == {Drop.PARITY: 4}
    assert backlog.dropped_frames == 0


def test_then_whole_frames_that_are_stale_and_the_rest_at_once() -> None:
    backlog = Backlog(VIDEO, classify)
    for index, at in enumerate((1.000, 1.016, 1.033, 1.050), 1):
        backlog.push(frame_of(index), at)
    assert backlog.age_s(1.060) == pytest.approx(0.060)
    assert everything(backlog, 1.070) == [(3, DATA)] * 4 + [(4, DATA)] * 4
    assert backlog.dropped == {Drop.PARITY: 8, Drop.STALE: 8}
    assert backlog.dropped_frames == 2


def test_a_frame_that_was_begun_is_completed_whatever_its_age() -> None:
    backlog = Backlog(VIDEO, classify)
    whole = [shard(7, number=n) for n in range(6)]
    backlog.push(tuple(gather(whole[:2])), 1.000)
    assert popped(backlog, 1.000) == [(7, DATA)] * 2
    backlog.push(tuple(gather(whole[2:])), 1.001)
    backlog.push(frame_of(8), 1.002)
    backlog.push(frame_of(9), 1.190)
    assert everything(backlog, 1.200) == [(7, DATA)] * 4 + [(9, DATA)] * 4
    assert backlog.dropped == {Drop.PARITY: 4, Drop.STALE: 4}


def test_a_large_frame_that_was_begun_out_of_the_sorted_ones_is_completed_too() -> None:
    backlog = Backlog(VIDEO, classify)
    count = 2 * max_message_bytes // 1000
    backlog.push(frame_of(1, data=count, parity=0, size=1000), 1.000)
    first = popped(backlog, 1.000)
    assert 0 < len(first) < count
    backlog.push(frame_of(2), 1.001)
    assert len(first) + len(popped(backlog, 1.5)) + len(everything(backlog, 1.5)) == count
    assert backlog.dropped == {Drop.PARITY: 2, Drop.STALE: 4}


def test_what_of_a_dropped_frame_comes_later_is_dropped_too() -> None:
    backlog = Backlog(VIDEO, classify)
    backlog.push(frame_of(1, data=3, parity=0), 1.000)
    assert popped(backlog, 1.100) == []
    backlog.push(frame_of(1, data=2, parity=1), 1.101)
    assert popped(backlog, 1.101) == []
    backlog.push(frame_of(2), 1.102)
    assert popped(backlog, 1.102) == [(2, DATA)] * 4 + [(2, PARITY)] * 2
    assert backlog.dropped == {Drop.STALE: 6}


def test_a_backlog_that_nobody_empties_stays_short() -> None:
    """During a blackout nobody pops; what waits is what is fresh."""
    backlog = Backlog(VIDEO, classify)
    for index in range(1, 121):
        backlog.push(frame_of(index), index / 60)
        assert backlog.age_s(index / 60) <= 0.0501
    assert everything(backlog, 2.001) == [(n, DATA) for n in (118, 119, 120) for _ in range(4)]


def test_datagrams_of_use_alone_are_dropped_alone() -> None:
    backlog = Backlog(limits_of("audio"), classify)
    for number in range(10):
        backlog.push(tuple(gather([shard(0, number=number)])), number * 0.02)
    kept = [
        SHARD.unpack_from(datagram)[2] for run in backlog.pop(0.18) for datagram in run.datagrams()
    ]
    assert kept == [4, 5, 6, 7, 8, 9]
    assert backlog.dropped == {Drop.STALE: 4}


def test_a_flow_without_a_limit_in_time_keeps_what_fits() -> None:
    backlog = Backlog(BacklogLimits(None, 10 * (100 + overhead_bytes)), classify)
    for number in range(1, 16):
        backlog.push(tuple(gather([shard(0, number=number)])), 0.0)
    kept = [SHARD.unpack_from(d)[2] for run in backlog.pop(99.0) for d in run.datagrams()]
    assert kept == list(range(6, 16))
    assert backlog.dropped == {Drop.OVERFULL: 5}


def test_too_much_at_once_costs_parity_then_the_oldest_frames_then_even_one_alone() -> None:
    backlog = Backlog(BacklogLimits(50.0, 1_000), classify)
    backlog.push(frame_of(1), 1.0)
    backlog.push(frame_of(2), 1.0)
    assert backlog.dropped == {Drop.PARITY: 4}
    backlog.push(frame_of(3), 1.0)
    assert backlog.dropped == {Drop.PARITY: 6, Drop.OVERFULL: 4}
    assert popped(backlog, 1.0) == [(2, DATA)] * 4 + [(3, DATA)] * 4
    backlog.push(frame_of(3, data=11, parity=0), 1.0)
    assert backlog.size_bytes == 0
    assert backlog.dropped[Drop.OVERFULL] == 4 + 11


def test_empty_datagrams_are_bounded_and_small_ones_go_in_messages_of_their_own() -> None:
    backlog = Backlog(limits_of("control"))
    for _ in range(100_000):
        backlog.push([Run(0, memoryview(b""))], 0.0)
    assert backlog.datagrams <= 2**18 / overhead_bytes
    assert backlog.dropped[Drop.OVERFULL] == 100_000 - backlog.datagrams
    while some := backlog.pop(0.0):
        encode_runs(0, some)
    backlog = Backlog(VIDEO)
    backlog.push(gather([b"x"] * 60_000), 0.0)
    [run] = backlog.pop(0.0)
    assert len(run) == 60_000


def test_nothing_pushed_is_nothing() -> None:
    backlog = Backlog(VIDEO, classify)
    backlog.push((), 1.0)
    assert backlog.pop(2.0) == []


def test_each_kind_of_flow_has_its_limit() -> None:
    assert [limits_of(flow).limit_ms for flow in ("video", "audio", "control")] == [50, 100, None]
    assert Backlog(limits_of("control")).pop(0.0) == []


@dataclass
class Stream:
    """A host's video as it is pushed: whole frames, cut into arrivals anywhere."""

    next_frame: int = 1
    rest: list[bytes] = field(default_factory=list)
    number: int = 0
    pushed: list[bytes] = field(default_factory=list)
    pushed_at: dict[int, float] = field(default_factory=dict)
    frame_at: dict[int, float] = field(default_factory=dict)

    def arrive(self, count: int, now_s: float) -> list[Run]:
        datagrams = []
        for _ in range(count):
            if not self.rest:
                data = 1 + self.next_frame * 7 % 5
                for n in range(data + data // 2):
                    self.rest.append(shard(self.next_frame, parity=n >= data, number=self.number))
                    self.number += 1
                self.next_frame += 1
            datagrams.append(self.rest.pop(0))
        for datagram in datagrams:
            frame, _, number = SHARD.unpack_from(datagram)
            self.pushed_at[number] = now_s
            self.frame_at.setdefault(frame, now_s)
        self.pushed += datagrams
        return list(gather(datagrams))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 12)),
        st.tuples(st.just("pop"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.integers(1, 80)),
    ),
    max_size=80,
)


@settings(max_examples=400)
@given(steps)
def test_frames_are_sent_whole_fresh_and_in_order_and_every_drop_is_counted(
    plan: list[tuple[str, int]],
) -> None:
    backlog, stream = Backlog(VIDEO, classify), Stream()
    now_s, sent = 0.0, list[tuple[int, bool, int, float]]()

    def take() -> None:
        for run in backlog.pop(now_s):
            for datagram in run.datagrams():
                sent.append((*SHARD.unpack_from(datagram), now_s))

    for step, amount in plan:
        if step == "wait":
            now_s += amount / 1000
        elif step == "push":
            backlog.push(stream.arrive(amount, now_s), now_s)
        else:
            for _ in range(amount):
                take()
        waiting = stream.number - len(stream.rest) - len(sent) - backlog.dropped.total()
        assert backlog.datagrams == waiting
        assert backlog.size_bytes == (100 + overhead_bytes) * waiting
    # Complete the last frame, then let everything go that may.
    backlog.push(stream.arrive(len(stream.rest), now_s), now_s)
    while backlog.datagrams:
        take()

    numbers = [number for _, _, number, _ in sent]
    assert numbers == sorted(numbers)
    assert len(sent) + backlog.dropped.total() == len(stream.pushed)
    wanted = Counter(SHARD.unpack_from(d)[0] for d in stream.pushed if not SHARD.unpack_from(d)[1])
    got = Counter(frame for frame, parity, _, _ in sent if not parity)
    assert all(got[frame] == wanted[frame] for frame in got), "part of a frame was sent"
    begun_at: dict[int, float] = {}
    for frame, _, _, at in sent:
        begun_at.setdefault(frame, at)
    late = {frame: at - stream.frame_at[frame] for frame, at in begun_at.items()}
    assert all(age <= 0.050 + 1e-9 for age in late.values()), "a stale frame was begun"
    assert backlog.dropped[Drop.OVERFULL] == 0
