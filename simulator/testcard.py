"""The picture a simulated host streams: bars, its region's name, a clock and a frame counter.

The background is painted once for each session. A frame costs only the glyphs that changed, the
moving bar and 32 squares; nearly all time of a frame is the encoder's.

The squares along the upper edge are the frame counter once more, most significant bit first and
white for one, so that a program can read back which frame it decoded.
"""

from __future__ import annotations

import hashlib
from typing import Final

import av
import numpy as np

from simulator.font import ADVANCE, GLYPH_HEIGHT, Face, Plane, width

COUNTER_BITS: Final = 32
MIN_WIDTH: Final = 128
MIN_HEIGHT: Final = 96

# Limited-range luma: black and white as H.264 players expect them.
_BLACK: Final = 16
_WHITE: Final = 235
_PAPER: Final = 40

# Colour bars at 75 %: (luma, blue difference, red difference), limited range BT.601.
_BARS: Final = (
    (180, 128, 128),
    (162, 44, 142),
    (131, 156, 44),
    (112, 72, 58),
    (84, 184, 198),
    (65, 100, 212),
    (35, 212, 114),
    (104, 128, 128),
)


def read_counter(luma: Plane) -> int:
    """The frame counter of a decoded picture, read from the squares of its luma plane."""
    square = _square(luma.shape[1])
    counter = 0
    for bit in range(COUNTER_BITS):
        left = bit * square
        # The middle of a square only: what the encoder smears is its border.
        middle = luma[
            square // 4 : square - square // 4, left + square // 4 : left + square * 3 // 4
        ]
        counter = counter << 1 | int(float(middle.mean()) > (_BLACK + _WHITE) / 2)
    return counter


def _square(picture_width: int) -> int:
    """The side of one counter square; even, as chroma wants it."""
    return picture_width // COUNTER_BITS & ~1


class TestCard:
    """One picture, drawn over and over in place.

    `frame` is what to encode; its planes are written to by `draw`, so it must have been encoded
    before the next one is drawn (x264 copies what it is given). Sizes are even, and no less than
    `MIN_WIDTH` by `MIN_HEIGHT`.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    def __init__(self, picture_width: int, picture_height: int, *, region: str, title: str) -> None:
        self.width = picture_width
        self.height = picture_height
        self.frame = av.VideoFrame(picture_width, picture_height, "yuv420p")
        self._luma, self._blue, self._red = (
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
                :, : plane.width
            ]
            for plane in self.frame.planes
        )
        self._square = _square(picture_width)
        scale = max(1, picture_width // (ADVANCE * 20))
        self._face = Face(scale, ink=_WHITE, paper=_PAPER)
        self._clock_at = self._paint(region, title)
        self._bar_y = picture_height * 3 // 4
        self._bar_height = picture_height // 16
        self._bar_width = max(4, picture_width // 32)
        self._bar_x = 0
        self._bar_background = self._luma[
            self._bar_y : self._bar_y + self._bar_height, : self._bar_width
        ].copy()

    def draw(self, counter: int, clock: str) -> av.VideoFrame:
        """Bring the picture to frame number `counter`, with `clock` written beside it."""
        x, y = self._clock_at
        self._face.draw(self._luma, x, y, clock)
        self._face.draw(self._luma, x, y + self._face.height * 3 // 2, f"FRAME {counter:08d}")
        self._draw_squares(counter)
        self._move_bar(counter)
        return self.frame

    def _paint(self, region: str, title: str) -> tuple[int, int]:
        """Paint what never changes; returns where the clock goes."""
        for index, (luma, blue, red) in enumerate(_BARS):
            left, right = (edge * self.width // 16 * 2 for edge in (index, index + 1))
            right = self.width if index == len(_BARS) - 1 else right
            self._luma[:, left:right] = luma
            self._blue[:, left // 2 : right // 2] = blue
            self._red[:, left // 2 : right // 2] = red
        self._paint_ramp()
        return self._paint_panel(region, title)

    def _paint_ramp(self) -> None:
        """A grey ramp along the lower edge; the moving bar runs above it."""
        top = self.height * 7 // 8 & ~1
        middle = self.height * 3 // 4 & ~1
        self._luma[middle:top] = 150
        self._luma[top:] = np.linspace(_BLACK, _WHITE, self.width).astype(np.uint8)
        self._blue[middle // 2 :] = 128
        self._red[middle // 2 :] = 128

    def _paint_panel(self, region: str, title: str) -> tuple[int, int]:
        """A dark panel in a colour of the region's own, its name and the app's title on it."""
        line = GLYPH_HEIGHT * self._face.scale * 3 // 2
        left = self.width // 10 & ~1
        right = self.width - left
        top = self._square * 2
        bottom = min(top + line * 4 + line, self.height * 3 // 4) & ~1
        tint = hashlib.sha256(region.encode()).digest()
        self._luma[top:bottom, left:right] = _PAPER
        self._blue[top // 2 : bottom // 2, left // 2 : right // 2] = 96 + tint[0] % 64
        self._red[top // 2 : bottom // 2, left // 2 : right // 2] = 96 + tint[1] % 64
        text_x = left + self._face.scale * 4
        room = (right - text_x) // width(" ", self._face.scale)
        text_y = top + line // 2
        self._face.draw(self._luma, text_x, text_y, region[:room])
        self._face.draw(self._luma, text_x, text_y + line, title[:room])
        return text_x, text_y + line * 2

    def _draw_squares(self, counter: int) -> None:
        bits = np.unpackbits(np.frombuffer((counter & 0xFFFFFFFF).to_bytes(4, "big"), np.uint8))
        row = np.repeat(np.where(bits == 1, _WHITE, _BLACK).astype(np.uint8), self._square)
        self._luma[: self._square, : row.size] = row
        self._blue[: self._square // 2, : row.size // 2] = 128
        self._red[: self._square // 2, : row.size // 2] = 128

    def _move_bar(self, counter: int) -> None:
        rows = slice(self._bar_y, self._bar_y + self._bar_height)
        self._luma[rows, self._bar_x : self._bar_x + self._bar_width] = self._bar_background
        self._bar_x = counter * 4 % (self.width - self._bar_width)
        self._luma[rows, self._bar_x : self._bar_x + self._bar_width] = _WHITE
