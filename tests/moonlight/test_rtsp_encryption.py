from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from moonlight.errors import AuthenticationFailed, Malformed, ProtocolError, TooLarge
from moonlight.rtsp_encryption import (
    EncryptedRtsp,
    SealedMessage,
    SealedReader,
    is_sealed,
    seal,
    unseal,
)

KEY = bytes(range(16))


def read(data: bytes, step: int = 0) -> list[SealedMessage]:
    """Read bytes that arrive `step` at a time, or all at once."""
    reader, messages = SealedReader(), []
    for at in range(0, len(data), step or max(1, len(data))):
        reader.receive(data[at : at + step] if step else data)
        while (message := reader.next()) is not None:
            messages.append(message)
    reader.end()
    assert reader.next() is None
    assert reader.idle
    return messages


def sides() -> tuple[EncryptedRtsp, EncryptedRtsp]:
    return EncryptedRtsp(KEY, "client"), EncryptedRtsp(KEY, "host")


def one(data: bytes) -> SealedMessage:
    (message,) = read(data)
    return message


@given(st.lists(st.binary(max_size=60), max_size=5), st.integers(1, 50))
def test_messages_arrive_however_they_are_cut(messages: list[bytes], step: int) -> None:
    client, host = sides()
    for sender, receiver in ((client, host), (host, client)):
        stream = b"".join(sender.seal(message) for message in messages)
        assert [receiver.unseal(message) for message in read(stream, step)] == messages


def test_the_layout_is_length_sequence_tag_and_ciphertext() -> None:
    client, host = sides()
    first, second = client.seal(b"abc"), client.seal(b"abc")
    assert first[:8] == bytes.fromhex("8000000300000001")
    assert second[:8] == bytes.fromhex("8000000300000002")
    nonce = bytes.fromhex("02000000 000000000000") + b"CR"
    assert AESGCM(KEY).decrypt(nonce, second[24:] + second[8:24], None) == b"abc"
    nonce = bytes.fromhex("01000000 000000000000") + b"HR"
    answer = host.seal(b"abc")
    assert AESGCM(KEY).decrypt(nonce, answer[24:] + answer[8:24], None) == b"abc"


def test_what_came_before_is_refused_on_whatever_connection() -> None:
    client, host = sides()
    first, second = one(client.seal(b"1")), one(client.seal(b"2"))
    assert host.unseal(second) == b"2"
    for old in (first, second):
        with pytest.raises(AuthenticationFailed) as caught:
            host.unseal(old)
        assert caught.value.reason == "rtsp_replay"
    assert host.unseal(one(client.seal(b"3"))) == b"3"


@given(st.lists(st.integers(1, 20), max_size=20))
def test_only_rising_numbers_are_opened(numbers: list[int]) -> None:
    """Any number may be the first: Moonlight counts on from stream to stream."""
    host, opened = EncryptedRtsp(KEY, "host"), []
    for number in numbers:
        try:
            opened.append(int(host.unseal(one(seal(KEY, "client", number, str(number).encode())))))
        except AuthenticationFailed:
            assert number <= max(opened)
    assert opened == sorted(set(opened))
    assert opened[:1] == numbers[:1]


def test_what_another_key_or_the_own_side_sealed_is_refused_and_not_remembered() -> None:
    host = EncryptedRtsp(KEY, "host")
    for sealed in (seal(bytes(16), "client", 9, b"1"), seal(KEY, "host", 9, b"1")):
        with pytest.raises(AuthenticationFailed, match="another key") as caught:
            host.unseal(one(sealed))
        assert caught.value.reason == "rtsp_tag"
    assert host.unseal(one(EncryptedRtsp(KEY, "client").seal(b"1"))) == b"1"


@given(st.binary(max_size=40), st.integers(0, 2**32 - 1), st.data())
def test_no_flipped_bit_passes(plain: bytes, sequence: int, data: st.DataObject) -> None:
    sealed = bytearray(seal(KEY, "client", sequence, plain))
    assert unseal(KEY, "client", one(bytes(sealed))) == plain
    bit = data.draw(st.integers(8 * 4, 8 * len(sealed) - 1), label="bit behind the length")
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AuthenticationFailed):
        unseal(KEY, "client", one(bytes(sealed)))


def test_a_message_in_the_clear_is_refused_at_its_first_byte() -> None:
    reader = SealedReader()
    reader.receive(b"O")
    with pytest.raises(Malformed) as caught:
        reader.next()
    assert caught.value.reason == "rtsp_not_sealed"
    assert not is_sealed(b"OPTIONS")
    assert not is_sealed(b"")
    assert is_sealed(b"\x80")


def test_a_long_one_is_refused_by_its_length_and_a_short_one_at_its_end() -> None:
    header = bytes.fromhex("8000000a00000001") + bytes(16)
    reader = SealedReader(max_message_bytes=9)
    reader.receive(header)
    with pytest.raises(TooLarge):
        reader.next()
    for cut in (header[:3], header + bytes(9)):
        reader = SealedReader(max_message_bytes=10)
        reader.receive(cut)
        assert reader.next() is None
        reader.end()
        with pytest.raises(Malformed) as caught:
            reader.next()
        assert caught.value.reason == "rtsp_truncated"


def test_a_key_is_16_bytes_and_nothing_shows_it() -> None:
    with pytest.raises(ValueError, match="16 bytes") as caught:
        EncryptedRtsp(b"short", "host")
    assert "short" not in str(caught.value)
    shown = repr(EncryptedRtsp(KEY, "host")) + repr(one(seal(KEY, "host", 1, b"abc")))
    assert KEY.hex() not in shown
    assert repr(KEY) not in shown


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_bytes_are_awaited_or_a_protocol_error(pieces: list[bytes]) -> None:
    for prefix in (b"", b"\x80\x00\x00\x05\x00\x00\x00\x01"):
        reader, host = SealedReader(), EncryptedRtsp(KEY, "host")
        try:
            for piece in (prefix, *pieces):
                reader.receive(piece)
                while (message := reader.next()) is not None:
                    host.unseal(message)
        except ProtocolError:
            continue
