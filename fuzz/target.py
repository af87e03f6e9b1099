"""What a fuzz target is, and how one input becomes chunks, datagrams or texts."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

_REASON: Final = re.compile(r"[a-z][a-z0-9_]*")
_LENGTH: Final = struct.Struct(">H")


class BrokenPromise(Exception):
    """A parser returned something that its documentation rules out."""


@dataclass(frozen=True, slots=True)
class Target:
    """One or a few parsers. `errors` is what they may raise; anything else is a finding."""

    name: str
    modules: tuple[str, ...]
    """Whose parsing this target drives."""
    drive: Callable[[bytes], None]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]

    def __call__(self, data: bytes) -> None:
        """Drive the parsers with one input."""
        try:
            self.drive(data)
        except self.errors as error:
            check_error(error)


def check_error(error: Exception) -> None:
    """Hold an error to what all of ours promise: text and reason fit for logs and metrics."""
    for line in str(error).splitlines():
        promise(line.isprintable(), "an error's text is printable")
    reason = getattr(error, "reason", None)
    if reason is not None and not isinstance(error, UnicodeError):  # whose reason is a sentence
        promise(_REASON.fullmatch(reason) is not None, "an error's reason is a token")


def promise(kept: bool, what: str) -> None:
    """Raise `BrokenPromise` unless kept."""
    if not kept:
        raise BrokenPromise(what)


def chunks(data: bytes) -> tuple[bytes, list[bytes]]:
    """Let the input cut itself: its first byte is the chunk size, 0 for one chunk.

    Give the whole and its chunks.
    """
    size, whole = data[0] if data else 0, data[1:]
    size = size or max(1, len(whole))
    return whole, [whole[at : at + size] for at in range(0, len(whole), size)]


def datagrams(data: bytes) -> Iterator[bytes]:
    """Read an input as datagrams, each behind its u16 length; the last may be cut short."""
    at = 0
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        yield data[at : at + length]
        at += length


def as_datagrams(sent: Iterable[bytes]) -> bytes:
    """Write the input that `datagrams` reads as these."""
    return b"".join(_LENGTH.pack(len(datagram)) + datagram for datagram in sent)
