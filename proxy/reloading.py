"""Which settings of an edge can change while it runs, and who is told of their new values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backends.geoip import GeoDatabase
from backends.policies import policies
from proxy.certificates import Certificates
from proxy.config import ProxyConfig
from proxy.doors import Doors
from proxy.fleet import Fleet
from proxy.nvhttp import NvHttp
from proxy.pairing_desk import PairingDesk
from proxy.play import Play
from proxy.rtsp import RtspProxy
from proxy.session_keeper import SessionKeeper
from proxy.upkeep import Upkeep
from proxy.web_shell import WebShell

reloadable: Final = frozenset(
    {
        "name",
        "log_level",
        "log_format",
        "agents.certificate",
        "agents.private_key",
        "selection.policy",
        "selection.sticky_ttl_s",
        "selection.gpu_memory_crowded",
        "selection.gpu_memory_full",
        "selection.session_gpu_memory_mib",
        "selection.absence_s",
        "sessions.launch_window_s",
        "sessions.launch_timeout_s",
        "sessions.launch_attempt_timeout_s",
        "sessions.client_silence_timeout_s",
        "sessions.tunnel_grace_s",
        "sessions.encrypt_video",
        "sessions.drain_timeout_s",
        "sessions.max_sessions",
        "sessions.rtsp_encryption",
        "pairing.pin_timeout_s",
        "pairing.max_pending",
        "pairing.max_pending_per_address",
        "limits.max_connections",
        "limits.max_connections_per_address",
        "limits.request_timeout_s",
        "limits.keep_alive_timeout_s",
        "regions",
        "geography.edge_region",
        "geography.databases",
        "users",
    }
)
"""The others need a restart: ports, addresses, where things are kept, what is open for good."""


@dataclass(frozen=True, slots=True)
class ReloadableParts:
    """The parts of an edge that go by settings which can change."""

    certificates: Certificates
    geo: GeoDatabase
    fleet: Fleet
    keeper: SessionKeeper
    play: Play
    upkeep: Upkeep
    nvhttp: NvHttp
    desk: PairingDesk
    web: WebShell
    rtsp: RtspProxy
    doors: Doors

    async def prepare(self, config: ProxyConfig) -> Callable[[], None]:
        """Read what `config` names, and return what has every part go by it from now on.

        Sessions that run go on as they are; only what begins later is under other rules.

        Raises:
            proxy.errors.StartFailed: a certificate cannot be used.

        """
        show_certificates = self.certificates.prepare(config)
        use_databases = await self.geo.prepare(config.geography.databases)

        def put_in_force() -> None:
            show_certificates()
            use_databases()
            self._apply(config)

        return put_in_force

    def _apply(self, config: ProxyConfig) -> None:
        pairing, limits, sessions = config.pairing, config.limits, config.sessions
        atlas = config.atlas()
        self.fleet.apply(
            config.registry_rules(),
            atlas.regions,
            policy=policies[config.selection.policy],
            locate=lambda address: atlas.locate(address, self.geo.look_up),
        )
        self.keeper.apply(config)
        self.play.apply(config)
        self.upkeep.apply(config)
        self.nvhttp.apply(config)
        self.desk.apply(
            max_pending=pairing.max_pending,
            max_pending_per_address=pairing.max_pending_per_address,
            pin_timeout_s=pairing.pin_timeout_s,
        )
        self.web.apply(
            request_timeout_s=limits.request_timeout_s,
            keep_alive_timeout_s=limits.keep_alive_timeout_s,
        )
        self.rtsp.apply(sessions.launch_window_s, sessions.encrypt_video)
        self.doors.apply(
            max_connections=limits.max_connections,
            max_connections_per_address=limits.max_connections_per_address,
        )
