"""The edge's configuration: every section, setting, unit and default of its TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from backends.apps import normalise_title
from backends.candidates import GpuLimits
from backends.geography import Atlas, Network, Place, Region
from backends.model import agent_of
from backends.policies import PolicyName
from backends.redis_address import parse_redis_url
from backends.registry import RegistryRules
from proxy.access import Access, AccessRules
from proxy.config_values import (
    MAX_GEO_DATABASES,
    MAX_PINNED_NETWORKS,
    Address,
    Addresses,
    AppTitle,
    Count,
    Hostname,
    PinnedNetwork,
    Port,
    PortRange,
    ProxyNetworks,
    RedisUrl,
    RegionName,
    Seconds,
    Share,
    UserName,
)
from proxy.leg_encryption import EncryptVideo
from proxy.wake_config import Wake


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Section):
    """Where clients reach the edge."""

    # Players come from anywhere; see `proxy.listening` for a machine without IPv6.
    addresses: Addresses = ("0.0.0.0", "::")  # noqa: S104
    http_port: Port = 47989
    https_port: Port = 47984
    rtsp_ports: PortRange = "48010-48073"
    video_port: Port = 47998
    control_port: Port = 47999
    audio_port: Port = 48000
    own_udp_ports: PortRange = "48074-48121"
    proxy_protocol_from: ProxyNetworks = ()

    @property
    def rtsp_port_range(self) -> range:
        """The RTSP ports; the first is the one that clients share while nothing is ambiguous."""
        return _range(self.rtsp_ports)

    @property
    def own_udp_port_range(self) -> range:
        """UDP ports for clients that only a port of their own tells from others."""
        return _range(self.own_udp_ports)

    @property
    def udp_ports(self) -> tuple[int, ...]:
        """The ports of the media: first those that all clients share."""
        shared = self.video_port, self.control_port, self.audio_port
        return (*shared, *self.own_udp_port_range)

    @model_validator(mode="after")
    def _distinct(self) -> Listen:
        tcp = [self.http_port, self.https_port, *self.rtsp_port_range]
        udp = self.udp_ports
        if len(set(tcp)) < len(tcp):
            raise ValueError("http_port, https_port and rtsp_ports overlap")
        if len(set(udp)) < len(udp):
            raise ValueError("video_port, control_port, audio_port and own_udp_ports overlap")
        return self


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


class Agents(_Section):
    """Where agents dial in: WebSockets over TLS."""

    addresses: Addresses = ("0.0.0.0", "::")  # noqa: S104 - hosts come from anywhere
    port: Port = 443
    proxy_protocol_from: ProxyNetworks = ()
    certificate: Path | None = None
    private_key: Path | None = None
    max_agents: Count = 1_024
    max_data_connections_per_agent: Count = 512
    spare_data_connections: Annotated[int, Field(ge=0, le=64)] = 4

    @model_validator(mode="after")
    def _both_or_none(self) -> Agents:
        _check_both_or_none(self.certificate, self.private_key)
        return self


class Admin(_Section):
    """Where ``moonhost pair`` and the other commands reach a running edge, and who may use it."""

    address: Address = "127.0.0.1"
    port: Port = 47980
    certificate: Path | None = None
    private_key: Path | None = None
    ca_file: Path | None = None
    token_file: Path | None = None
    key_lifetime_days: Annotated[int, Field(ge=1, le=365)] = 30

    @model_validator(mode="after")
    def _whole_or_no_tls(self) -> Admin:
        _check_both_or_none(self.certificate, self.private_key)
        if self.ca_file is not None and self.certificate is None:
            raise ValueError("ca_file is of use only with certificate and private_key")
        return self


def _check_both_or_none(certificate: Path | None, private_key: Path | None) -> None:
    if (certificate is None) != (private_key is None):
        raise ValueError("certificate and private_key belong together: set both or neither")


class StoreConfig(_Section):
    """Where what must outlive an edge is kept: in a file of its own, or in a server."""

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
    encrypt_video: EncryptVideo = "auto"
    drain_timeout_s: Seconds = 30.0
    max_sessions: Count = 1_000
    rtsp_encryption: Literal["auto", "never"] = "auto"


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
    log_format: Literal["auto", "json", "console"] = "auto"
    listen: Listen = Listen()
    agents: Agents = Agents()
    admin: Admin = Admin()
    store: StoreConfig = StoreConfig()
    selection: Selection = Selection()
    sessions: Sessions = Sessions()
    pairing: Pairing = Pairing()
    limits: Limits = Limits()
    # Before `geography`, which names one of them.
    regions: dict[RegionName, RegionPlace] = {}
    geography: Geography = Geography()
    users: dict[UserName, UserAccess] = {}
    wake: Wake = Wake()

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
            lasting_agents=frozenset(agent_of(host.backend) for host in self.wake.hosts),
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

    @field_validator("wake")
    @classmethod
    def _no_media_port(cls, wake: Wake, info: ValidationInfo) -> Wake:
        listen = info.data.get("listen")
        taken = set(wake.ports or ()) & set(listen.udp_ports if listen else ())
        if taken:
            raise ValueError(
                f"ports: magic packets are understood at {sorted(taken)} in any case: "
                "those are ports of [listen]"
            )
        return wake

    def wake_ports(self) -> tuple[int, ...]:
        """Return the ports to hear magic packets at, besides those of the media."""
        return self.wake.udp_ports(self.listen.http_port, self.listen.udp_ports)

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
