"""The agent's configuration: every section, setting, unit and default of its TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from agent.gpus import gpu_id, max_gpus
from agent.host_kinds import (
    API_OFFSET,
    HTTPS_OFFSET,
    MAX_BASE_PORT,
    MIN_BASE_PORT,
    ONE_KIND_ONLY,
    RTSP_OFFSET,
    Kind,
    default_max_sessions,
    default_udp_ports,
    misfit,
    port_at,
)
from moonlight.errors import Malformed
from moonlight.wake import parse_mac
from settings import load_toml, read_secret

ENVIRONMENT_PREFIX = "MOONHOST_AGENT"
MAX_PORT = 65_535
MAX_HOSTS = 64
MAX_NEIGHBOURS = 64
MAX_APPS = 512
MAX_TITLE_CHARACTERS = 128
MAX_USERNAME_CHARACTERS = 128
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _name(text: str) -> str:
    plain = text.replace(".", "").replace("_", "").replace("-", "")
    if not (plain.isascii() and plain.isalnum() and text[0].isalnum() and len(text) <= 64):
        raise ValueError("use 1-64 letters, digits, dots, dashes and underscores")
    return text


def _username(text: str) -> str:
    # Basic authentication ends the name at the first colon.
    if not (0 < len(text) <= MAX_USERNAME_CHARACTERS and text.isprintable()) or ":" in text:
        raise ValueError(f"use 1-{MAX_USERNAME_CHARACTERS} printable characters, and no colon")
    return text


def _port_ranges(text: str) -> str:
    parse_port_ranges(text)
    return text


def parse_port_ranges(text: str) -> tuple[range, ...]:
    """Read ``"47998-48010,48100"``; ValueError says what is wrong with it."""
    ranges = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (_is_number(first) and (_is_number(last) or not dash)):
            raise ValueError('write ports and ranges of ports as in "47998-48010,48100-48299"')
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= MAX_PORT:
            raise ValueError(f"ports go from 1 to {MAX_PORT}, the lower one first")
        ranges.append(range(low, high + 1))
    return tuple(ranges)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_PORT))


def _address(value: object) -> IPv4Address | IPv6Address:
    try:
        return ip_address(str(value))
    except ValueError:
        raise ValueError("write an IP address; names are not looked up") from None


def _ipv4_address(value: object) -> IPv4Address:
    address = _address(value)
    if address.version != 4:
        raise ValueError('write an IPv4 broadcast address, as in "192.168.1.255"')
    return address


def _mac(text: str) -> str:
    try:
        parse_mac(text)
    except Malformed as error:
        raise ValueError(str(error)) from None
    return text


Address = Annotated[IPv4Address | IPv6Address, PlainValidator(_address)]
Name = Annotated[str, AfterValidator(_name)]
Mac = Annotated[str, AfterValidator(_mac)]
Port = Annotated[int, Field(ge=1, le=MAX_PORT)]
PortRanges = Annotated[str, AfterValidator(_port_ranges)]
GpuId = Annotated[str, AfterValidator(gpu_id)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
ApiUsername = Annotated[str, AfterValidator(_username)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EdgeConfig(_Section):
    """Where to dial home, and how to prove who we are."""

    url: str
    token: SecretStr | None = None
    token_file: Path | None = None
    ca_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _encrypted(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.username is not None:
            raise ValueError("write the edge as wss://host or wss://host:port")
        if parts.scheme == "ws" and parts.hostname not in _LOOPBACK:
            raise ValueError("use wss://; without TLS only an edge on this machine can be reached")
        return url

    @model_validator(mode="after")
    def _one_token(self) -> EdgeConfig:
        if (self.token is None) == (self.token_file is None):
            raise ValueError("set token_file (or token, in the environment), and only one of them")
        return self


class IdentityConfig(_Section):
    """Who this agent is, and where."""

    id: Name
    region: Name
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = None


class AppConfig(_Section):
    """An app of a host, with the host's own number for it."""

    title: Annotated[str, Field(min_length=1, max_length=MAX_TITLE_CHARACTERS)]
    id: Annotated[int, Field(ge=1, le=2**31 - 1)]
    hdr: bool = False


class GpuConfig(_Section):
    """A host's GPU as its owner states it, instead of any reading."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_TITLE_CHARACTERS)]
    vendor: Annotated[str, Field(max_length=MAX_TITLE_CHARACTERS)] = ""
    memory_total_bytes: Annotated[int, Field(ge=1, le=2**53)] | None = None


class HostConfig(_Section):
    """One host this agent may reach, and all the ports of it that it may reach.

    A host on loopback sees every session from a source address of its own. One that is elsewhere,
    or behind something that hides it (`source_addresses` "never"), sees them all from one address:
    this machine's, or the one named as `seen_as`. If it goes by addresses alone, the edge lets one
    session at a time play there.

    `gpus` names those of this machine's GPUs that the host uses. Without it they are the ones with
    the most memory, or none for a host whose address is not this machine's.

    A Sunshine's ports follow from `base_port` where they are not stated. `api_certificate` is a
    PEM file or a SHA-256 fingerprint; Sunshine uses one certificate for its API and for streaming.
    `identity_file` keeps the key with which the agent itself is paired there, to read the apps.
    """

    name: Name
    kind: Kind = "wolf"
    address: Address = IPv4Address("127.0.0.1")
    base_port: Annotated[int, Field(ge=MIN_BASE_PORT, le=MAX_BASE_PORT)] | None = None
    http_port: Port = Field(default_factory=port_at(0))
    https_port: Port = Field(default_factory=port_at(HTTPS_OFFSET))
    rtsp_port: Port = Field(default_factory=port_at(RTSP_OFFSET))
    udp_ports: PortRanges = Field(default_factory=default_udp_ports)
    wolf_socket: Path | None = None
    api_port: Port = Field(default_factory=port_at(API_OFFSET))
    api_username: ApiUsername | None = None
    api_password: SecretStr | None = None
    api_password_file: Path | None = None
    api_certificate: Annotated[str, Field(min_length=1)] | None = None
    identity_file: Path | None = None
    source_addresses: Literal["auto", "never"] = "auto"
    seen_as: Address | None = None
    identifies_sessions_by: Literal["auto", "address"] = "auto"
    max_sessions: Annotated[int, Field(ge=1, le=1024)] = Field(default_factory=default_max_sessions)
    apps: Annotated[tuple[AppConfig, ...], Field(max_length=MAX_APPS)] | None = None
    gpu: GpuConfig | None = None
    gpus: Annotated[tuple[GpuId, ...], Field(max_length=max_gpus)] | None = None

    # Field by field, and not for the whole host at once: so they are told beside other mistakes.
    @field_validator(*ONE_KIND_ONLY)
    @classmethod
    def _of_this_kind(cls, value: object, info: ValidationInfo) -> object:
        wrong = misfit(str(info.field_name), info.data)
        if value is not None and wrong is not None:
            raise ValueError(wrong)
        return value

    @field_validator("max_sessions")
    @classmethod
    def _one_screen(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("kind") == "sunshine" and value > 1:
            raise ValueError("a Sunshine has one screen and one running app, so one player")
        return value

    @model_validator(mode="after")
    def _stated_or_read(self) -> HostConfig:
        if self.gpu is not None and self.gpus is not None:
            raise ValueError("set gpu (stated, not read) or gpus (which to read), and not both")
        return self

    @model_validator(mode="after")
    def _seen_as_one_or_as_many(self) -> HostConfig:
        if self.seen_as is not None and self.takes_source_addresses:
            raise ValueError('seen_as goes with source_addresses = "never"')
        return self

    @model_validator(mode="after")
    def _whole_api_or_none(self) -> HostConfig:
        passwords = (self.api_password, self.api_password_file)
        wanted = {
            "api_username": self.api_username is not None,
            "one of api_password_file and, in the environment, api_password": (
                passwords.count(None) == 1
            ),
            "api_certificate": self.api_certificate is not None,
            "identity_file or apps": self.identity_file is not None or self.apps is not None,
        }
        missing = [setting for setting, there in wanted.items() if not there]
        if missing and self.has_api_settings:
            raise ValueError(f"for Sunshine's API also set {'; '.join(missing)}")
        return self

    @property
    def has_api_settings(self) -> bool:
        """Whether a Sunshine's API is configured; then all that it needs is."""
        settings = (
            *(self.api_username, self.api_password, self.api_password_file),
            *(self.api_certificate, self.identity_file),
        )
        return any(setting is not None for setting in settings)

    @property
    def reads_gpus(self) -> bool:
        """Whether this host may use a GPU that has to be read."""
        return self.gpu is None and self.gpus != ()

    @property
    def udp_port_ranges(self) -> tuple[range, ...]:
        """The UDP ports that flows may go to."""
        return parse_port_ranges(self.udp_ports)

    @property
    def takes_source_addresses(self) -> bool:
        """Whether every session can have a source address of its own (all of 127/8 is ours)."""
        return (
            self.source_addresses == "auto"
            and self.address.version == 4
            and self.address.is_loopback
        )


class NeighbourConfig(_Section):
    """A machine on this agent's network that the edge may have woken (Wake-on-LAN)."""

    name: Name
    mac: Mac
    # The directed one of its network gets there also where this machine has several.
    broadcast: Annotated[IPv4Address, PlainValidator(_ipv4_address)] = IPv4Address(
        "255.255.255.255"
    )
    port: Port = 9

    @property
    def mac_bytes(self) -> bytes:
        """The hardware address."""
        return parse_mac(self.mac)


class LimitsConfig(_Section):
    """What the edge, or whoever holds its place, may cost this machine."""

    max_streams: Annotated[int, Field(ge=1, le=65_536)] = 256
    max_flows: Annotated[int, Field(ge=1, le=65_536)] = 192
    connect_timeout_s: Seconds = 5.0
    stream_idle_timeout_s: Seconds = 330.0
    flow_grace_s: Seconds = 30.0
    host_api_timeout_s: Seconds = 3.0
    probe_timeout_s: Seconds = 2.0
    reading_timeout_s: Seconds = 3.0


class AgentConfig(_Section):
    """One agent: beside one or more hosts, dialling home to one edge."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    edge: EdgeConfig
    agent: IdentityConfig
    # Before `hosts`: an agent with neighbours needs none.
    neighbours: Annotated[tuple[NeighbourConfig, ...], Field(max_length=MAX_NEIGHBOURS)] = ()
    hosts: Annotated[tuple[HostConfig, ...], Field(validate_default=True)] = ()
    limits: LimitsConfig = LimitsConfig()

    @field_validator("neighbours")
    @classmethod
    def _neighbours_named_once(
        cls, neighbours: tuple[NeighbourConfig, ...]
    ) -> tuple[NeighbourConfig, ...]:
        if len({neighbour.name for neighbour in neighbours}) < len(neighbours):
            raise ValueError("two neighbours have the same name")
        return neighbours

    @field_validator("hosts")
    @classmethod
    def _some_and_named_once(
        cls, hosts: tuple[HostConfig, ...], info: ValidationInfo
    ) -> tuple[HostConfig, ...]:
        # Not as the field's own limits: pydantic counts after leaving out the faulty ones.
        if len(hosts) > MAX_HOSTS or not (hosts or info.data.get("neighbours", True)):
            raise ValueError(f"an agent has 1 to {MAX_HOSTS} hosts, or neighbours to wake")
        if len({host.name for host in hosts}) < len(hosts):
            raise ValueError("two hosts have the same name")
        return hosts


def load(path: Path | None, *, environ: Mapping[str, str] | None = None) -> AgentConfig:
    """Load the file, overlaid by the environment; `ConfigError` lists all that is wrong."""
    return load_toml(path, AgentConfig, ENVIRONMENT_PREFIX, environ=environ)


def token_of(edge: EdgeConfig) -> str:
    """Give the token, from wherever it is kept; `ConfigError` if its file cannot be used."""
    if edge.token is not None:
        return edge.token.get_secret_value()
    assert edge.token_file is not None  # noqa: S101 - the model has exactly one of them
    return read_secret(edge.token_file)
