"""What a slow tunnel may drop first of what a host sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from moonlight.rtp import AUDIO_FEC_PAYLOAD_TYPE, video_shard
from revdial.backlog import Classify, Mark
from revdial.framing import Buffer, FlowKind


def video(datagram: Buffer) -> Mark:
    """Mark a datagram of video: a frame is of use whole, and parity repairs what was lost."""
    return Mark(*video_shard(datagram))


def audio(datagram: Buffer) -> Mark:
    """Mark a datagram of audio: each is of use alone, and some are parity."""
    return Mark(None, len(datagram) > 1 and datagram[1] & 0x7F == AUDIO_FEC_PAYLOAD_TYPE)


marks: Final[Mapping[str, Classify]] = {FlowKind.VIDEO: video, FlowKind.AUDIO: audio}
