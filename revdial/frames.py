"""WebSocket's binary frames by the shortest way, since all media is in them.

The library's parser is a generator that copies each part of each frame; for a relay that is most
of what a message costs. `FrameSplitter` takes whole binary frames out of a stream of bytes itself.
Everything else (text, fragments, control frames, whatever is not allowed) it hands to the library
byte for byte, which answers, refuses and closes as RFC 6455 wants it.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from typing import Final

from revdial.framing import Buffer

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - the wheel for this platform has it
    from websockets.utils import apply_mask

_BINARY: Final = 0x82
"""The last, here the only, frame of a binary message."""
_MASKED: Final = 0x80
_MASK_BYTES: Final = 4
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127
_SHORT: Final = struct.Struct(">BB")
_MEDIUM: Final = struct.Struct(">BBH")
_LONG: Final = struct.Struct(">BBQ")
_U16: Final = struct.Struct(">H")
_U64: Final = struct.Struct(">Q")


def binary_frame(message: Buffer, *, masked: bool) -> bytes:
    """Return a binary message as one frame; clients' frames are `masked`."""
    length, bit = len(message), _MASKED * masked
    if length < _LENGTH_16:
        header = _SHORT.pack(_BINARY, bit | length)
    elif length < 1 << 16:
        header = _MEDIUM.pack(_BINARY, bit | _LENGTH_16, length)
    else:
        header = _LONG.pack(_BINARY, bit | _LENGTH_64, length)
    if not masked:
        return b"".join((header, message))
    key = secrets.token_bytes(_MASK_BYTES)
    return b"".join((header, key, apply_mask(message, key)))


class FrameSplitter:
    """Takes what is read from one connection apart, frame by frame.

    Args:
        masked: whether the peer masks its frames, as clients do.
        on_message: takes each binary message that came as one frame.
        on_other: takes every other frame, whole, and tells whether a binary frame that comes next
            would be a message: not where a message in fragments has begun.

    """

    def __init__(
        self,
        *,
        masked: bool,
        on_message: Callable[[Buffer], None],
        on_other: Callable[[Buffer], bool],
    ) -> None:
        self._masked = masked
        self._mask_bytes = _MASK_BYTES * masked
        self._on_message = on_message
        self._on_other = on_other
        self._direct = True
        self._refused = False
        self._kept: list[Buffer] = []
        self._kept_bytes = 0
        self._wanted_bytes = 0

    def feed(self, data: Buffer, max_message_bytes: int) -> None:
        """Take the next bytes; a frame that is longer than that is not waited for."""
        if self._kept:
            self._kept.append(data)
            self._kept_bytes += len(data)
            if self._kept_bytes < self._wanted_bytes:
                return
            data = b"".join(self._kept)
            self._kept = []
            self._kept_bytes = self._wanted_bytes = 0
        view = memoryview(data)
        while view:
            taken = self._take(view, max_message_bytes)
            if not taken:
                return
            view = view[taken:]

    def _take(self, view: memoryview, max_message_bytes: int) -> int:
        """Take the first frame, and return its length; 0 where it is kept until more comes."""
        size, header_bytes = len(view), _SHORT.size
        if size < header_bytes:
            return self._keep(view, header_bytes)
        length = view[1] & ~_MASKED
        if length >= _LENGTH_16:
            packed = _U16 if length == _LENGTH_16 else _U64
            header_bytes += packed.size
            if size < header_bytes:
                return self._keep(view, header_bytes)
            (length,) = packed.unpack_from(view, _SHORT.size)
        is_masked = view[1] >= _MASKED
        if self._refused or length > max_message_bytes or is_masked is not self._masked:
            # The library says what is wrong with it, and hears nothing else from then on.
            self._refused = True
            self._on_other(view)
            return size
        start = header_bytes + self._mask_bytes
        end = start + length
        if size < end:
            return self._keep(view, end)
        if view[0] != _BINARY or not self._direct:
            self._direct = self._on_other(view[:end])
        elif self._mask_bytes:
            self._on_message(apply_mask(view[start:end], bytes(view[header_bytes:start])))
        else:
            self._on_message(view[start:end])
        return end

    def _keep(self, view: memoryview, wanted_bytes: int) -> int:
        self._kept = [view]
        self._kept_bytes = len(view)
        self._wanted_bytes = wanted_bytes
        return 0
