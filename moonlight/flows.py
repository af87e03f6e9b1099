"""The three media streams of a session, so that every layer calls them by one name."""

from __future__ import annotations

from enum import StrEnum


class Flow(StrEnum):
    """One UDP stream of a session, named as RTSP's ``streamid=`` names it."""

    VIDEO = "video"
    AUDIO = "audio"
    CONTROL = "control"
