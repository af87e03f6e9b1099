from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import datagrams, needs_captures

from moonlight.errors import Malformed, ProtocolError
from moonlight.rtp import (
    FrameHeader,
    FrameKind,
    RtpHeader,
    VideoFlags,
    VideoPacketHeader,
    fec_info,
    multi_fec_blocks,
    parity_count,
)

U8, U16, U32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
RTP = st.builds(RtpHeader, st.integers(0x90, 0x9F), U8, U16, U32, U32)
VIDEO = st.builds(
    VideoPacketHeader, RTP, st.binary(min_size=4, max_size=4), U32, U32, U8, U8, U8, U8, U32
)


@given(RTP)
def test_an_rtp_header_reads_back_as_written(header: RtpHeader) -> None:
    assert RtpHeader.parse(header.pack()) == header


@given(VIDEO, st.binary(min_size=1, max_size=9))
def test_video_headers_read_back_as_written_or_are_refused(
    header: VideoPacketHeader, payload: bytes
) -> None:
    try:
        parsed = VideoPacketHeader.parse(memoryview(header.pack() + payload))
    except Malformed:
        assert (
            header.block_index > header.last_block_index
            or header.shard_index >= header.total_shards
            or header.data_shards == 0
        )
    else:
        assert parsed == header


@given(st.binary(max_size=60))
def test_any_bytes_are_headers_or_a_protocol_error(data: bytes) -> None:
    for parse in (RtpHeader.parse, VideoPacketHeader.parse, FrameHeader.parse):
        try:
            header = parse(data)
        except ProtocolError:
            continue
        packed = header.pack()
        if not isinstance(header, FrameHeader):
            assert packed == data[: len(packed)]


def video(position: int, blocks: int = 0, first: int = 0x90) -> bytes:
    rtp = RtpHeader(first, 0, 0, 0, 0)
    header = VideoPacketHeader(rtp, bytes(4), 0, 1, 0, 0, 0x10, blocks, position)
    return header.pack() + b"x"


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "rtp_header"),
        (b"\x40" + bytes(40), "rtp_header"),
        (video(fec_info(0, 1, 0), first=0x80), "video_header"),
        (video(fec_info(0, 1, 0))[:-1], "video_header"),
        (video(fec_info(0, 0, 0)), "video_shard"),
        (video(fec_info(5, 4, 20)), "video_shard"),
        (video(fec_info(0, 1, 0), multi_fec_blocks(2, 1)), "video_block"),
    ],
)
def test_impossible_video_headers_are_refused(datagram: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        VideoPacketHeader.parse(datagram)
    assert caught.value.reason == reason


def test_the_position_in_frame_and_block_is_read() -> None:
    header = VideoPacketHeader.parse(video(fec_info(26, 23, 20), multi_fec_blocks(1, 3)))
    assert (header.shard_index, header.data_shards, header.fec_percentage) == (26, 23, 20)
    assert (header.parity_shards, header.total_shards, header.is_parity) == (5, 28, True)
    assert (header.block_index, header.last_block_index) == (1, 3)


@pytest.mark.parametrize(
    ("data", "percentage", "parities"), [(71, 20, 15), (1, 200, 2), (40, 0, 0), (5, 20, 1)]
)
def test_parity_is_rounded_up(data: int, percentage: int, parities: int) -> None:
    assert parity_count(data, percentage) == parities


@given(st.builds(FrameHeader, U8, U16, U16))
def test_a_frame_header_reads_back_as_written(header: FrameHeader) -> None:
    assert FrameHeader.parse(header.pack()) == header


def test_a_frame_header_of_another_form_is_refused() -> None:
    for wrong in (b"\x01" + bytes(6), b"\x81" + bytes(43)):
        with pytest.raises(Malformed):
            FrameHeader.parse(wrong)


@needs_captures
def test_recorded_video_headers_are_consistent() -> None:
    recorded = [d.payload for d in datagrams() if d.source == 48100]
    assert len(recorded) == 2614
    previous: VideoPacketHeader | None = None
    for packet in recorded:
        header = VideoPacketHeader.parse(packet)
        assert header.pack() == packet[:32]
        assert header.multi_fec_flags == 0x10
        assert header.last_block_index == 0
        if previous is not None:
            assert header.rtp.sequence == previous.rtp.sequence + 1
            starts = previous.shard_index == previous.total_shards - 1
            assert header.shard_index == (0 if starts else previous.shard_index + 1)
            assert header.frame_index == previous.frame_index + starts
        if not header.is_parity:
            assert header.stream_packet_index == header.rtp.sequence
            flags = VideoFlags(header.flags)
            assert VideoFlags.PICTURE_DATA in flags
            assert (VideoFlags.START_OF_FRAME in flags) == (header.shard_index == 0)
            last = header.shard_index == header.data_shards - 1
            assert (VideoFlags.END_OF_FRAME in flags) == last
            if header.shard_index == 0:
                kind = FrameHeader.parse(packet[32:]).kind
                assert kind in (FrameKind.IDR, FrameKind.PREDICTED)
        previous = header
