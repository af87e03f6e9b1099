from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import datagrams, needs_captures

from moonlight.control import (
    ControlCipher,
    ControlKind,
    ControlMessage,
    TerminationReason,
    sealed_sequence,
    termination_payload,
    termination_reason,
)
from moonlight.enet import CommandKind, parse_packet
from moonlight.errors import AuthenticationFailed, Malformed, ProtocolError

KEY = bytes(range(16))
Version = Literal[1, 2]


@given(
    st.sampled_from([1, 2]),
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=5),
)
def test_both_sides_understand_each_other(
    version: Version, messages: list[tuple[int, bytes]]
) -> None:
    client = ControlCipher(KEY, "client", version=version)
    host = ControlCipher(KEY, "host", version=version)
    for kind, payload in messages:
        assert host.open(client.seal(kind, payload)) == (kind, payload)
        assert client.open(host.seal(kind, payload)) == (kind, payload)


def test_sequences_rise_and_wrap() -> None:
    cipher = ControlCipher(KEY, "client", version=2)
    sealed = [cipher.seal(ControlKind.PERIODIC_PING) for _ in range(3)]
    assert [int.from_bytes(data[4:8], "little") for data in sealed] == [0, 1, 2]
    assert len({data[8:] for data in sealed}) == 3
    cipher._sequence = 0xFFFFFFFF
    cipher.seal(1)
    assert cipher.seal(1)[4:8] == bytes(4)


def test_a_sealed_message_shows_its_number() -> None:
    cipher = ControlCipher(KEY, "client", version=2)
    sealed = [cipher.seal(ControlKind.PERIODIC_PING) for _ in range(3)]
    assert [sealed_sequence(memoryview(data)) for data in sealed] == [0, 1, 2]
    for other in (b"", sealed[0][:-1], sealed[0] + b"x", b"\2" + sealed[0][1:]):
        assert sealed_sequence(other) is None


def test_version_2_tells_directions_apart_and_version_1_does_not() -> None:
    for version, same in ((1, True), (2, False)):
        sealed = [
            ControlCipher(KEY, role, version=version).seal(1, b"x")  # type: ignore[arg-type]
            for role in ("client", "host")
        ]
        assert (sealed[0] == sealed[1]) is same


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    for attempt in (data, b"\x01\x00" + (len(data)).to_bytes(2, "little") + data):
        with pytest.raises(ProtocolError):
            ControlCipher(KEY, "host").open(attempt)


def test_what_is_no_sealed_message_is_refused() -> None:
    sealed = ControlCipher(KEY, "client", version=2).seal(1, b"abc")
    host = ControlCipher(KEY, "host", version=2)
    assert host.open(sealed) == (1, b"abc")
    for wrong in (sealed[:20], sealed[:-1], sealed + b"x", b"\x02" + sealed[1:]):
        with pytest.raises(Malformed):
            host.open(wrong)
    for at in (4, 8, 30):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(AuthenticationFailed):
            host.open(bytes(changed))
    with pytest.raises(AuthenticationFailed):
        ControlCipher(bytes(16), "host", version=2).open(sealed)


def test_a_message_that_contradicts_its_length_is_refused() -> None:
    host = ControlCipher(KEY, "host")
    nonce = host._nonce(0, "client")
    sealed = host._key.encrypt(nonce, b"\x01\x00\x09\x00abc", None)
    data = b"\x01\x00\x1b\x00" + bytes(4) + sealed[-16:] + sealed[:-16]
    with pytest.raises(Malformed, match="contradicts"):
        host.open(data)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        ControlCipher(b"short", "host")
    with pytest.raises(ValueError, match="control payload"):
        ControlCipher(KEY, "host").seal(1, bytes(0xFFFF))


def test_termination_reads_back_in_both_forms() -> None:
    assert termination_payload() == b"\x80\x03\x00\x23"
    assert termination_reason(termination_payload()) == TerminationReason.CLOSED
    assert termination_reason(b"\x00\x01") == 0x0100
    with pytest.raises(Malformed):
        termination_reason(b"\x01")


def test_payloads_stay_out_of_repr() -> None:
    assert (
        repr(ControlMessage(ControlKind.INPUT, b"secret")) == "ControlMessage(kind=0x0206, 6 bytes)"
    )


@needs_captures
def test_recorded_messages_are_opened() -> None:
    host = ControlCipher(bytes.fromhex("b9c556d31ec9b6ed2695134b24b8086f"), "host")
    commands = [
        command
        for datagram in datagrams()
        if datagram.destination == 47999
        for command in parse_packet(datagram.payload).commands
        if command.kind is CommandKind.SEND_RELIABLE
    ]
    kinds = [host.open(bytes(command.payload)).kind for command in commands]
    assert len(kinds) == 21
    assert ControlKind.REQUEST_IDR in kinds
    assert ControlKind.START_B in kinds
    assert kinds.count(ControlKind.PERIODIC_PING) > 10
