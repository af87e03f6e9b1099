"""What a datagram of media is, at the least cost: what a relay must know before it drops one.

A shard is told as a pair: the frame it is part of, None where it is of use alone, and whether it
is parity. Nothing is checked beyond what that takes; anything at all is some shard.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

from moonlight.flows import Flow
from moonlight.rtp import AUDIO_FEC_PAYLOAD_TYPE, VIDEO_FIRST, VIDEO_HEADER_BYTES, Bytes

Shard = tuple[int | None, bool]

_MULTI_FEC_FLAGS: Final = 0x10
_FRAME_AND_FEC: Final = struct.Struct("<I4xI")
_ENCRYPTED_FRAME: Final = struct.Struct("<I")


def video_shard(datagram: Bytes) -> Shard:
    """Tell of a video datagram which frame it belongs to and whether it is parity.

    Encrypted video (protocol §6) has the frame's number in front of the ciphertext, and keeps to
    itself what is parity. None for the frame where the datagram is too short to be video.
    """
    if len(datagram) <= VIDEO_HEADER_BYTES:
        return None, False
    if datagram[0] == VIDEO_FIRST and datagram[26] == _MULTI_FEC_FLAGS:
        frame_index, word = _FRAME_AND_FEC.unpack_from(datagram, 20)
        return frame_index, word >> 12 & 0x3FF >= word >> 22
    (frame_index,) = _ENCRYPTED_FRAME.unpack_from(datagram, 12)
    return frame_index, False


def audio_shard(datagram: Bytes) -> Shard:
    """Tell of an audio datagram whether it is parity; each is of use alone."""
    return None, len(datagram) > 1 and datagram[1] & 0x7F == AUDIO_FEC_PAYLOAD_TYPE


shard_of: Final[Mapping[str, Callable[[Bytes], Shard]]] = {
    Flow.VIDEO: video_shard,
    Flow.AUDIO: audio_shard,
}
"""By the kind of flow; `Flow` is text."""
