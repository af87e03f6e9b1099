"""What differs between kinds of hosts in the agent's configuration: ports, places, own settings.

A Sunshine has one base port (its setting `port`), and all others at fixed distances from it. The
defaults of Wolf's ports for HTTP, HTTPS and RTSP are at the same distances from the same base.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

Kind = Literal["wolf", "sunshine"]

DEFAULT_BASE_PORT: Final = 47989
MIN_BASE_PORT: Final = 1029
MAX_BASE_PORT: Final = 65_514
"""As Sunshine bounds its own setting, so that every port beside it is one."""

HTTPS_OFFSET: Final = -5
API_OFFSET: Final = 1
VIDEO_OFFSET: Final = 9
CONTROL_OFFSET: Final = 10
AUDIO_OFFSET: Final = 11
RTSP_OFFSET: Final = 21

_FINGERPRINT: Final = re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")
_MISFITS: Final[Mapping[str, tuple[Kind, str]]] = {
    "wolf_socket": ("wolf", "a Sunshine is asked over api_port"),
    "base_port": ("sunshine", "a Wolf's ports are set one by one"),
    "api_port": ("sunshine", "a Wolf is asked over wolf_socket"),
    "api_username": ("sunshine", "a Wolf is asked over wolf_socket"),
    "api_password": ("sunshine", "a Wolf is asked over wolf_socket"),
    "api_password_file": ("sunshine", "a Wolf is asked over wolf_socket"),
    "api_certificate": ("sunshine", "a Wolf is asked over wolf_socket"),
    "identity_file": ("sunshine", "a Wolf tells its apps to whoever asks over wolf_socket"),
}
ONE_KIND_ONLY: Final = tuple(_MISFITS)
"""The settings that hosts of one kind alone have."""


def port_at(offset: int) -> Callable[[dict[str, Any]], int]:
    """Return what gives a port's default, `offset` from the base port of the settings so far."""
    return lambda settings: _base(settings) + offset


def default_udp_ports(settings: Mapping[str, Any]) -> str:
    """Give the UDP ports of a host: Wolf's with room for ports per session, or Sunshine's three."""
    if settings.get("kind") != "sunshine":
        return "47998-48010,48100-48299"
    base = _base(settings)
    return f"{base + VIDEO_OFFSET}-{base + AUDIO_OFFSET}"


def default_max_sessions(settings: Mapping[str, Any]) -> int:
    """Give how many players a host takes: one where all would be shown the same screen."""
    return 1 if settings.get("kind") == "sunshine" else 4


def misfit(setting: str, settings: Mapping[str, Any]) -> str | None:
    """Tell why a setting is none of this kind of host's; None where it is, or the kind is unknown.

    >>> misfit("wolf_socket", {"kind": "sunshine"})
    'only a host of kind "wolf" has this: a Sunshine is asked over api_port'
    """
    kind, why = _MISFITS[setting]
    if settings.get("kind") in (None, kind):
        return None
    return f'only a host of kind "{kind}" has this: {why}'


def pin_setting(kind: Kind) -> str:
    """Name the setting without which PINs cannot be confirmed."""
    return "api_username and what goes with it" if kind == "sunshine" else "wolf_socket"


def fingerprint_in(text: str) -> str | None:
    """Read a SHA-256 fingerprint as people write it, into lower-case hex; None for anything else.

    >>> fingerprint_in(":".join(["0A"] * 32)) == "0a" * 32
    True
    """
    return text.replace(":", "").lower() if _FINGERPRINT.fullmatch(text) else None


def _base(settings: Mapping[str, Any]) -> int:
    base: int | None = settings.get("base_port")
    return DEFAULT_BASE_PORT if base is None else base
