"""The edge's configuration: every section, setting, unit and default of its TOML file."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from backends.errors import StoreError
from backends.redis_address import parse_redis_url

MAX_PORT = 65_535
MAX_RTSP_PORTS = 1_024
MAX_SECONDS = 10 * 365 * 24 * 3600

_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?")

Port = Annotated[int, Field(ge=1, le=MAX_PORT)]
Seconds = Annotated[float, Field(gt=0, lt=MAX_SECONDS, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _port_range(text: str) -> str:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError('write a port, or a range of ports as in "48010-48073"')
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high <= MAX_PORT:
        raise ValueError(f"ports go from 1 to {MAX_PORT}, the lower one first")
    if high - low >= MAX_RTSP_PORTS:
        raise ValueError(f"at most {MAX_RTSP_PORTS} ports")
    return text


def _address(text: str) -> str:
    try:
        ip_address(text)
    except ValueError:
        raise ValueError('write an IP address, as in "0.0.0.0" or "::"') from None
    return text


def _hostname(text: str) -> str:
    # The certificate of the agents' port is made for it, and agents look it up.
    if not _HOSTNAME.fullmatch(text):
        try:
            ip_address(text)
        except ValueError:
            raise ValueError("write a host name in plain ASCII letters, or an IP address") from None
    return text


def _redis_url(url: str) -> str:
    try:
        address = parse_redis_url(url)
    except StoreError as error:
        raise ValueError(str(error)) from None
    if address.password is not None:
        raise ValueError(
            "the password does not belong into the URL: put it into a file and name that as "
            "redis_password_file, or set MOONHOST_PROXY__STORE__REDIS_PASSWORD"
        )
    return url


PortRange = Annotated[str, AfterValidator(_port_range)]
Address = Annotated[str, AfterValidator(_address)]
Hostname = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_hostname)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Section):
    """Where clients reach the edge."""

    # Players come from anywhere.
    addresses: Annotated[tuple[Address, ...], Field(min_length=1)] = ("0.0.0.0",)  # noqa: S104
    http_port: Port = 47989
    https_port: Port = 47984
    rtsp_ports: PortRange = "48010-48073"
    video_port: Port = 47998
    control_port: Port = 47999
    audio_port: Port = 48000

    @property
    def rtsp_port_range(self) -> range:
        """The RTSP ports; the first is the one that clients share while nothing is ambiguous."""
        first, _, last = self.rtsp_ports.partition("-")
        return range(int(first), int(last or first) + 1)

    @model_validator(mode="after")
    def _distinct(self) -> Listen:
        tcp = [self.http_port, self.https_port, *self.rtsp_port_range]
        udp = [self.video_port, self.control_port, self.audio_port]
        if len(set(tcp)) < len(tcp):
            raise ValueError("http_port, https_port and rtsp_ports overlap")
        if len(set(udp)) < len(udp):
            raise ValueError("video_port, control_port and audio_port must differ")
        return self


class Agents(_Section):
    """Where agents dial in: WebSockets over TLS."""

    address: Address = "0.0.0.0"  # noqa: S104 - hosts come from anywhere
    port: Port = 443
    certificate: Path | None = None
    private_key: Path | None = None
    max_agents: Count = 1_024
    max_data_connections_per_agent: Count = 512
    spare_data_connections: Annotated[int, Field(ge=0, le=64)] = 4

    @model_validator(mode="after")
    def _both_or_none(self) -> Agents:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together: set both or neither")
        return self


class Admin(_Section):
    """Where ``moonhost pair`` and the other commands reach a running edge."""

    address: Address = "127.0.0.1"
    port: Port = 47980


class StoreConfig(_Section):
    """Where what must outlive an edge is kept: a file of its own, or a server for several edges."""

    kind: Literal["sqlite", "redis"] = "sqlite"
    redis_url: RedisUrl | None = None
    redis_password: SecretStr | None = None
    redis_password_file: Path | None = None
    redis_ca_file: Path | None = None
    redis_prefix: Annotated[str, Field(min_length=1, max_length=64)] = "moonhost:"

    @model_validator(mode="after")
    def _one_store(self) -> StoreConfig:
        if self.kind == "sqlite":
            others = sorted(self.model_fields_set - {"kind"})
            if others:
                raise ValueError(f'{", ".join(others)}: only with kind = "redis"')
            return self
        if self.redis_url is None:
            raise ValueError('kind = "redis" needs redis_url, as in "redis://10.0.0.5:6379/0"')
        if self.redis_password is not None and self.redis_password_file is not None:
            raise ValueError("set redis_password_file or redis_password, and only one of them")
        if self.redis_ca_file is not None and not parse_redis_url(self.redis_url).tls:
            raise ValueError("redis_ca_file is of use only with a rediss:// URL")
        return self


class Selection(_Section):
    """Which backend a launch goes to."""

    sticky_ttl_s: Seconds = 7 * 24 * 3600.0


class Sessions(_Section):
    """How long things may take, and how long they are kept."""

    launch_window_s: Seconds = 30.0
    launch_timeout_s: Seconds = 90.0
    client_silence_timeout_s: Seconds = 12.0
    tunnel_grace_s: Seconds = 30.0
    drain_timeout_s: Seconds = 30.0
    max_sessions: Count = 1_000


class Pairing(_Section):
    """Pairing of clients with the edge."""

    pin_timeout_s: Seconds = 300.0
    max_pending: Count = 256
    max_pending_per_address: Count = 8


class Limits(_Section):
    """What strangers may cost."""

    max_connections: Count = 2_048
    max_connections_per_address: Count = 256
    request_timeout_s: Seconds = 10.0
    keep_alive_timeout_s: Seconds = 20.0


class ProxyConfig(_Section):
    """One edge."""

    name: Annotated[str, Field(min_length=1, max_length=64)] = "moonhost"
    hostname: Hostname
    state_dir: Path = Path("/var/lib/moonhost")
    log_level: str = "info"
    listen: Listen = Listen()
    agents: Agents = Agents()
    admin: Admin = Admin()
    store: StoreConfig = StoreConfig()
    selection: Selection = Selection()
    sessions: Sessions = Sessions()
    pairing: Pairing = Pairing()
    limits: Limits = Limits()

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        if level not in {"debug", "info", "warning", "error"}:
            raise ValueError("one of debug, info, warning, error")
        return level

    def model_post_init(self, _context: Any) -> None:
        """Refuse two TCP listeners on one port."""
        tcp = {self.listen.http_port, self.listen.https_port, *self.listen.rtsp_port_range}
        clashes = [
            f"{section}.port {port} is a port of [listen] already"
            for section, port in (("agents", self.agents.port), ("admin", self.admin.port))
            if port in tcp
        ]
        if self.agents.port == self.admin.port:
            clashes.append("agents.port and admin.port must differ")
        if clashes:
            raise ValueError("; ".join(clashes))
