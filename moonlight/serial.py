"""Numbers of 32 bits that count upwards and wrap: those of pings and of sealed messages."""

from __future__ import annotations

from typing import Final

_NUMBERS: Final = 1 << 32


def is_newer(number: int, than: int | None) -> bool:
    """Tell whether a number comes after another one, of which None is before all.

    >>> is_newer(3, 0xFFFFFFFF), is_newer(0xFFFFFFFF, 3), is_newer(3, 3), is_newer(3, None)
    (True, False, False, True)
    """
    return than is None or 0 < (number - than) % _NUMBERS < _NUMBERS // 2
