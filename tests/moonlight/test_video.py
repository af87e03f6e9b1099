from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import datagrams, needs_captures

from moonlight import fec
from moonlight.errors import Malformed, ProtocolError, TooLarge
from moonlight.rtp import VideoFlags, VideoPacketHeader, fec_info
from moonlight.video import AssembledFrame, FrameAssembler, FramePacketiser

PACKET_SIZE = 64  # 48 bytes of payload, so that tests stay small
PAYLOAD = PACKET_SIZE - 16


def frames_of(assembler: FrameAssembler, packets: list[bytes]) -> list[AssembledFrame]:
    return [frame for packet in packets if (frame := assembler.receive(packet)) is not None]


def headers(packets: list[bytes]) -> list[VideoPacketHeader]:
    return [VideoPacketHeader.parse(packet) for packet in packets]


@settings(max_examples=60)
@given(st.data())
def test_frames_survive_any_loss_that_parity_covers(data: st.DataObject) -> None:
    packetiser = FramePacketiser(PACKET_SIZE, fec_percentage=40, min_fec_packets=2)
    assembler = FrameAssembler()
    for index in range(1, 4):
        frame = data.draw(st.binary(max_size=1500))
        packets = packetiser.packetise(
            frame, frame_index=index, idr=index == 1, timestamp=index * 1500, host_latency=7
        )
        block = headers(packets)[0]
        lost = data.draw(
            st.sets(st.integers(0, len(packets) - 1), max_size=block.parity_shards), label="lost"
        )
        order = data.draw(st.permutations([at for at in range(len(packets)) if at not in lost]))
        got = frames_of(assembler, [packets[at] for at in order])
        assert [(f.frame_index, f.data, f.timestamp, f.host_latency) for f in got] == [
            (index, frame, index * 1500, 7)
        ]
        assert got[0].kind == (2 if index == 1 else 1)
    assert assembler.lost_frames == 0


def test_packets_are_equally_long_and_numbered_through() -> None:
    packetiser = FramePacketiser(PACKET_SIZE, fec_percentage=20)
    packets = [
        *packetiser.packetise(b"a" * 1000, frame_index=1, idr=True),
        *packetiser.packetise(b"b" * 10, frame_index=2, idr=False),
    ]
    assert {len(packet) for packet in packets} == {PACKET_SIZE + 16}
    parsed = headers(packets)
    assert [header.rtp.sequence for header in parsed] == list(range(len(packets)))
    assert all(header.rtp.first == 0x90 for header in parsed)
    for position, header in enumerate(parsed):
        if not header.is_parity:
            assert header.stream_packet_index == position


def test_numbers_wrap() -> None:
    packetiser = FramePacketiser(PACKET_SIZE, fec_percentage=0)
    packetiser._sequence, packetiser._packet_index = 0xFFFF, 0xFFFFFF
    parsed = headers(packetiser.packetise(b"a" * 60, frame_index=1, idr=True, timestamp=1 << 32))
    assert [header.rtp.sequence for header in parsed] == [0xFFFF, 0]
    assert [header.stream_packet_index for header in parsed] == [0xFFFFFF, 0]
    assert parsed[0].rtp.timestamp == 0


def test_what_a_client_restores_from_parity_makes_a_valid_packet() -> None:
    packets = FramePacketiser(PACKET_SIZE, min_fec_packets=1).packetise(
        b"z" * 130, frame_index=9, idr=True
    )
    parsed = headers(packets)
    count = parsed[0].data_shards
    # Not covered, restored by the client: RTP header, frame index, block number, place in block.
    covered = [packet[16:20] + packet[24:26] + packet[32:] for packet in packets]
    for lost in range(count):
        data = [shard if at != lost else None for at, shard in enumerate(covered[:count])]
        assert fec.recover(data, list(covered[count:]))[lost] == covered[lost]


def test_small_frames_get_their_least_parity() -> None:
    for size, data, parities in ((10, 1, 2), (60, 2, 2), (800, 17, 4)):
        packets = FramePacketiser(PACKET_SIZE, min_fec_packets=2).packetise(
            bytes(size), frame_index=1, idr=False
        )
        header = headers(packets)[0]
        assert (header.data_shards, header.parity_shards) == (data, parities)
        assert len(packets) == header.total_shards
    packets = FramePacketiser(PACKET_SIZE, min_fec_packets=9).packetise(
        b"", frame_index=1, idr=False
    )
    assert len(packets) == 1 + 3  # 255 % of one packet is the most that fits the field
    packets = FramePacketiser(PACKET_SIZE, fec_percentage=0, min_fec_packets=2).packetise(
        b"", frame_index=1, idr=False
    )
    assert len(packets) == 1


def test_large_frames_are_cut_into_blocks_that_start_and_end_alone() -> None:
    frame = random.Random(1).randbytes(213 * PAYLOAD)
    packets = FramePacketiser(PACKET_SIZE).packetise(frame, frame_index=1, idr=True)
    parsed = headers(packets)
    assert [header.data_shards for header in parsed[:: len(parsed) - 1]] == [107, 107]
    for block in (0, 1):
        data = [h for h in parsed if h.block_index == block and not h.is_parity]
        assert data[0].flags == VideoFlags.PICTURE_DATA | VideoFlags.START_OF_FRAME
        assert data[-1].flags == VideoFlags.PICTURE_DATA | VideoFlags.END_OF_FRAME
        assert {h.flags for h in data[1:-1]} == {VideoFlags.PICTURE_DATA}
        assert {h.last_block_index for h in data} == {1}
    received = [packet for at, packet in enumerate(packets) if at % 7]
    assert [f.data for f in frames_of(FrameAssembler(), received)] == [frame]


def test_frames_beyond_four_protected_blocks_go_without_parity() -> None:
    frame = bytes(849 * PAYLOAD - 8)
    packets = FramePacketiser(PACKET_SIZE).packetise(frame, frame_index=1, idr=True)
    assert len(packets) == 849
    assert {header.parity_shards for header in headers(packets)} == {0}
    assert [f.data for f in frames_of(FrameAssembler(), packets)] == [frame]
    with pytest.raises(TooLarge):
        FramePacketiser(PACKET_SIZE).packetise(bytes(4093 * PAYLOAD), frame_index=1, idr=True)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        FramePacketiser(24)
    with pytest.raises(ValueError, match="does not fit"):
        FramePacketiser(1024, fec_percentage=256)


def test_frames_that_never_became_whole_are_counted() -> None:
    packetiser, assembler = FramePacketiser(PACKET_SIZE, fec_percentage=0), FrameAssembler()
    sent = [packetiser.packetise(bytes(100), frame_index=index, idr=False) for index in range(1, 6)]
    got = frames_of(assembler, [*sent[0], *sent[1][1:], *sent[4], *sent[1]])
    assert [frame.frame_index for frame in got] == [1, 5]
    assert (assembler.lost_frames, assembler.late_packets) == (3, 3)


def test_pending_frames_are_bounded() -> None:
    packetiser = FramePacketiser(PACKET_SIZE, fec_percentage=0)
    assembler = FrameAssembler(max_pending_frames=2)
    sent = [packetiser.packetise(bytes(60), frame_index=i, idr=False) for i in range(1, 5)]
    for first, _ in sent:
        assert assembler.receive(first) is None
    assert len(assembler._pending) == 2
    assert [f.frame_index for f in frames_of(assembler, [sent[0][1], sent[2][1]])] == [3]


def test_duplicates_change_nothing() -> None:
    packets = FramePacketiser(PACKET_SIZE).packetise(bytes(100), frame_index=1, idr=False)
    big = FramePacketiser(PACKET_SIZE).packetise(bytes(213 * PAYLOAD), frame_index=2, idr=False)
    assembler = FrameAssembler()
    assert len(frames_of(assembler, [packets[0], packets[0], *packets])) == 1
    doubled = [packet for packet in big for _ in (0, 1)]
    assert len(frames_of(assembler, doubled)) == 1


def changed(packet: bytes, at: int, value: bytes) -> bytes:
    return packet[:at] + value + packet[at + len(value) :]


def test_contradictions_are_refused() -> None:
    packets = FramePacketiser(PACKET_SIZE).packetise(bytes(100), frame_index=1, idr=False)
    assembler = FrameAssembler()
    assembler.receive(packets[0])
    with pytest.raises(Malformed, match="shape"):
        assembler.receive(packets[1] + b"x")
    with pytest.raises(Malformed, match="blocks"):
        assembler.receive(changed(packets[1], 27, b"\x40"))
    with pytest.raises(TooLarge):
        assembler.receive(changed(packets[1], 28, fec_info(0, 250, 20).to_bytes(4, "little")))
    for length in (0, 7, PAYLOAD + 1):
        single = FramePacketiser(PACKET_SIZE).packetise(b"", frame_index=2, idr=False)[0]
        with pytest.raises(Malformed, match="impossible length"):
            FrameAssembler().receive(changed(single, 36, length.to_bytes(2, "little")))


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_any_bytes_are_taken_or_a_protocol_error(tails: list[bytes]) -> None:
    assembler = FrameAssembler()
    base = FramePacketiser(PACKET_SIZE).packetise(bytes(100), frame_index=1, idr=False)[0]
    for tail in tails:
        for datagram in (tail, base[:20] + tail + b"x" * 30):
            try:
                assembler.receive(datagram)
            except ProtocolError:
                continue


@needs_captures
def test_the_recorded_stream_assembles_with_and_without_loss() -> None:
    recorded = [d.payload for d in datagrams() if d.source == 48100]
    whole = frames_of(FrameAssembler(), recorded)
    assert [frame.frame_index for frame in whole] == list(range(88))
    assert whole[0].kind == 2
    for frame in whole:
        assert frame.data.startswith(b"\x00\x00\x00\x01")
    lossy = [packet for at, packet in enumerate(recorded) if at % 9 != 4]
    assembler = FrameAssembler()
    recovered = frames_of(assembler, lossy)
    assert [frame.data for frame in recovered] == [frame.data for frame in whole]
    assert sum(frame.recovered_packets for frame in recovered) > 200


@needs_captures
def test_the_recorded_frames_are_cut_as_wolf_cut_them() -> None:
    recorded = [d.payload for d in datagrams() if d.source == 48100]
    frames = frames_of(FrameAssembler(), recorded)
    packetiser = FramePacketiser(1392, fec_percentage=20, min_fec_packets=2)
    written = [
        packet
        for frame in frames
        for packet in packetiser.packetise(
            frame.data,
            frame_index=frame.frame_index,
            idr=frame.kind == 2,
            timestamp=frame.timestamp,
            host_latency=frame.host_latency,
        )
    ]
    assert written[: len(recorded)] == recorded


def test_an_ssrc_is_in_every_datagram_and_changes_nothing_else() -> None:
    frame = bytes(range(200)) * 9
    plain = FramePacketiser(PACKET_SIZE).packetise(frame, frame_index=1, idr=True)
    named = FramePacketiser(PACKET_SIZE, ssrc=0x01020304).packetise(frame, frame_index=1, idr=True)
    assert {packet[8:12] for packet in named} == {b"\1\2\3\4"}
    assert [packet[:8] + bytes(4) + packet[12:] for packet in named] == plain
