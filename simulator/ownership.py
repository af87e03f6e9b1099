"""Whose is what a client receives? Told from what it is sure to know: its session's own secrets.

Audio and control are sealed under the session's key. Video is not, and a wrong key opens one audio
packet in 256; so a host for load tests writes the session's stamp into every datagram (as SSRC,
which no client looks at) and every frame. What came from a host that writes none names nobody, and
is then neither the session's own nor another's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_SSRC: Final = slice(8, 12)


class Whose(StrEnum):
    """What was seen of one flow, from launch to the end."""

    OWN = "own"
    """All of it was the session's."""
    FOREIGN = "foreign"
    """Some of it was another session's."""
    UNNAMED = "unnamed"
    """It came, but the host does not tell whose it is."""
    NOTHING = "nothing"

    @classmethod
    def judge(cls, *, own: int, foreign: int, unnamed: int = 0) -> Whose:
        """Judge by how many pieces were whose."""
        if foreign:
            return cls.FOREIGN
        if unnamed:
            return cls.UNNAMED
        return cls.OWN if own else cls.NOTHING


@dataclass(frozen=True, slots=True)
class Ownership:
    """What one session saw."""

    video: Whose
    audio: Whose
    control: Whose

    @property
    def mixed_up(self) -> bool:
        """Whether anything of another session reached this one."""
        return Whose.FOREIGN in (self.video, self.audio, self.control)


def stamp_of(rikeyid: int) -> int:
    """Name a session by 32 bits that client and host both know."""
    return rikeyid & 0xFFFFFFFF


class StampedDatagrams:
    """Counts the datagrams of one flow that carry the session's stamp, and those that do not."""

    def __init__(self, stamp: int) -> None:
        self._ssrc = stamp.to_bytes(4, "big")
        self._own = 0
        self._others = 0

    @property
    def foreign(self) -> int:
        """Datagrams with another stamp; 0 where none came with ours: that host writes none."""
        return self._others if self._own else 0

    def note(self, datagram: bytes) -> bool:
        """Count one; tells whether it carries the session's stamp."""
        own = datagram[_SSRC] == self._ssrc
        if own:
            self._own += 1
        else:
            self._others += 1
        return own
