"""Reed-Solomon erasure codes of the video and audio streams, fast enough in pure Python.

Both streams send D data shards and P parity shards; any D of them give all the data back. The
field is GF(2^8) with polynomial 0x11d. A parity shard is a sum of data shards times constants;
what the constants are is all that differs between video and audio (protocol §6).

Shards are summed as whole integers. A product with the constant c is split by the bits of c: for
each bit, from the highest, the running sum is doubled (every byte of it, in the field) and the
shards whose constant has that bit are added. So a parity shard costs about D x 4 additions and 7
doublings of kilobyte-sized integers, and no work at all per byte in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from itertools import compress
from operator import xor
from typing import Final

Rows = tuple[bytes, ...]
"""One row a parity shard; byte i of a row is the constant of data shard i."""

MAX_SHARDS: Final = 255
AUDIO_DATA_SHARDS: Final = 4
AUDIO_ROWS: Final[Rows] = (bytes.fromhex("7740380e"), bytes.fromhex("c7a70d6c"))

_POLYNOMIAL: Final = 0x11D


def _powers_and_logarithms() -> tuple[bytes, bytes]:
    powers, logarithms, value = bytearray(510), bytearray(256), 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logarithms[value] = exponent
        value = value << 1 ^ (_POLYNOMIAL if value & 0x80 else 0)
    return bytes(powers), bytes(logarithms)


_POWERS, _LOGARITHMS = _powers_and_logarithms()


def _multiply(a: int, b: int) -> int:
    return _POWERS[_LOGARITHMS[a] + _LOGARITHMS[b]] if a and b else 0


def _inverse(a: int) -> int:
    return _POWERS[255 - _LOGARITHMS[a]]


@lru_cache(maxsize=256)
def video_rows(data_count: int, parity_count: int) -> Rows:
    """Give the rows of a video block: at row j and column i the inverse of (P + i) xor j."""
    too_many = parity_count > 0 and data_count + parity_count > MAX_SHARDS
    if data_count < 1 or parity_count < 0 or too_many:
        raise ValueError(f"no block of {data_count} data and {parity_count} parity shards")
    return tuple(
        bytes(_inverse((parity_count + i) ^ j) for i in range(data_count))
        for j in range(parity_count)
    )


def parity(shards: Sequence[bytes], parity_count: int) -> list[bytes]:
    """Compute the parity shards of a video block of equally long data shards."""
    return encode(shards, video_rows(len(shards), parity_count))


def encode(shards: Sequence[bytes], rows: Rows) -> list[bytes]:
    """Compute the parity shards of equally long data shards, one a row."""
    size = _common_size(shards)
    known = [int.from_bytes(shard, "big") for shard in shards]
    return _combine(known, _select_cached(rows), size)


def recover(
    data: Sequence[bytes | None], parities: Sequence[bytes | None], rows: Rows | None = None
) -> list[bytes]:
    """Fill in missing data shards (None) from as many parity shards.

    Raises ValueError where fewer shards than data shards are there, or unequally long ones.
    `rows` are the video's where not given.
    """
    missing = [i for i, shard in enumerate(data) if shard is None]
    usable = [j for j, shard in enumerate(parities) if shard is not None][: len(missing)]
    if len(usable) < len(missing):
        raise ValueError(f"{len(missing)} shards missing, {len(usable)} parity shards there")
    present = [i for i, shard in enumerate(data) if shard is not None]
    found = {i: shard for i, shard in enumerate(data) if shard is not None}
    if not missing:
        return list(found.values())
    rows = video_rows(len(data), len(parities)) if rows is None else rows
    received = [*(shard for j in usable if (shard := parities[j]) is not None), *found.values()]
    size = _common_size(received)
    # What the present shards leave of each parity shard is a sum of missing ones only.
    inverse = _invert([[rows[j][i] for i in missing] for j in usable])
    of_present = [[rows[j][i] for j in usable] for i in present]
    solved = [bytes((*row, *(_dot(row, column) for column in of_present))) for row in inverse]
    known = [int.from_bytes(shard, "big") for shard in received]
    found.update(zip(missing, _combine(known, _select(tuple(solved)), size), strict=True))
    return [found[i] for i in range(len(data))]


def _common_size(shards: Sequence[bytes]) -> int:
    size = len(shards[0])
    if any(len(shard) != size for shard in shards):
        raise ValueError("the shards of a block are equally long")
    return size


def _dot(row: bytes, column: Sequence[int]) -> int:
    return reduce(xor, (_multiply(a, b) for a, b in zip(row, column, strict=True)))


def _invert(matrix: list[list[int]]) -> Rows:
    """Invert a square matrix by Gauss and Jordan; every one cut from the rows is regular."""
    size = len(matrix)
    work = [[*row, *(int(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(i for i in range(column, size) if work[i][column])
        work[column], work[pivot] = work[pivot], work[column]
        scale = _inverse(work[column][column])
        work[column] = [_multiply(value, scale) for value in work[column]]
        for i, row in enumerate(work):
            if i != column and (factor := row[column]):
                work[i] = [
                    value ^ _multiply(factor, above)
                    for value, above in zip(row, work[column], strict=True)
                ]
    return tuple(bytes(row[size:]) for row in work)


Selectors = tuple[tuple[bytes, ...], ...]


def _select(rows: Rows) -> Selectors:
    """For each row, from the highest bit down, tell which shards have that bit set."""
    return tuple(
        tuple(bytes(constant >> bit & 1 for constant in row) for bit in range(7, -1, -1))
        for row in rows
    )


# A stream meets the same few block shapes all the time; recovery's rows are new each time.
_select_cached = lru_cache(maxsize=64)(_select)


@lru_cache(maxsize=8)
def _masks(size: int) -> tuple[int, int]:
    ones = int.from_bytes(b"\x01" * size, "big")
    return ones, ones * 0x7F


def _combine(shards: list[int], selectors: Selectors, size: int) -> list[bytes]:
    low_bits, without_top_bit = _masks(size)
    reduction = _POLYNOMIAL & 0xFF
    combined = []
    for by_bit in selectors:
        total = 0
        for selector in by_bit:
            overflow = total >> 7 & low_bits
            total = (total & without_top_bit) << 1 ^ overflow * reduction
            total = reduce(xor, compress(shards, selector), total)
        combined.append(total.to_bytes(size, "big"))
    return combined
