"""What `moonhost simulate-host` was told, made into a simulated host's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.host_kinds import (
    API_OFFSET,
    AUDIO_OFFSET,
    CONTROL_OFFSET,
    HTTPS_OFFSET,
    MAX_BASE_PORT,
    MIN_BASE_PORT,
    RTSP_OFFSET,
    VIDEO_OFFSET,
)
from moonhost.cli_options import max_bitrate_kbps
from moonhost.errors import CommandFailed
from settings import read_secret
from simulator.config import HostConfig, Traps
from simulator.picture import PictureKind

worlds: Final = {
    "wolf-2026": Traps.wolf_2026,
    "wolf-2024": Traps.wolf_2024,
    "sunshine": Traps.sunshine,
    "ideal": Traps.none,
}
pictures: Final[Mapping[str, PictureKind]] = {"card": "card", "noise": "noise"}
max_slowdown: Final = 100
_sunshine: Final = "sunshine"
_wolf_video_offset: Final = 111
_wolf_audio_offset: Final = 211
"""From base port to Wolf's usual 48100 and 48200."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The command's options; ports that are None follow from the kind of host."""

    name: str
    region: str
    address: str
    behave_like: str
    base_port: int
    ports: Mapping[str, int | None]
    api_socket: Path | None
    api_username: str
    api_password_file: Path | None
    state_dir: Path | None
    picture: str
    max_mbps: float | None
    slowdown: float
    max_sessions: int


def host_config(wish: Wish) -> HostConfig:
    """Make the configuration.

    Raises:
        CommandFailed: an option has a value that makes no sense.
        settings.ConfigError: the password's file cannot be used.

    """
    if wish.behave_like not in worlds:
        raise CommandFailed(f"--behave-like is one of {', '.join(worlds)}.")
    if wish.picture not in pictures:
        raise CommandFailed(f"--picture is one of {', '.join(pictures)}.")
    if wish.max_mbps is not None and not 0.1 <= wish.max_mbps <= max_bitrate_kbps / 1000:
        raise CommandFailed(f"--max-mbps is from 0.1 to {max_bitrate_kbps // 1000}.")
    if not 1 <= wish.slowdown <= max_slowdown:
        raise CommandFailed(f"--slowdown is from 1 to {max_slowdown}.")
    if not MIN_BASE_PORT <= wish.base_port <= MAX_BASE_PORT:
        raise CommandFailed(f"--base-port is from {MIN_BASE_PORT} to {MAX_BASE_PORT}.")
    ports = _ports(wish)
    password = None if wish.api_password_file is None else read_secret(wish.api_password_file)
    return HostConfig(
        name=wish.name,
        region=wish.region,
        address=wish.address,
        http_port=ports["http"],
        https_port=ports["https"],
        rtsp_port=ports["rtsp"],
        video_port=ports["video"],
        audio_port=ports["audio"],
        control_port=ports["control"],
        api_socket=wish.api_socket,
        # Without a password anybody on this machine could pair.
        api_port=ports["api"] if password is not None else None,
        api_username=wish.api_username,
        api_password=password or "",
        state_dir=wish.state_dir,
        traps=worlds[wish.behave_like](),
        picture=pictures[wish.picture],
        slowdown=wish.slowdown,
        max_bitrate_kbps=None if wish.max_mbps is None else round(wish.max_mbps * 1000),
        max_sessions=wish.max_sessions,
    )


def _ports(wish: Wish) -> dict[str, int]:
    base = wish.base_port
    usual = {
        "http": base,
        "https": base + HTTPS_OFFSET,
        "api": base + API_OFFSET,
        "rtsp": base + RTSP_OFFSET,
        "control": base + CONTROL_OFFSET,
        "video": base + (VIDEO_OFFSET if wish.behave_like == _sunshine else _wolf_video_offset),
        "audio": base + (AUDIO_OFFSET if wish.behave_like == _sunshine else _wolf_audio_offset),
    }
    stated = {name: port for name, port in wish.ports.items() if port is not None}
    return usual | stated
