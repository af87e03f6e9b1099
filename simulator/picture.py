"""What a session's picture is made by: a test card that is encoded, or noise that costs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

PictureKind: TypeAlias = Literal["card", "noise"]
"""A card is what players see; noise is for load, where the encoder must not be what is measured."""


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One access unit in Annex B form."""

    data: bytes = field(repr=False)
    idr: bool


class Picture(Protocol):
    """Makes one session's frames."""

    repeats: bool
    """Whether there is but one IDR frame and one other, again and again, made in no time.

    Their packets are then kept. Otherwise a frame takes so long that no task should wait for it.
    """

    def next_frame(self, *, idr: bool) -> EncodedFrame:
        """Make the next frame, one call at a time. The first one is always an IDR frame."""
