"""Frames for load tests: the asked bitrate in bytes prepared once, which no decoder understands.

Encoding a test card for many sessions would measure the encoder. These frames cost nothing to make
and are all else that frames are: of even size, an IDR frame first and on request, several times
larger than the others. Each begins with its session's stamp, so that a client can tell whether the
picture it gets is its own.
"""

from __future__ import annotations

import random
import struct
from typing import Final

from simulator.picture import EncodedFrame

IDR_SIZE: Final = 4
"""How many times larger than another frame an IDR frame is."""
_NAL_START: Final = b"\0\0\0\1"
_IDR_SLICE: Final = _NAL_START + b"\x65"
_PREDICTED_SLICE: Final = _NAL_START + b"\x41"
_MARK: Final = b"moonhost noise "
_STAMP: Final = struct.Struct(">I")
_STAMP_AT: Final = len(_IDR_SLICE) + len(_MARK)


class NoisePicture:
    """One session's frames. Every P frame holds the same bytes, and every IDR frame."""

    repeats = True

    def __init__(self, *, fps: int, bitrate_kbps: int, stamp: int) -> None:
        """`stamp` is what the client knows its session by; 32 bits of it are kept."""
        size = max(bitrate_kbps * 125 // fps, _STAMP_AT + _STAMP.size)
        self._predicted = EncodedFrame(_frame(_PREDICTED_SLICE, stamp, size), idr=False)
        self._idr = EncodedFrame(_frame(_IDR_SLICE, stamp, size * IDR_SIZE), idr=True)
        self._begun = False

    def next_frame(self, *, idr: bool) -> EncodedFrame:
        """Give the frame that is next; see `Picture`."""
        idr = idr or not self._begun
        self._begun = True
        return self._idr if idr else self._predicted


def noise_stamp(frame: bytes) -> int | None:
    """Read the stamp of a noise frame; None for a frame of any other picture."""
    begin = frame[: _STAMP_AT + _STAMP.size]
    if len(begin) < _STAMP_AT + _STAMP.size or begin[len(_IDR_SLICE) : _STAMP_AT] != _MARK:
        return None
    stamp: int = _STAMP.unpack_from(begin, _STAMP_AT)[0]
    return stamp


def _frame(slice_start: bytes, stamp: int, size: int) -> bytes:
    head = slice_start + _MARK + _STAMP.pack(stamp & 0xFFFFFFFF)
    # Without zeros no start code can appear in it, as in a real slice.
    body = random.Random(size).randbytes(size - len(head)).replace(b"\0", b"\1")
    return head + body
