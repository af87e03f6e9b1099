"""Synthetic video that has everything a relay looks at: RTP and NV headers, parity, bursts.

A frame is `FrameShape.datagrams` datagrams of one size, data shards first, sent at once. Each
carries the time at which its frame was made, in nanoseconds of the machine's monotonic clock, so
that whoever receives it on the same machine knows its age.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moonlight.rtp import VIDEO_HEADER_BYTES, VideoFlags, fec_info, multi_fec_blocks

fec_percentage: Final = 20
max_block_shards: Final = 200
max_blocks: Final = 4
min_datagram_bytes: Final = VIDEO_HEADER_BYTES + 8
audio_data_bytes: Final = 76
audio_parity_bytes: Final = 88

_RTP: Final = struct.Struct(">BBHIII")
_NV: Final = struct.Struct("<IIBBBBI")
_TIME: Final = struct.Struct(">Q")

# What `read` gives of each datagram; the bytes between are not looked at.
header_type: Final = np.dtype(
    {
        "names": ["sequence", "frame", "place", "fec", "made_ns"],
        "formats": [">u2", "<u4", "u1", "<u4", ">u8"],
        "offsets": [2, 20, 27, 28, 32],
        "itemsize": min_datagram_bytes,
    }
)


@dataclass(frozen=True, slots=True)
class Block:
    """One FEC block of a frame, in shards."""

    data: int
    parity: int


@dataclass(frozen=True, slots=True)
class FrameShape:
    """What every frame of a stream looks like."""

    datagram_bytes: int
    blocks: tuple[Block, ...]

    @classmethod
    def of_rate(cls, mbps: float, fps: int, datagram_bytes: int) -> FrameShape:
        """Shape frames so that the stream, parity included, takes `mbps` of UDP payload.

        Raises:
            ValueError: the bitrate is too high for four blocks, or the datagrams too small.

        """
        if datagram_bytes < min_datagram_bytes:
            raise ValueError(f"datagrams have at least {min_datagram_bytes} bytes")
        total = max(1, round(mbps * 1e6 / 8 / fps / datagram_bytes))
        count = -(-total // max_block_shards)
        if count > max_blocks:
            raise ValueError(f"{mbps} Mbit/s at {fps} fps does not fit into {max_blocks} blocks")
        blocks = []
        for index in range(count):
            shards = total // count + (index < total % count)
            data = max(1, shards * 100 // (100 + fec_percentage))
            # The receiver computes parity from data; a shard may be lost to the rounding.
            blocks.append(Block(data, -(-data * fec_percentage // 100)))
        return cls(datagram_bytes, tuple(blocks))

    @property
    def datagrams(self) -> int:
        """How many datagrams a frame has."""
        return sum(block.data + block.parity for block in self.blocks)


class FrameWriter:
    """Writes the frames of one stream into one buffer, time after time."""

    def __init__(self, shape: FrameShape) -> None:
        self._shape = shape
        self._sequence = 0
        self._frame = 0
        self._buffer = bytearray(shape.datagrams * shape.datagram_bytes)
        self._view = memoryview(self._buffer)
        self._starts = range(0, len(self._buffer), shape.datagram_bytes)
        last = len(shape.blocks) - 1
        at = iter(self._starts)
        for index, block in enumerate(shape.blocks):
            for shard in range(block.data + block.parity):
                flags = VideoFlags.PICTURE_DATA.value
                flags |= VideoFlags.START_OF_FRAME.value * (shard == 0)
                flags |= VideoFlags.END_OF_FRAME.value * (shard == block.data - 1)
                start = next(at)
                _RTP.pack_into(self._buffer, start, 0x90, 0, 0, 0, 0, 0)
                _NV.pack_into(
                    self._buffer,
                    start + 16,
                    0,
                    0,
                    flags,
                    0,
                    0x10,
                    multi_fec_blocks(index, last),
                    fec_info(shard, block.data, fec_percentage),
                )

    def next(self, made_ns: int) -> memoryview:
        """Return the next frame; good until the next call."""
        self._frame += 1
        headers = np.ndarray(
            (self._shape.datagrams,),
            dtype=header_type,
            buffer=self._buffer,
            strides=(self._shape.datagram_bytes,),
        )
        count = self._shape.datagrams
        headers["sequence"] = (np.arange(count) + self._sequence) & 0xFFFF
        headers["frame"] = self._frame
        headers["made_ns"] = made_ns
        self._sequence = (self._sequence + count) & 0xFFFF
        return self._view


def read(data: memoryview, datagram_bytes: int) -> NDArray[np.void]:
    """Return the headers of datagrams of one size that stand back to back in `data`."""
    return np.ndarray(
        (len(data) // datagram_bytes,),
        dtype=header_type,
        buffer=data,
        strides=(datagram_bytes,),
    )


def audio_datagram(sequence: int, made_ns: int, *, parity: bool) -> bytes:
    """Return one audio datagram; parity is numbered apart."""
    head = _RTP.pack(0x80, 127 if parity else 97, sequence & 0xFFFF, 0, 0, 0)
    size = audio_parity_bytes if parity else audio_data_bytes
    return (head + bytes(VIDEO_HEADER_BYTES - len(head)) + _TIME.pack(made_ns)).ljust(size, b"\0")
