"""Headers of video and audio datagrams (protocol §6), read from and written to bytes.

RTP is big-endian; NVIDIA's video header behind it and the frame header are little-endian. Words
are kept as they came, so that what was parsed packs to the same bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from moonlight.errors import Malformed

RTP_HEADER_BYTES: Final = 12
VIDEO_HEADER_BYTES: Final = 32
"""RTP header, four reserved bytes, NVIDIA's header."""
VIDEO_DATAGRAM_OVERHEAD_BYTES: Final = 16
"""A stream's datagrams are this much longer than the packet size that was agreed on."""
FRAME_HEADER_BYTES: Final = 8
AUDIO_PAYLOAD_TYPE: Final = 97
AUDIO_FEC_PAYLOAD_TYPE: Final = 127

_RTP: Final = struct.Struct(">BBHII")
NV_HEADER: Final = struct.Struct("<IIBBBBI")
"""NVIDIA's part of a video header, in the order of VideoPacketHeader's last seven fields."""
_PLACE: Final = struct.Struct("<I3xBI")
_PLACE_AT: Final = 20
_FRAME: Final = struct.Struct("<BHBHH")
# Leaves padding and the count of sources out of the first byte.
_FIRST_MASK: Final = 0xD0
VIDEO_FIRST: Final = 0x90
"""The first byte of video: RTP's version 2 with an extension."""

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class RtpHeader:
    """The twelve bytes that every media datagram begins with. `first` holds version and flags."""

    first: int
    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int

    @classmethod
    def parse(cls, datagram: Bytes) -> RtpHeader:
        """Read the header. Raises Malformed where it is short or of another RTP version."""
        if len(datagram) < RTP_HEADER_BYTES or datagram[0] & 0xC0 != 0x80:
            raise Malformed("rtp_header", "datagram without an RTP header")
        return cls(*_RTP.unpack_from(datagram))

    def pack(self) -> bytes:
        """Write the header."""
        return _RTP.pack(self.first, self.payload_type, self.sequence, self.timestamp, self.ssrc)


class ShardPlace(NamedTuple):
    """Where a video datagram belongs: all that is needed to put frames together, and no more."""

    frame_index: int
    block_index: int
    last_block_index: int
    shard_index: int
    data_shards: int
    parity_shards: int

    @classmethod
    def parse(cls, datagram: Bytes) -> ShardPlace:
        """Read the place. Raises Malformed where the headers are short or contradict themselves.

        Some hundred thousand datagrams a second may come by here.
        """
        if len(datagram) <= VIDEO_HEADER_BYTES or datagram[0] & _FIRST_MASK != VIDEO_FIRST:
            raise Malformed("video_header", "datagram without a video header")
        frame_index, blocks, info = _PLACE.unpack_from(datagram, _PLACE_AT)
        shard, data = info >> 12 & 0x3FF, info >> 22
        parities = -(-data * (info >> 4 & 0xFF) // 100)
        if not data or shard >= data + parities:
            raise Malformed("video_shard", "video shard outside of its block")
        block, last_block = blocks >> 4 & 3, blocks >> 6
        if block > last_block:
            raise Malformed("video_block", "FEC block outside of its frame")
        return cls(frame_index, block, last_block, shard, data, parities)


class VideoFlags(IntFlag):
    """What a data packet holds. In parity packets these bits are parity as well: do not look."""

    PICTURE_DATA = 1
    END_OF_FRAME = 2
    START_OF_FRAME = 4


@dataclass(frozen=True, slots=True)
class VideoPacketHeader:
    """All headers of one video datagram. Start and end of frame are marked in every FEC block."""

    rtp: RtpHeader
    reserved: bytes
    packet_index_word: int
    frame_index: int
    flags: int
    extra_flags: int
    multi_fec_flags: int
    multi_fec_blocks: int
    fec_info: int

    @classmethod
    def parse(cls, datagram: Bytes) -> VideoPacketHeader:
        """Read the headers. Raises Malformed where they are short or contradict themselves."""
        rtp = RtpHeader.parse(datagram)
        ShardPlace.parse(datagram)
        return cls(rtp, bytes(datagram[12:16]), *NV_HEADER.unpack_from(datagram, 16))

    def pack(self) -> bytes:
        """Write the headers."""
        nv = NV_HEADER.pack(
            self.packet_index_word,
            self.frame_index,
            self.flags,
            self.extra_flags,
            self.multi_fec_flags,
            self.multi_fec_blocks,
            self.fec_info,
        )
        return self.rtp.pack() + self.reserved + nv

    @property
    def stream_packet_index(self) -> int:
        """The 24-bit number of this packet in the stream (data packets only)."""
        return self.packet_index_word >> 8

    @property
    def block_index(self) -> int:
        """Which FEC block of the frame this is, from 0."""
        return self.multi_fec_blocks >> 4 & 3

    @property
    def last_block_index(self) -> int:
        """The number of the frame's last FEC block."""
        return self.multi_fec_blocks >> 6

    @property
    def shard_index(self) -> int:
        """Where in its block this packet stands; parity follows data."""
        return self.fec_info >> 12 & 0x3FF

    @property
    def data_shards(self) -> int:
        """How many data packets the block has."""
        return self.fec_info >> 22

    @property
    def fec_percentage(self) -> int:
        """Parity in percent of data, from which the number of parity packets follows."""
        return self.fec_info >> 4 & 0xFF

    @property
    def parity_shards(self) -> int:
        """How many parity packets the block has."""
        return parity_count(self.data_shards, self.fec_percentage)

    @property
    def total_shards(self) -> int:
        """How many packets the block has."""
        return self.data_shards + self.parity_shards

    @property
    def is_parity(self) -> bool:
        """Whether the packet carries parity."""
        return self.shard_index >= self.data_shards


def parity_count(data_shards: int, fec_percentage: int) -> int:
    """Tell how many parity packets a block has; both sides compute it from the percentage."""
    return -(-data_shards * fec_percentage // 100)


def fec_info(shard_index: int, data_shards: int, fec_percentage: int) -> int:
    """Build the word that places a packet in its block."""
    return shard_index << 12 | data_shards << 22 | fec_percentage << 4


def multi_fec_blocks(block_index: int, last_block_index: int) -> int:
    """Build the byte that places a block in its frame."""
    return block_index << 4 | last_block_index << 6


class FrameKind(IntEnum):
    """What the frame header says of its frame."""

    PREDICTED = 1
    IDR = 2
    INTRA_REFRESH = 4
    AFTER_INVALIDATION = 5


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The eight bytes in front of a frame's data, inside the first packet's payload."""

    kind: int
    last_payload_length: int
    """Bytes of the last packet's payload that are no padding; counts this header if it is there."""
    host_latency: int = 0
    """Time from capture to sending, in 0.1 ms."""

    @classmethod
    def parse(cls, payload: Bytes) -> FrameHeader:
        """Read the header. Raises Malformed where it is short or of the long, older form."""
        if len(payload) < FRAME_HEADER_BYTES or payload[0] != 1:
            raise Malformed("frame_header", "video frame without a frame header")
        _, host_latency, kind, last_payload_length, _ = _FRAME.unpack_from(payload)
        return cls(kind, last_payload_length, host_latency)

    def pack(self) -> bytes:
        """Write the header."""
        return _FRAME.pack(1, self.host_latency, self.kind, self.last_payload_length, 0)
