"""One edge, put together from its parts and run until it is told to stop."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import structlog
import trio

from backends.errors import StoreError
from backends.geoip import GeoDatabase
from backends.policies import policies
from backends.records import IdentityRecord
from backends.registry import Registry
from backends.store import Store
from moonlight.flows import Flow
from moonlight.identity import Identity
from moonlight.tls import server_context
from moonlight.wake import format_mac, own_mac
from proxy import state_dir
from proxy.admin import console_files
from proxy.admin import port as admin_port
from proxy.admin.api import AdminApi
from proxy.admin.authority import Authority
from proxy.admin.resources import resources
from proxy.assets import Assets
from proxy.certificates import Certificates, of_agents_port
from proxy.client_flow import FlowEnd
from proxy.config import ProxyConfig
from proxy.doors import Connection, Doors, open_doors, what_to_do
from proxy.edge_figures import EdgeFigures
from proxy.errors import StartFailed
from proxy.fleet import Fleet
from proxy.host_pairing import HostPairing
from proxy.listening import addresses_here
from proxy.loop_lag import watch_lag
from proxy.measured_store import StoreFigures, measured
from proxy.media import Media
from proxy.metrics import EdgeCollector, registry
from proxy.nurseries import flat_nursery
from proxy.nvhttp import NvHttp
from proxy.pairing_desk import PairingDesk
from proxy.play import Play
from proxy.prober import Prober
from proxy.readiness import why_not_ready
from proxy.reloading import ReloadableParts, reloadable
from proxy.rtsp import RtspProxy
from proxy.session_flows import SessionFlows
from proxy.session_keeper import SessionKeeper
from proxy.sessions import SessionId
from proxy.stores import open_store
from proxy.upkeep import Upkeep
from proxy.waker import Waker
from proxy.web_shell import WebShell
from revdial.limits import ListenerLimits
from revdial.listener import TunnelListener
from revdial.observer import Counters
from revdial.proxies import TrustedProxies
from settings.reloading import Reloading

_log = structlog.get_logger()

min_waiting_agents: Final = 512


@dataclass(frozen=True, slots=True)
class RunningEdge:
    """What a running edge lets its process, or a test, do and see."""

    play: Play
    keeper: SessionKeeper
    fleet: Fleet
    media: Media
    desk: PairingDesk
    store: Store
    upkeep: Upkeep
    reloading: Reloading[ProxyConfig]
    open_connections: Callable[[], int]
    """How many TCP connections of clients are served now."""
    stop: Callable[[], None]
    stopped: trio.Event
    """Set once everything it opened is closed."""

    async def drain(self, timeout_s: float) -> None:
        """Take no new launches and wait until nobody streams, or `timeout_s` have gone by."""
        self.play.accepting = False
        with trio.move_on_after(timeout_s):
            await self.keeper.wait_until_quiet()


async def run_edge(
    config: ProxyConfig,
    *,
    log_lines_suppressed: Counter[str] | None = None,
    task_status: trio.TaskStatus[RunningEdge] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run an edge until it is stopped or cancelled; everything it opened is closed then.

    `log_lines_suppressed` is what its process counts of them, for the metrics.

    Raises:
        StartFailed: a port, a file or the store cannot be had; says which and what to do.

    """
    state_dir.prepare(config.state_dir)
    stopped = trio.Event()
    try:
        async with open_store(config) as unmeasured:
            store_figures = StoreFigures()
            store = measured(unmeasured, store_figures)
            identity = await _edge_identity(store)
            async with flat_nursery() as nursery:
                suppressed = Counter() if log_lines_suppressed is None else log_lines_suppressed
                parts = _Edge(config, store, store_figures, identity, nursery, suppressed)
                task_status.started(await parts.start(stopped))
            _log.info("edge_stopped")
    except StoreError as error:
        raise StartFailed(error.reason, str(error)) from error
    finally:
        stopped.set()


async def _edge_identity(store: Store) -> Identity:
    record = await store.get_edge_identity()
    if record is None:
        made = await trio.to_thread.run_sync(
            partial(Identity.generate, "moonhost", now=datetime.now(UTC))
        )
        record = await store.add_edge_identity(IdentityRecord(made.key_pem, made.certificate.pem))
    return Identity.from_pem(record.key_pem, record.certificate_pem)


class _Edge:
    """The parts of one edge and the ways between them."""

    def __init__(
        self,
        config: ProxyConfig,
        store: Store,
        store_figures: StoreFigures,
        identity: Identity,
        nursery: trio.Nursery,
        log_lines_suppressed: Counter[str],
    ) -> None:
        self._config = config
        self._store = store
        self._nursery = nursery
        self._udp_ports = {
            Flow.VIDEO: config.listen.video_port,
            Flow.AUDIO: config.listen.audio_port,
            Flow.CONTROL: config.listen.control_port,
        }
        self._addresses, self._agents_addresses = addresses_here(config.listen, config.agents)
        self._geo = GeoDatabase(config.geography.databases)
        self._fleet = _fleet(config, store, self._geo)
        self._tunnel_counters = Counters()
        mac = own_mac(identity.certificate.id)
        waker = self._waker = Waker(config, mac, self._fleet, self._addresses)
        self._prober = Prober(self._udp_ports)
        self._media = Media(
            nursery,
            on_end=self._note_flow_end,
            take_magic_packet=waker.take_magic_packet,
            take_probe=self._prober.take,
        )
        self._keeper = SessionKeeper(config, store, self._fleet, self._media)
        self._flows = SessionFlows(
            nursery,
            lambda: self._reloading.config.sessions,
            self._fleet,
            self._keeper,
            self._media,
        )
        pairing = HostPairing(store, self._fleet)
        self._play = Play(
            config, self._keeper, self._fleet, pairing, waker if config.wake.on_launch else None
        )
        self._upkeep = Upkeep(config, self._fleet, self._keeper, self._play, self._media)
        self._desk = _desk(config, identity, self._fleet)
        self._nvhttp = NvHttp(
            config,
            str(uuid.UUID(hex=identity.certificate.id[:32])),
            store,
            self._fleet,
            self._desk,
            self._keeper,
            self._play,
            pairing,
            Assets(self._fleet, pairing),
            wake_mac=format_mac(mac) if config.wake.hosts else None,
        )
        self._web = WebShell(
            self._nvhttp,
            server_context(identity),
            request_timeout_s=config.limits.request_timeout_s,
            keep_alive_timeout_s=config.limits.keep_alive_timeout_s,
        )
        self._rtsp = RtspProxy(
            self._keeper,
            self._fleet,
            self._udp_ports,
            self._flows.start,
            self._flows.note_rate,
            config.sessions.launch_window_s,
            config.sessions.encrypt_video,
            self._flows.seal_video,
        )
        self._doors = _doors(config)
        self._admin_doors = admin_port.admin_doors()
        self._authority = _authority(config, store, self._fleet)
        self._certificates = Certificates()
        self._reloading = Reloading(
            config, reloadable, self._parts().prepare, (StartFailed, OSError)
        )
        self._figures = self._new_figures(store_figures, log_lines_suppressed)

    def _new_figures(
        self, store_figures: StoreFigures, log_lines_suppressed: Counter[str]
    ) -> EdgeFigures:
        return EdgeFigures(
            play=self._play.outcomes,
            pairings=self._desk.ended,
            rtsp_messages=self._rtsp.messages,
            rtsp_malformed=self._rtsp.malformed,
            http_refused=self._web.refused,
            admin_logins=self._authority.attempts,
            admin_refused=self._authority.gate.refused,
            flow_ends=self._flows.ends,
            store=store_figures,
            certificates=self._certificates.valid_until,
            reloads=self._reloading.figures,
            log_lines_suppressed=log_lines_suppressed,
            why_not_ready=lambda: why_not_ready(
                accepting=self._play.accepting, store_up=store_figures.up
            ),
        )

    def _parts(self) -> ReloadableParts:
        return ReloadableParts(
            certificates=self._certificates,
            geo=self._geo,
            fleet=self._fleet,
            keeper=self._keeper,
            play=self._play,
            upkeep=self._upkeep,
            nvhttp=self._nvhttp,
            desk=self._desk,
            web=self._web,
            rtsp=self._rtsp,
            doors=self._doors,
        )

    async def start(self, stopped: trio.Event) -> RunningEdge:
        """Open every port and take up old sessions; what was started runs on in the nursery."""
        await self._nursery.start(self._geo.watch, self._config.geography.reload_interval_s)
        await self._fleet.load_drains()
        await self._keeper.restore()
        await self._open_agents_port()
        if self._config.wake.hosts:
            await self._nursery.start(self._waker.run)
        await self._open_udp()
        self._flows.start_all()
        await self._open_tcp()
        await self._open_admin()
        self._nursery.start_soon(self._upkeep.run)
        self._nursery.start_soon(watch_lag, self._figures.loop_lag)
        _log.info(
            "edge_started",
            name=self._config.name,
            http_port=self._config.listen.http_port,
            https_port=self._config.listen.https_port,
            agents_port=self._config.agents.port,
            admin_port=self._config.admin.port,
        )
        return RunningEdge(
            play=self._play,
            keeper=self._keeper,
            fleet=self._fleet,
            media=self._media,
            desk=self._desk,
            store=self._store,
            upkeep=self._upkeep,
            reloading=self._reloading,
            open_connections=lambda: self._doors.open_connections,
            stop=self._nursery.cancel_scope.cancel,
            stopped=stopped,
        )

    def _note_flow_end(self, session: SessionId, kind: Flow, end: FlowEnd) -> None:
        # Media is made before whoever hears of its flows' ends.
        self._flows.note_end(session, kind, end)

    async def _open_agents_port(self) -> None:
        agents = self._config.agents
        context = self._certificates.open("agents", of_agents_port, self._config)
        listener = TunnelListener(
            authenticate=self._fleet.authenticate,
            on_agent=self._fleet.serve_agent,
            observer=self._tunnel_counters,
            proxies=TrustedProxies(agents.proxy_protocol_from),
            limits=ListenerLimits(
                # All agents come at once to an edge that was restarted.
                max_waiting=max(min_waiting_agents, agents.max_agents),
                max_data_connections=agents.max_data_connections_per_agent,
                spare_connections=agents.spare_data_connections,
            ),
        )
        sockets = await open_doors(self._agents_addresses, agents.port)
        await self._nursery.start(listener.serve, sockets, context)

    async def _open_udp(self) -> None:
        try:
            await self._nursery.start(
                self._media.serve,
                self._addresses,
                self._udp_ports,
                self._config.listen.own_udp_port_range,
            )
        except OSError as error:
            raise StartFailed(
                "port_taken",
                f"cannot listen on UDP ports {sorted(self._udp_ports.values())}: "
                f"{error.strerror}. {what_to_do(error)}",
            ) from error

    async def _open_tcp(self) -> None:
        listen = self._config.listen
        served = [
            (listen.http_port, self._web.serve_http),
            (listen.https_port, self._web.serve_https),
            *((port, self._serve_rtsp) for port in listen.rtsp_port_range),
        ]
        for port, handler in served:
            listeners = await open_doors(self._addresses, port)
            await self._nursery.start(self._doors.serve, listeners, handler)

    async def _serve_rtsp(self, connection: Connection) -> None:
        port = connection.dialled_port(self._config.listen.rtsp_port_range)
        await self._rtsp.serve(connection.stream, connection.address, port)

    async def _open_admin(self) -> None:
        collector = EdgeCollector(
            sessions=self._keeper.table,
            fleet=self._fleet,
            media=self._media,
            doors=self._doors,
            admin_doors=self._admin_doors,
            apart=self._keeper.apart,
            rtsp_refused=self._rtsp.refused,
            tunnels=self._tunnel_counters,
            waker=self._waker,
            figures=self._figures,
        )
        endpoints = resources(
            config=lambda: self._reloading.config,
            store=self._store,
            fleet=self._fleet,
            desk=self._desk,
            keeper=self._keeper,
            play=self._play,
            media=self._media,
            nvhttp=self._nvhttp,
            access=self._nvhttp.access,
            metrics=registry(collector),
            store_up=lambda: self._figures.store.up,
            why_not_ready=self._figures.why_not_ready,
            stands=self._authority.gate.stands,
            prober=self._prober,
        )
        await self._authority.keys.load()
        api = AdminApi(
            self._authority.gate,
            [*endpoints, *self._authority.endpoints()],
            console_files.routes(),
        )
        await self._nursery.start(
            admin_port.serve,
            api.application(),
            self._config,
            self._certificates,
            self._admin_doors,
        )
        self._nursery.start_soon(self._authority.keys.watch)


def _fleet(config: ProxyConfig, store: Store, geo: GeoDatabase) -> Fleet:
    atlas = config.atlas()
    return Fleet(
        store,
        Registry(config.registry_rules(), atlas.regions),
        policy=policies[config.selection.policy],
        locate=lambda address: atlas.locate(address, geo.look_up),
    )


def _desk(config: ProxyConfig, identity: Identity, fleet: Fleet) -> PairingDesk:
    return PairingDesk(
        identity,
        max_pending=config.pairing.max_pending,
        max_pending_per_address=config.pairing.max_pending_per_address,
        pin_timeout_s=config.pairing.pin_timeout_s,
        events=fleet.events,
    )


def _doors(config: ProxyConfig) -> Doors:
    return Doors(
        max_connections=config.limits.max_connections,
        max_connections_per_address=config.limits.max_connections_per_address,
        proxies=TrustedProxies(config.listen.proxy_protocol_from),
    )


def _authority(config: ProxyConfig, store: Store, fleet: Fleet) -> Authority:
    return Authority(
        store,
        issuer=config.hostname,
        local_token=state_dir.local_token(config.state_dir, config.admin.token_file),
        key_lifetime=timedelta(days=config.admin.key_lifetime_days),
        dismiss=fleet.dismiss,
    )
