from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from recorded import datagrams, needs_captures

from moonlight.ping import Ping, build_ping, new_ping_payload, parse_ping

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=16, max_size=16)


@given(PRINTABLE, st.integers(0, 2**32 - 1))
def test_a_ping_reads_back_as_written(payload: str, counter: int) -> None:
    assert parse_ping(build_ping(payload, counter)) == Ping(payload, counter)


@given(st.binary(max_size=40))
@example(b"PING")
@example(b"a" * 15 + b"\n" + b"\0\0\0\1")
@example(b"a" * 15 + b"\xe9" + b"\0\0\0\1")
def test_any_datagram_is_a_ping_or_none(datagram: bytes) -> None:
    ping = parse_ping(datagram)
    if ping is not None:
        assert build_ping(ping.payload, ping.counter) == datagram


def test_the_old_form_has_no_payload() -> None:
    assert build_ping(None, 7) == b"PING"
    assert parse_ping(b"PING") == Ping(None, 0)


def test_the_counter_wraps() -> None:
    assert build_ping("x" * 16, 2**32 + 5)[16:] == b"\0\0\0\5"


def test_only_sixteen_printable_characters_are_a_payload() -> None:
    for wrong in ("", "x" * 15, "x" * 17, "x" * 15 + "\n", "x" * 15 + "é"):
        with pytest.raises(ValueError, match="16 printable"):
            build_ping(wrong, 1)
    assert parse_ping(b"\0" * 20) is None


def test_new_payloads_differ_and_can_be_sent() -> None:
    first, second = new_ping_payload(), new_ping_payload()
    assert first != second
    assert parse_ping(build_ping(first, 1)) == Ping(first, 1)
    assert new_ping_payload(lambda count: b"\0" * count) == "A" * 16


def test_the_payload_stays_out_of_repr() -> None:
    assert "secret" not in repr(Ping("secretsecretsecr", 1))


@needs_captures
def test_recorded_pings_are_read() -> None:
    recorded = [d.payload for d in datagrams() if d.destination in (48100, 48200)]
    pings = [parse_ping(payload) for payload in recorded]
    assert [ping.payload for ping in pings if ping] == ["_H(RH3JL`p(JglN-"] * 6
    assert [ping.counter for ping in pings if ping] == [1, 1, 2, 2, 3, 3]
