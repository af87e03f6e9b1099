"""The edge's configuration: every section, setting, unit and default of its TOML file."""

from __future__ import annotations

import re
from ipaddress import IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from backends.apps import max_title_characters, normalise_title
from backends.candidates import GpuLimits
from backends.geography import Atlas, Network, Place, Region
from backends.model import is_valid_name
from backends.policies import PolicyName
from backends.registry import RegistryRules
from proxy.access import Access, AccessRules, everybody_else

MAX_PORT = 65_535
MAX_RTSP_PORTS = 1_024
MAX_SECONDS = 10 * 365 * 24 * 3600
MAX_GEO_DATABASES = 16
MAX_PINNED_NETWORKS = 4_096
"""Of all regions together."""

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


def _region_name(text: str) -> str:
    if not is_valid_name(text):
        raise ValueError("name a region with 1-64 letters, digits, dots, dashes and underscores")
    return text


def _network(value: object) -> Network:
    try:
        network = ip_network(str(value), strict=False)
    except ValueError:
        raise ValueError('write a network, as in "10.1.0.0/16" or "fd00:1::/32"') from None
    if network.network_address != ip_address(str(value).partition("/")[0]):
        raise ValueError(f'the network of this address is "{network}": write that')
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None:
        # Clients at such addresses count as IPv4.
        raise ValueError(f'write the IPv4 network "{mapped}/{network.prefixlen - 96}"')
    return network


PortRange = Annotated[str, AfterValidator(_port_range)]
Address = Annotated[str, AfterValidator(_address)]
RegionName = Annotated[str, AfterValidator(_region_name)]
PinnedNetwork = Annotated[Network, PlainValidator(_network)]
Hostname = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_hostname)]


Share = Annotated[float, Field(gt=0, le=1)]


def _user_name(text: str) -> str:
    if text != everybody_else and not is_valid_name(text):
        raise ValueError(
            f'write 1-64 letters, digits, dots or dashes, or "{everybody_else}" for all others'
        )
    return text


def _app_title(text: str) -> str:
    if not normalise_title(text):
        raise ValueError("write the title of an app")
    return text


UserName = Annotated[str, AfterValidator(_user_name)]
AppTitle = Annotated[str, Field(max_length=max_title_characters), AfterValidator(_app_title)]


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


class Selection(_Section):
    """Which backend a launch goes to."""

    policy: PolicyName = PolicyName.GEO
    sticky_ttl_s: Seconds = 7 * 24 * 3600.0
    gpu_memory_crowded: Share = 0.90
    gpu_memory_full: Share = 0.97
    session_gpu_memory_mib: Annotated[int, Field(ge=0, le=1 << 20)] = 512
    absence_s: Seconds = 600.0

    @model_validator(mode="after")
    def _crowded_before_full(self) -> Selection:
        if self.gpu_memory_crowded > self.gpu_memory_full:
            raise ValueError("gpu_memory_crowded must not be above gpu_memory_full")
        return self


class Sessions(_Section):
    """How long things may take, and how long they are kept."""

    launch_window_s: Seconds = 30.0
    launch_timeout_s: Seconds = 90.0
    launch_attempt_timeout_s: Seconds = 30.0
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


class Geography(_Section):
    """Where clients are: MaxMind-format files, asked in their order, and the edge's own region."""

    edge_region: RegionName | None = None
    databases: Annotated[tuple[Path, ...], Field(max_length=MAX_GEO_DATABASES)] = ()
    reload_interval_s: Seconds = 60.0


class RegionPlace(_Section):
    """Where a region is, in degrees, and the networks whose clients count as being there."""

    latitude: Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
    longitude: Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]
    networks: tuple[PinnedNetwork, ...] = ()


class UserAccess(_Section):
    """What a user may use; everything of what is not said."""

    apps: tuple[AppTitle, ...] | None = None
    regions: tuple[RegionName, ...] | None = None


class ProxyConfig(_Section):
    """One edge."""

    name: Annotated[str, Field(min_length=1, max_length=64)] = "moonhost"
    hostname: Hostname
    state_dir: Path = Path("/var/lib/moonhost")
    log_level: str = "info"
    listen: Listen = Listen()
    agents: Agents = Agents()
    admin: Admin = Admin()
    selection: Selection = Selection()
    sessions: Sessions = Sessions()
    pairing: Pairing = Pairing()
    limits: Limits = Limits()
    # Before `geography`, which names one of them.
    regions: dict[RegionName, RegionPlace] = {}
    geography: Geography = Geography()
    users: dict[UserName, UserAccess] = {}

    def access_rules(self) -> AccessRules:
        """Return what each user may use."""
        return AccessRules(
            {
                name: Access(
                    None if user.apps is None else frozenset(map(normalise_title, user.apps)),
                    None if user.regions is None else frozenset(user.regions),
                )
                for name, user in self.users.items()
            }
        )

    def registry_rules(self) -> RegistryRules:
        """Return how much there may be in the table of backends, and how long things count."""
        return RegistryRules(
            max_agents=self.agents.max_agents,
            absence_s=self.selection.absence_s,
            session_gpu_memory_bytes=self.selection.session_gpu_memory_mib << 20,
            gpu=GpuLimits(self.selection.gpu_memory_crowded, self.selection.gpu_memory_full),
        )

    def atlas(self) -> Atlas:
        """Return the configured regions as launches ask them."""
        regions = (
            Region(name, Place(region.latitude, region.longitude), region.networks)
            for name, region in self.regions.items()
        )
        return Atlas(regions, self.geography.edge_region)

    @field_validator("regions")
    @classmethod
    def _one_region_a_network(cls, regions: dict[str, RegionPlace]) -> dict[str, RegionPlace]:
        if sum(len(region.networks) for region in regions.values()) > MAX_PINNED_NETWORKS:
            raise ValueError(f"at most {MAX_PINNED_NETWORKS} networks in all regions together")
        pinned: dict[Network, str] = {}
        for name, region in regions.items():
            for network in region.networks:
                other = pinned.setdefault(network, name)
                if other != name:
                    raise ValueError(f"{network} is pinned to both {other} and {name}")
        return regions

    @field_validator("geography")
    @classmethod
    def _known_edge_region(cls, geography: Geography, info: ValidationInfo) -> Geography:
        regions = info.data.get("regions")
        if regions and geography.edge_region not in {None, *regions}:
            raise ValueError("edge_region is none of the configured [regions]")
        return geography

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
