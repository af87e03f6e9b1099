"""A small bitmap font, so that text can be burned into pictures without any font file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Plane: TypeAlias = npt.NDArray[np.uint8]

GLYPH_WIDTH: Final = 5
GLYPH_HEIGHT: Final = 7
ADVANCE: Final = GLYPH_WIDTH + 1
"""Columns from one glyph to the next, the gap included."""

# One line a glyph: the character, then its seven rows from top to bottom.
_DRAWINGS: Final = """
A .###. #...# #...# ##### #...# #...# #...#
B ####. #...# #...# ####. #...# #...# ####.
C .#### #.... #.... #.... #.... #.... .####
D ####. #...# #...# #...# #...# #...# ####.
E ##### #.... #.... ####. #.... #.... #####
F ##### #.... #.... ####. #.... #.... #....
G .#### #.... #.... #..## #...# #...# .###.
H #...# #...# #...# ##### #...# #...# #...#
I .###. ..#.. ..#.. ..#.. ..#.. ..#.. .###.
J ..### ...#. ...#. ...#. ...#. #..#. .##..
K #...# #..#. #.#.. ##... #.#.. #..#. #...#
L #.... #.... #.... #.... #.... #.... #####
M #...# ##.## #.#.# #.#.# #...# #...# #...#
N #...# ##..# ##..# #.#.# #..## #..## #...#
O .###. #...# #...# #...# #...# #...# .###.
P ####. #...# #...# ####. #.... #.... #....
Q .###. #...# #...# #...# #.#.# #..#. .##.#
R ####. #...# #...# ####. #.#.. #..#. #...#
S .#### #.... #.... .###. ....# ....# ####.
T ##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..
U #...# #...# #...# #...# #...# #...# .###.
V #...# #...# #...# #...# .#.#. .#.#. ..#..
W #...# #...# #...# #.#.# #.#.# ##.## #...#
X #...# .#.#. .#.#. ..#.. .#.#. .#.#. #...#
Y #...# #...# .#.#. ..#.. ..#.. ..#.. ..#..
Z ##### ....# ...#. ..#.. .#... #.... #####
0 .###. #...# #..## #.#.# ##..# #...# .###.
1 ..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.
2 .###. #...# ....# ..##. .#... #.... #####
3 ####. ....# ....# .###. ....# ....# ####.
4 ...#. ..##. .#.#. #..#. ##### ...#. ...#.
5 ##### #.... ####. ....# ....# #...# .###.
6 ..##. .#... #.... ####. #...# #...# .###.
7 ##### ....# ...#. ...#. ..#.. ..#.. ..#..
8 .###. #...# #...# .###. #...# #...# .###.
9 .###. #...# #...# .#### ....# ...#. .##..
. ..... ..... ..... ..... ..... .##.. .##..
, ..... ..... ..... ..... .##.. .##.. .#...
: ..... .##.. .##.. ..... .##.. .##.. .....
- ..... ..... ..... ##### ..... ..... .....
_ ..... ..... ..... ..... ..... ..... #####
/ ....# ....# ...#. ..#.. .#... #.... #....
+ ..... ..#.. ..#.. ##### ..#.. ..#.. .....
( ...#. ..#.. .#... .#... .#... ..#.. ...#.
) .#... ..#.. ...#. ...#. ...#. ..#.. .#...
? .###. #...# ....# ..##. ..#.. ..... ..#..
"""


def _bitmaps() -> Mapping[str, Plane]:
    bitmaps: dict[str, Plane] = {" ": np.zeros((GLYPH_HEIGHT, ADVANCE), np.uint8)}
    for line in _DRAWINGS.strip().splitlines():
        character, *rows = line.split(" ")
        pixels = [[pixel == "#" for pixel in row + "."] for row in rows]
        bitmaps[character] = np.array(pixels, np.uint8)
    return MappingProxyType(bitmaps)


_BITMAPS: Final = _bitmaps()


def width(text: str, scale: int) -> int:
    """The width in pixels of `text`, the gap after its last glyph included."""
    return len(text) * ADVANCE * scale


class Face:
    """The glyphs at one size and in two shades, ready to be copied into a luma plane."""

    def __init__(self, scale: int, *, ink: int, paper: int) -> None:
        self.scale = scale
        self.height = GLYPH_HEIGHT * scale
        self._advance = ADVANCE * scale
        block = np.ones((scale, scale), np.uint8)
        self._glyphs = {
            character: np.where(np.kron(bitmap, block) == 1, np.uint8(ink), np.uint8(paper))
            for character, bitmap in _BITMAPS.items()
        }

    def draw(self, plane: Plane, x: int, y: int, text: str) -> None:
        """Write `text` with its upper left corner at (x, y); what does not fit is left out.

        Lower case becomes upper case; a character that the font lacks becomes ``?``.
        """
        if y < 0 or y + self.height > plane.shape[0]:
            return
        missing = self._glyphs["?"]
        for character in text.upper():
            if x + self._advance > plane.shape[1]:
                return
            glyph = self._glyphs.get(character, missing)
            plane[y : y + self.height, x : x + self._advance] = glyph
            x += self._advance
