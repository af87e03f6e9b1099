from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from moonlight.errors import AuthenticationFailed, Malformed
from moonlight.shards import video_shard
from moonlight.video import FramePacketiser
from moonlight.video_encryption import (
    COUNTERS,
    ENCRYPTION_OVERHEAD_BYTES,
    VideoOpener,
    VideoSealer,
)

KEY = bytes(range(16))
FRAME = 0x01020304


def packets(number: int = 3) -> list[bytes]:
    return FramePacketiser(256).packetise(bytes(200 * number), frame_index=FRAME, idr=True)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(
    st.lists(st.binary(min_size=40, max_size=40), max_size=4),
    st.binary(min_size=12, max_size=40),
    st.integers(0, COUNTERS - 10),
)
def test_every_packet_of_a_run_opens_to_what_it_was(
    whole: list[bytes], last: bytes, first: int
) -> None:
    sealed = VideoSealer(KEY, first).seal(b"".join([*whole, last]), 40)
    datagrams = cut(sealed, 40 + ENCRYPTION_OVERHEAD_BYTES)
    opener = VideoOpener(KEY)
    assert [opener.open(memoryview(each)) for each in datagrams] == [*whole, last]
    assert {len(each) for each in datagrams[:-1]} <= {72}


def test_the_layout_is_iv_frame_number_tag_and_ciphertext() -> None:
    (packet, *_) = packets()
    sealed = VideoSealer(KEY, 0x0102030405060708).seal(packet, len(packet))
    assert sealed[:12] == bytes.fromhex("0807060504030201 000000 56")
    assert sealed[12:16] == bytes.fromhex("04030201")
    plain = AESGCM(KEY).decrypt(sealed[:12], sealed[32:] + sealed[16:32], None)
    assert plain == packet
    assert len(sealed) == len(packet) + 32


def test_no_two_packets_have_the_same_iv_over_all_runs() -> None:
    sealer, sent = VideoSealer(KEY, 7), packets()
    sealed = b"".join(sealer.seal(memoryview(b"".join(sent)), len(sent[0])) for _ in range(3))
    counters = [int.from_bytes(each[:8], "little") for each in cut(sealed, len(sent[0]) + 32)]
    assert counters == list(range(7, 7 + 3 * len(sent)))


def test_a_relay_still_sees_which_frame_a_packet_is_part_of() -> None:
    (packet, *_) = packets()
    sealed = VideoSealer(KEY, 0).seal(packet, len(packet))
    assert video_shard(sealed) == (FRAME, False)


@pytest.mark.parametrize("length", [0, 12, 19, 20, 23])
def test_what_is_too_short_for_a_frame_number_has_none(length: int) -> None:
    sealed = VideoSealer(KEY, 0).seal(b"\x90" * length, 100)
    assert sealed[12:16] == bytes(4 if length else 0)


def test_what_is_short_another_keys_or_changed_is_refused() -> None:
    (packet, *_) = packets()
    sealed = VideoSealer(KEY, 0).seal(packet, len(packet))
    opener = VideoOpener(KEY)
    with pytest.raises(Malformed):
        opener.open(sealed[:43])
    with pytest.raises(AuthenticationFailed, match="this key"):
        VideoOpener(bytes(16)).open(sealed)
    for at in (0, 11, 16, 31, 32, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(AuthenticationFailed):
            opener.open(changed)
    assert opener.open(sealed) == packet


@given(st.binary(max_size=200))
def test_noise_never_opens(noise: bytes) -> None:
    with pytest.raises((Malformed, AuthenticationFailed)):
        VideoOpener(KEY).open(noise)


def test_keys_have_16_bytes_and_counters_64_bits() -> None:
    for make in (lambda: VideoSealer(b"short", 0), lambda: VideoOpener(b"short")):
        with pytest.raises(ValueError, match="16 bytes"):
            make()
    for first in (-1, COUNTERS):
        with pytest.raises(ValueError, match="64 bits"):
            VideoSealer(KEY, first)
