"""An app's box art as a PNG: its title and the host's region on a plain ground."""

from __future__ import annotations

import struct
import zlib
from typing import Final

import numpy as np

from simulator.font import Face, width

_WIDTH: Final = 200
_HEIGHT: Final = 266
_SCALE: Final = 3
_MARGIN: Final = 10
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def box_art(title: str, region: str) -> bytes:
    """Draw the art, in shades of grey; what does not fit is cut."""
    plane = np.full((_HEIGHT, _WIDTH), 60, np.uint8)
    face = Face(_SCALE, ink=235, paper=60)
    per_line = (_WIDTH - 2 * _MARGIN) // width(" ", _SCALE)
    lines = [title[start : start + per_line] for start in range(0, len(title), per_line)]
    for number, line in enumerate([*lines[:6], "", region[:per_line]]):
        face.draw(plane, _MARGIN, _MARGIN + number * face.height * 3 // 2, line)
    header = struct.pack(">IIBBBBB", _WIDTH, _HEIGHT, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in plane)  # 0: a row that is not filtered
    return (
        _SIGNATURE
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows, 9))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
