"""What several commands share: where the edge's configuration is, and JSON for programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from moonhost.errors import CommandFailed, Unreadable
from proxy.config import ProxyConfig
from settings import load_toml

default_proxy_config: Final = Path("/etc/moonhost/proxy.toml")
default_agent_config: Final = Path("/etc/moonhost/agent.toml")
proxy_environment: Final = "MOONHOST_PROXY"
max_bitrate_kbps: Final = 150_000
"""More than any Moonlight asks for."""

ProxyConfigPath = Annotated[
    Path,
    Parameter(name=["--config", "-c"], help="The edge's TOML file.", env_var="MOONHOST_CONFIG"),
]
AgentConfigPath = Annotated[Path, Parameter(name=["--config", "-c"], help="The agent's TOML file.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


def proxy_settings(path: Path) -> ProxyConfig:
    """Load an edge's configuration, overlaid by the environment."""
    return load_toml(existing(path, "config.example.toml"), ProxyConfig, proxy_environment)


def existing(path: Path, example: str) -> Path:
    """Return the path of a file that can be read.

    Raises:
        Unreadable: it, or the folder that it is in, is not ours to read.
        CommandFailed: there is none; it tells about `example`.

    """
    try:
        there = path.exists()
    except PermissionError:
        raise Unreadable(path) from None
    if there and not os.access(path, os.R_OK):
        raise Unreadable(path)
    if not there:
        raise CommandFailed(
            f"{path} does not exist. Name your configuration with --config; "
            f"{example} shows what to put in it."
        )
    return path
