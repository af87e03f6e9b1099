"""The test card as H.264: one access unit a frame, at exactly the bitrate that was asked for.

A still picture compresses to almost nothing, and would then prove nothing about a path that must
carry 20 Mbit/s. So x264 runs in its broadcast mode: constant bitrate with filler data, a buffer
of little more than a frame, no B-frames, no lookahead, no key frame but those asked for.
"""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from typing import Final

import av
from av.video.frame import PictureType

from simulator.picture import EncodedFrame
from simulator.testcard import MIN_HEIGHT, MIN_WIDTH, TestCard

MAX_WIDTH: Final = 4096
MAX_HEIGHT: Final = 2304
MAX_FPS: Final = 240
MIN_BITRATE_KBPS: Final = 100
MAX_BITRATE_KBPS: Final = 500_000

# How much larger than its share of the bitrate a frame may be, in tenths of a frame.
_BUFFER_TENTHS_OF_FRAME: Final = 15
_X264_PARAMETERS: Final = (
    "nal-hrd=cbr:filler=1:keyint=infinite:scenecut=0:sliced-threads=0"
    ":vbv-maxrate={kbps}:vbv-bufsize={buffer}"
)


def check_mode(width: int, height: int, fps: int) -> None:
    """Raise ValueError, with a sentence for the client, where the picture cannot be made."""
    if width % 2 or height % 2:
        raise ValueError(f"The host makes pictures of even sizes only, not {width}x{height}")
    if not (MIN_WIDTH <= width <= MAX_WIDTH and MIN_HEIGHT <= height <= MAX_HEIGHT):
        raise ValueError(
            f"The host makes pictures from {MIN_WIDTH}x{MIN_HEIGHT} to {MAX_WIDTH}x{MAX_HEIGHT}, "
            f"not {width}x{height}"
        )
    if not 0 < fps <= MAX_FPS:
        raise ValueError(f"The host makes up to {MAX_FPS} frames a second, not {fps}")


def bounded_bitrate_kbps(asked_kbps: int) -> int:
    """The bitrate nearest to what was asked that the encoder can do."""
    return min(max(asked_kbps, MIN_BITRATE_KBPS), MAX_BITRATE_KBPS)


class CardEncoder:
    """Draws and encodes one session's frames. Not thread-safe: one call at a time."""

    def __init__(self, card: TestCard, *, fps: int, bitrate_kbps: int) -> None:
        self._card = card
        self._counter = 0
        codec = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = card.width, card.height, "yuv420p"
        codec.time_base = Fraction(1, fps)
        codec.framerate = Fraction(fps, 1)
        codec.bit_rate = bitrate_kbps * 1000
        codec.thread_count = 1
        buffer_kbit = max(1, bitrate_kbps * _BUFFER_TENTHS_OF_FRAME // (fps * 10))
        codec.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "forced-idr": "1",
            "x264-params": _X264_PARAMETERS.format(kbps=bitrate_kbps, buffer=buffer_kbit),
        }
        codec.open()
        self._codec = codec

    def encode(self, clock: str, *, idr: bool) -> EncodedFrame:
        """The next frame, which takes about a millisecond at 720p: call it in a thread.

        The first one is an IDR frame whether asked for or not.
        """
        idr = idr or self._counter == 0
        frame = self._card.draw(self._counter + 1, clock)
        frame.pts = self._counter
        frame.pict_type = PictureType.I if idr else PictureType.NONE
        data = b"".join(bytes(packet) for packet in self._codec.encode(frame))
        self._counter += 1
        return EncodedFrame(data, idr)


class CardPicture:
    """The test card with the time of day on it, as a session's picture."""

    repeats = False

    def __init__(self, encoder: CardEncoder) -> None:
        self._encoder = encoder

    def next_frame(self, *, idr: bool) -> EncodedFrame:
        """Draw and encode the frame of this moment; see `Picture`."""
        clock = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:12]
        return self._encoder.encode(clock, idr=idr)
