from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import datagrams, needs_captures

from moonlight import fec
from moonlight.rtp import VideoPacketHeader


def shards(data: st.DataObject, count: int, size: int) -> list[bytes]:
    return [data.draw(st.binary(min_size=size, max_size=size)) for _ in range(count)]


def without(items: list[bytes], lost: set[int], offset: int = 0) -> list[bytes | None]:
    return [None if at + offset in lost else item for at, item in enumerate(items)]


def test_the_rows_are_the_inverses_of_the_field() -> None:
    # (P + i) xor j is 1 at P = 1, i = 0, j = 0; its inverse is 1. 2 times 0x8e is 0x11c + 1.
    assert fec.video_rows(2, 1) == (bytes([0x01, 0x8E]),)


def test_known_parity_of_one_byte_shards() -> None:
    # 0x01 * 3 + 0x8e * 2, in the field.
    assert fec.parity([b"\x03", b"\x02"], 1) == [b"\x02"]


@settings(max_examples=60)
@given(st.data(), st.integers(1, 20), st.integers(0, 8), st.integers(1, 6))
def test_any_loss_of_up_to_all_parity_is_recovered(
    data: st.DataObject, count: int, parity_count: int, size: int
) -> None:
    sent = shards(data, count, size)
    parities = fec.parity(sent, parity_count)
    lost = data.draw(st.sets(st.integers(0, count + parity_count - 1), max_size=parity_count))
    assert fec.recover(without(sent, lost), without(parities, lost, count)) == sent


def test_the_largest_block_recovers_from_the_largest_loss() -> None:
    sent = [bytes([index, 255 - index]) * 3 for index in range(212)]
    parities = fec.parity(sent, 43)
    lost = set(range(5, 48))
    assert fec.recover(without(sent, lost), list(parities)) == sent


@given(st.data(), st.integers(1, 90))
def test_audio_recovers_from_any_two_losses(data: st.DataObject, size: int) -> None:
    sent = shards(data, fec.AUDIO_DATA_SHARDS, size)
    parities = fec.encode(sent, fec.AUDIO_ROWS)
    for pair in combinations(range(6), 2):
        lost = set(pair)
        recovered = fec.recover(without(sent, lost), without(parities, lost, 4), fec.AUDIO_ROWS)
        assert recovered == sent


def test_too_few_shards_are_refused() -> None:
    with pytest.raises(ValueError, match="2 shards missing, 1 parity"):
        fec.recover([None, b"a", None], [b"b", None])


def test_unequal_shards_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        fec.parity([b"a", b"bc"], 1)
    with pytest.raises(ValueError, match="equally long"):
        fec.recover([None, b"a"], [b"bc"])


@pytest.mark.parametrize(("data", "parities"), [(0, 1), (1, -1), (200, 56)])
def test_impossible_blocks_are_refused(data: int, parities: int) -> None:
    with pytest.raises(ValueError, match="no block"):
        fec.video_rows(data, parities)


@needs_captures
def test_recorded_video_parity_is_computed_byte_for_byte() -> None:
    blocks: dict[tuple[int, int], list[bytes]] = {}
    for datagram in datagrams():
        if datagram.source == 48100:
            header = VideoPacketHeader.parse(datagram.payload)
            blocks.setdefault((header.frame_index, header.block_index), []).append(datagram.payload)
    compared = 0
    for packets in blocks.values():
        header = VideoPacketHeader.parse(packets[0])
        if len(packets) < header.total_shards:
            continue
        # Index and flags are covered like the payload; Wolf sets the fields between them later.
        covered = [packet[16:20] + packet[24:26] + packet[32:] for packet in packets]
        expected = covered[header.data_shards :]
        assert fec.parity(covered[: header.data_shards], header.parity_shards) == expected
        compared += len(expected)
    assert compared == 472


@needs_captures
def test_recorded_audio_parity_is_computed_byte_for_byte() -> None:
    recorded = [d.payload for d in datagrams() if d.source == 48200]
    data = {int.from_bytes(p[2:4], "big"): p[12:] for p in recorded if p[1] == 97}
    parities = [p for p in recorded if p[1] == 127]
    assert len(parities) == 94
    for packet in parities:
        index, base = packet[12], int.from_bytes(packet[14:16], "big")
        block = [data[base + offset] for offset in range(4)]
        assert fec.encode(block, fec.AUDIO_ROWS)[index] == packet[24:]
