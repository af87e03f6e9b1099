from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlight.errors import AuthenticationFailed, Malformed, ProtocolError, TooLarge
from moonlight.rtsp_encryption import EncryptedRtsp

KEY = bytes(range(16))


@given(st.lists(st.binary(max_size=60), max_size=5), st.integers(1, 50))
def test_messages_arrive_however_they_are_cut(messages: list[bytes], step: int) -> None:
    client, host = EncryptedRtsp(KEY, "client"), EncryptedRtsp(KEY, "host")
    for sender, receiver in ((client, host), (host, client)):
        stream = b"".join(sender.seal(message) for message in messages)
        got: list[bytes] = []
        for at in range(0, len(stream), step):
            got += receiver.open(stream[at : at + step])
        assert got == messages


def test_the_layout_is_length_sequence_tag_and_ciphertext() -> None:
    client = EncryptedRtsp(KEY, "client")
    first, second = client.seal(b"abc"), client.seal(b"abc")
    assert first[:8] == bytes.fromhex("8000000300000001")
    assert second[:8] == bytes.fromhex("8000000300000002")
    assert len(first) == 8 + 16 + 3
    host_first = EncryptedRtsp(KEY, "host").seal(b"abc")
    assert host_first[8:] != first[8:]


def test_what_came_before_is_refused() -> None:
    client, host = EncryptedRtsp(KEY, "client"), EncryptedRtsp(KEY, "host")
    first, second = client.seal(b"1"), client.seal(b"2")
    assert host.open(second) == [b"2"]
    for old in (first, second):
        with pytest.raises(AuthenticationFailed) as caught:
            host.open(old)
        assert caught.value.reason == "rtsp_replay"
    assert host.open(client.seal(b"3")) == [b"3"]


def test_what_another_key_sealed_is_refused() -> None:
    host = EncryptedRtsp(KEY, "host")
    with pytest.raises(AuthenticationFailed, match="another key"):
        host.open(EncryptedRtsp(bytes(16), "client").seal(b"1"))
    with pytest.raises(AuthenticationFailed):
        host.open(EncryptedRtsp(KEY, "host").seal(b"1"))
    assert host.open(EncryptedRtsp(KEY, "client").seal(b"1")) == [b"1"]


def test_messages_in_the_clear_and_long_ones_are_refused() -> None:
    with pytest.raises(Malformed):
        EncryptedRtsp(KEY, "host").open(b"OPTIONS rtsp://a RTSP/1.0\r\n\r\n")
    with pytest.raises(TooLarge):
        EncryptedRtsp(KEY, "host", max_message_bytes=9).open(bytes.fromhex("8000000a00000001"))
    with pytest.raises(ValueError, match="16 bytes"):
        EncryptedRtsp(b"short", "host")


def test_a_new_connection_begins_with_a_new_message() -> None:
    client, host = EncryptedRtsp(KEY, "client"), EncryptedRtsp(KEY, "host")
    assert host.open(client.seal(b"cut short")[:-3]) == []
    host.new_connection()
    assert host.open(client.seal(b"whole")) == [b"whole"]


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_bytes_are_awaited_or_a_protocol_error(pieces: list[bytes]) -> None:
    for prefix in (b"", b"\x80\x00\x00\x05\x00\x00\x00\x01"):
        host = EncryptedRtsp(KEY, "host")
        try:
            for piece in (prefix, *pieces):
                assert host.open(piece) == []
        except ProtocolError:
            continue
