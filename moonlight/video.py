"""Video frames to datagrams with parity, and back.

A frame and its header are cut into packets of equal size, the last one padded with zeros; packets
are grouped into at most four blocks, each with parity of its own (protocol §6). Parity covers the
packet numbers and flags too: a client takes those of a packet it recovered from the parity, and
restores only RTP header, frame index and block number itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from moonlight import fec
from moonlight.errors import Malformed, TooLarge
from moonlight.rtp import (
    FRAME_HEADER_BYTES,
    NV_HEADER,
    VIDEO_HEADER_BYTES,
    FrameHeader,
    FrameKind,
    ShardPlace,
    VideoFlags,
    fec_info,
    multi_fec_blocks,
    parity_count,
)

MAX_BLOCKS: Final = 4
_MAX_DATA_SHARDS: Final = 0x3FF
_MAX_PERCENTAGE: Final = 0xFF
_RTP_FIRST: Final = 0x90
_MULTI_FEC_FLAGS: Final = 0x10

_RTP_AND_RESERVED: Final = struct.Struct(">BBHIII")
_NV_BEHIND_INDEX: Final = struct.Struct("<BBBBI")


@dataclass(frozen=True, slots=True)
class _PreparedBlock:
    """One FEC block; of each packet all that follows its frame index."""

    data_shards: int
    tails: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PreparedFrame:
    """A frame that was cut and has its parity, but no place in the stream yet."""

    blocks: tuple[_PreparedBlock, ...] = field(repr=False)


class FramePacketiser:
    """Turns the encoded frames of one stream into datagrams; keeps the stream's numbers."""

    def __init__(
        self,
        packet_size: int,
        *,
        fec_percentage: int = 20,
        min_fec_packets: int = 0,
        ssrc: int = 0,
    ) -> None:
        """Take what ANNOUNCE agreed on: packet size, and the least parity packets of a block.

        `ssrc` is written into every datagram. Hosts leave it at 0, and clients do not look at it.
        """
        if packet_size <= NV_HEADER.size + FRAME_HEADER_BYTES:
            raise ValueError(f"packet size {packet_size} leaves no room for a frame")
        if not 0 <= fec_percentage <= _MAX_PERCENTAGE:
            raise ValueError(f"FEC percentage {fec_percentage} does not fit its field")
        self._payload_bytes = packet_size - NV_HEADER.size
        self._fec_percentage = fec_percentage
        self._min_fec_packets = min_fec_packets
        self._ssrc = ssrc
        self._sequence = 0
        self._packet_index = 0

    def packetise(
        self,
        frame: bytes,
        *,
        frame_index: int,
        idr: bool,
        timestamp: int = 0,
        host_latency: int = 0,
    ) -> list[bytes]:
        """Cut one frame into datagrams, data and parity block by block, ready to be sent.

        `frame_index` counts from 1, `timestamp` is in 1/90000 s, `host_latency` in 0.1 ms. Raises
        TooLarge where even without parity the frame does not fit into four blocks.
        """
        prepared = self.prepare(frame, idr=idr, host_latency=host_latency)
        return self.number(prepared, frame_index=frame_index, timestamp=timestamp)

    def prepare(self, frame: bytes, *, idr: bool, host_latency: int = 0) -> PreparedFrame:
        """Cut one frame and compute its parity: all that does not depend on its place.

        For whoever sends the same frame again and again. Raises as `packetise`.
        """
        size = self._payload_bytes
        length = FRAME_HEADER_BYTES + len(frame)
        count = -(-length // size)
        kind = FrameKind.IDR if idr else FrameKind.PREDICTED
        header = FrameHeader(kind, length - (count - 1) * size, min(host_latency, 0xFFFF))
        padded = header.pack() + frame + bytes(count * size - length)
        payloads = [padded[at : at + size] for at in range(0, count * size, size)]
        percentage, per_block = self._shape(count)
        blocks = [payloads[at : at + per_block] for at in range(0, count, per_block)]
        return PreparedFrame(
            tuple(
                self._prepare_block(block, multi_fec_blocks(index, len(blocks) - 1), percentage)
                for index, block in enumerate(blocks)
            )
        )

    def number(
        self, prepared: PreparedFrame, *, frame_index: int, timestamp: int = 0
    ) -> list[bytes]:
        """Give a prepared frame's datagrams their place in the stream: as `packetise`."""
        datagrams: list[bytes] = []
        for block in prepared.blocks:
            datagrams += self._number_block(block, frame_index, timestamp & 0xFFFFFFFF)
        return datagrams

    def _shape(self, count: int) -> tuple[int, int]:
        """Choose parity percentage and data packets a block, for a frame of `count` packets."""
        percentage = self._fec_percentage
        most = fec.MAX_SHARDS * 100 // (100 + percentage)
        if count > most * MAX_BLOCKS:
            # Frames too large for four protected blocks go without: the fields allow longer blocks.
            percentage, most = 0, _MAX_DATA_SHARDS
        if count > most * MAX_BLOCKS:
            raise TooLarge("video_frame", f"video frame of {count} packets")
        blocks = -(-count // most)
        return percentage, -(-count // blocks)

    def _parity_of(self, data_shards: int, percentage: int) -> tuple[int, int]:
        """Raise the parity of small blocks: give the number of packets and its percentage."""
        parities = parity_count(data_shards, percentage)
        if not percentage or parities >= self._min_fec_packets:
            return parities, percentage
        percentage = min(self._min_fec_packets * 100 // data_shards, _MAX_PERCENTAGE)
        return parity_count(data_shards, percentage), percentage

    def _prepare_block(self, payloads: list[bytes], place: int, percentage: int) -> _PreparedBlock:
        count = len(payloads)
        parities, percentage = self._parity_of(count, percentage)
        flags = [VideoFlags.PICTURE_DATA.value] * count
        flags[0] |= VideoFlags.START_OF_FRAME.value
        flags[-1] |= VideoFlags.END_OF_FRAME.value
        covered = [
            bytes((flag, 0)) + payload for flag, payload in zip(flags, payloads, strict=True)
        ]
        tails = []
        for index, shard in enumerate((*covered, *fec.parity(covered, parities))):
            position = fec_info(index, count, percentage)
            tail = _NV_BEHIND_INDEX.pack(*shard[:2], _MULTI_FEC_FLAGS, place, position)
            tails.append(tail + shard[2:])
        return _PreparedBlock(count, tuple(tails))

    def _number_block(self, block: _PreparedBlock, frame_index: int, timestamp: int) -> list[bytes]:
        """Parity is a sum, shard by shard and byte by byte: that of the numbers is made apart."""
        count = block.data_shards
        numbers = [
            ((self._packet_index + index & 0xFFFFFF) << 8).to_bytes(4, "little")
            for index in range(count)
        ]
        numbers += fec.parity(numbers, len(block.tails) - count)
        datagrams = []
        for number, tail in zip(numbers, block.tails, strict=True):
            rtp = _RTP_AND_RESERVED.pack(_RTP_FIRST, 0, self._sequence, timestamp, self._ssrc, 0)
            self._sequence = (self._sequence + 1) & 0xFFFF
            datagrams.append(rtp + number + frame_index.to_bytes(4, "little") + tail)
        self._packet_index = (self._packet_index + len(datagrams)) & 0xFFFFFF
        return datagrams


@dataclass(frozen=True, slots=True)
class AssembledFrame:
    """One whole frame, without its header and padding."""

    frame_index: int
    kind: int
    data: bytes
    timestamp: int
    host_latency: int
    recovered_packets: int
    """Data packets that parity had to give back."""


class _Block:
    """The packets of one FEC block that arrived so far."""

    def __init__(self, data_shards: int, parity_shards: int, size: int) -> None:
        self.shape = (data_shards, parity_shards, size)
        self.shards: list[bytes | None] = [None] * (data_shards + parity_shards)
        self.received = 0
        self.payload: bytes | None = None
        self.recovered = 0

    def add(self, index: int, shard: bytes) -> bool:
        """Take one packet's payload; solves the block as soon as any D packets are there.

        Tells whether this packet was the one that did it.
        """
        if self.payload is not None or self.shards[index] is not None:
            return False
        self.shards[index] = shard
        self.received += 1
        count = self.shape[0]
        if self.received < count:
            return False
        data = self.shards[:count]
        self.recovered = data.count(None)
        solved = fec.recover(data, self.shards[count:])
        self.payload = b"".join(solved)
        self.shards.clear()
        return True


class _Pending:
    """One frame that is not whole yet."""

    def __init__(self, timestamp: int, blocks: int) -> None:
        self.timestamp = timestamp
        self.blocks: list[_Block | None] = [None] * blocks


class FrameAssembler:
    """Puts the datagrams of one stream together to frames, through reordering and loss.

    A frame that is not whole when a later one is, is lost. At most `max_pending_frames` are kept.
    """

    def __init__(self, *, max_pending_frames: int = 8) -> None:
        self._max_pending_frames = max_pending_frames
        self._pending: dict[int, _Pending] = {}
        self._last_index: int | None = None
        self.lost_frames = 0
        """Frames between delivered ones that never became whole."""
        self.late_packets = 0
        """Packets of frames that were delivered or given up already: duplicates, spare parity."""

    def receive(self, datagram: bytes) -> AssembledFrame | None:
        """Take a datagram; give the frame that it completes. Raises Malformed, TooLarge."""
        index, number, last_number, shard, data, parities = ShardPlace.parse(datagram)
        if data + parities > fec.MAX_SHARDS and parities:
            raise TooLarge("video_block", f"FEC block of {data + parities} packets")
        if self._last_index is not None and index <= self._last_index:
            self.late_packets += 1
            return None
        pending = self._pending.get(index)
        if pending is None:
            timestamp = int.from_bytes(datagram[4:8], "big")
            pending = self._pending[index] = _Pending(timestamp, last_number + 1)
            if len(self._pending) > self._max_pending_frames:
                del self._pending[min(self._pending)]
        blocks = pending.blocks
        if last_number + 1 != len(blocks):
            raise Malformed("video_block", "packets of one frame disagree on its blocks")
        payload = datagram[VIDEO_HEADER_BYTES:]
        block = blocks[number]
        if block is None:
            block = blocks[number] = _Block(data, parities, len(payload))
        if (data, parities, len(payload)) != block.shape:
            raise Malformed("video_block", "packets of one FEC block disagree on its shape")
        if not block.add(shard, payload):
            return None
        if any(other is None or other.payload is None for other in blocks):
            return None
        return self._finish(index, pending)

    def _finish(self, index: int, pending: _Pending) -> AssembledFrame:
        if self._last_index is not None:
            self.lost_frames += index - self._last_index - 1
        self._last_index = index
        self._pending = {other: kept for other, kept in self._pending.items() if other > index}
        blocks = [block for block in pending.blocks if block is not None]
        padded = b"".join(block.payload for block in blocks if block.payload is not None)
        header = FrameHeader.parse(padded)
        size = blocks[-1].shape[2]
        padding = size - header.last_payload_length
        if not 0 <= padding < size or len(padded) - padding < FRAME_HEADER_BYTES:
            raise Malformed("frame_header", "impossible length of a frame's last packet")
        return AssembledFrame(
            index,
            header.kind,
            padded[FRAME_HEADER_BYTES : len(padded) - padding],
            pending.timestamp,
            header.host_latency,
            sum(block.recovered for block in blocks),
        )
