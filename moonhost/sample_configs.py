"""Configuration files for an edge and agents on one machine, as the demo and the tests use them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moonhost.ports import find_shift
from proxy.config import ProxyConfig

min_rtsp_ports: Final = 8
own_udp_ports: Final = 12
_first_rtsp_port: Final = 48010
lowest_port: Final = 47980
_edge_tcp: Final = (lowest_port, 47981, 47984, 47989)
_edge_udp: Final = (47998, 47999, 48000, *range(48074, 48074 + own_udp_ports))


def write_edge_config(
    folder: Path,
    listen: str = "127.0.0.1",
    *,
    shift_from: int = 0,
    settings: str = "",
    rtsp_ports: int = min_rtsp_ports,
) -> Path:
    """Write an edge's configuration on ports that are free now, and return its path.

    Moonlight's standard ports are taken where they are free, shifted as a block where not.
    `settings` is TOML for the end of the file. There are as many RTSP ports as clients of one
    address may need at once.

    Raises:
        moonhost.ports.NoRoom: there is no such block.

    """
    rtsp = range(_first_rtsp_port, _first_rtsp_port + max(rtsp_ports, min_rtsp_ports))
    shift = find_shift(listen, (*_edge_tcp, *rtsp), _edge_udp, start=shift_from)
    path = folder / "edge.toml"
    path.write_text(
        f"""\
name = "moonhost here"
hostname = "127.0.0.1"
state_dir = {json.dumps(str(folder / "edge"))}

[listen]
addresses = [{json.dumps(listen)}]
http_port = {47989 + shift}
https_port = {47984 + shift}
rtsp_ports = "{rtsp[0] + shift}-{rtsp[-1] + shift}"
video_port = {47998 + shift}
control_port = {47999 + shift}
audio_port = {48000 + shift}
own_udp_ports = "{48074 + shift}-{48074 + shift + own_udp_ports - 1}"

[agents]
addresses = ["127.0.0.1"]
port = {47981 + shift}

[admin]
port = {lowest_port + shift}

{settings}
"""
    )
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleHost:
    """One host and where its agent finds it."""

    name: str
    """Of the agent, and of its token; the host itself is called ``host``."""
    region: str
    address: str
    http_port: int
    https_port: int
    rtsp_port: int
    udp_ports: str
    wolf_socket: Path
    max_sessions: int = 4
    latitude: float = 0.0
    longitude: float = 0.0
    settings: str = ""
    """TOML for the end of the host's section."""


def write_agent_config(folder: Path, edge: ProxyConfig, host: SampleHost, token: str) -> Path:
    """Write an agent's token and configuration, and return the path of the latter."""
    token_path = folder / f"{host.name}.token"
    token_path.touch(mode=0o600)
    token_path.write_text(token)
    path = folder / f"agent-{host.name}.toml"
    address = edge.agents.addresses[0]
    where = f"[{address}]" if ":" in address else address
    path.write_text(
        f"""\
[edge]
url = "wss://{where}:{edge.agents.port}"
token_file = {json.dumps(str(token_path))}
ca_file = {json.dumps(str(edge.state_dir / "agents.pem"))}

[agent]
id = "{host.name}"
region = "{host.region}"
latitude = {host.latitude}
longitude = {host.longitude}

[[hosts]]
name = "host"
kind = "wolf"
address = "{host.address}"
http_port = {host.http_port}
https_port = {host.https_port}
rtsp_port = {host.rtsp_port}
udp_ports = "{host.udp_ports}"
wolf_socket = {json.dumps(str(host.wolf_socket))}
max_sessions = {host.max_sessions}
{host.settings}
"""
    )
    return path
