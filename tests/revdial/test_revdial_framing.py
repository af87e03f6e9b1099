"""Datagrams come out of a message as they went in, and rubbish is only ever a BadMessage."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revdial.errors import BadMessage
from revdial.framing import (
    FlowKind,
    Preamble,
    Run,
    decode_batch,
    encode_batch,
    encode_runs,
    gather,
    max_batch_bytes,
    max_datagram_bytes,
)

datagrams = st.lists(
    st.one_of(st.binary(max_size=40), st.integers(0, 1400).map(bytes)),
    max_size=40,
)


@settings(max_examples=150)
@given(st.integers(0, 2**40), datagrams)
def test_a_batch_keeps_every_datagram_in_order(clock: int, sent: list[bytes]) -> None:
    batch = decode_batch(encode_batch(clock, sent))
    assert [bytes(d) for d in batch.datagrams()] == sent
    assert sum(map(len, batch.runs)) == len(sent)
    assert batch.microseconds == clock % 2**32
    assert encode_runs(clock, batch.runs) == encode_batch(clock, sent)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_a_bad_message(message: bytes) -> None:
    try:
        batch = decode_batch(message)
    except BadMessage:
        return
    assert encode_runs(batch.microseconds, batch.runs) == message


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=30), st.binary(max_size=20).map(lambda b: GOOD[:8] + b)))
def test_any_bytes_are_a_preamble_or_a_bad_message(message: bytes) -> None:
    try:
        preamble = Preamble.decode(message)
    except BadMessage:
        return
    assert preamble.encode() == message


GOOD = Preamble("s1", FlowKind.AUDIO, "198.51.100.7").encode()


@given(st.text(max_size=60), st.sampled_from(FlowKind), st.text(max_size=60))
def test_a_preamble_comes_back(session: str, flow: FlowKind, address: str) -> None:
    preamble = Preamble(session, flow, address)
    assert Preamble.decode(preamble.encode()) == preamble


def test_the_preamble_is_these_bytes() -> None:
    assert Preamble("ab", FlowKind.CONTROL, "c").encode() == bytes.fromhex(
        "deadbeef 01 03 02 01 61 62 63"
    )


def test_a_batch_is_these_bytes() -> None:
    assert encode_batch(258, [b"abc", b"def", b"g", b"hi"]) == bytes.fromhex(
        "00000102 0003 0007 61626364656667 0002 0002 6869"
    )


@pytest.mark.parametrize(
    "message",
    [
        b"",
        GOOD[:7],
        b"\0" + GOOD[1:],
        GOOD[:4] + b"\x02" + GOOD[5:],
        GOOD[:5] + b"\x09" + GOOD[6:],
        GOOD + b"x",
        GOOD[:-1],
        GOOD[:8] + b"\xff" + GOOD[9:],
    ],
)
def test_a_wrong_preamble_is_refused(message: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        Preamble.decode(message)
    assert caught.value.reason == "bad_preamble"


def test_a_preamble_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadMessage):
        Preamble("s" * 256, FlowKind.VIDEO).encode()
    with pytest.raises(BadMessage):
        Preamble("s", FlowKind.VIDEO, "a" * 256).encode()


@pytest.mark.parametrize(
    "runs",
    ["00", "0001 00", "0002 0002 61", "0000 0001 61", "0003 0002 6162", "0001 0000", "ffff ffff"],
)
def test_a_wrong_run_is_refused(runs: str) -> None:
    with pytest.raises(BadMessage):
        decode_batch(bytes(4) + bytes.fromhex(runs) + (bytes(65535) if runs[0] == "f" else b""))


def test_an_empty_datagram_is_a_run_of_its_own() -> None:
    runs = list(gather([b"ab", b"", b"", b"cd"]))
    assert [(r.segment_size, bytes(r.data)) for r in runs] == [
        (2, b"ab"),
        (0, b""),
        (0, b""),
        (2, b"cd"),
    ]


def test_a_run_holds_what_one_gso_write_could() -> None:
    runs = list(gather([bytes(1400)] * 100))
    assert [len(r) for r in runs] == [46, 46, 8]


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(BadMessage):
        list(gather([bytes(max_datagram_bytes + 1)]))
    with pytest.raises(BadMessage):
        encode_runs(0, [Run(1000, memoryview(bytes(60_000)))] * 5)
    with pytest.raises(BadMessage):
        decode_batch(bytes(max_batch_bytes + 1))
