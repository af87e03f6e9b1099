"""The admin API's edge: what it is, how much it has, and whether it is well."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse

from backends.errors import StoreError
from backends.store import Store
from proxy.admin.endpoints import Asked, Endpoint, NoParameters
from proxy.admin.scopes import ANYBODY, READERS
from proxy.admin.values import Time
from proxy.config import ProxyConfig
from proxy.fleet import Fleet
from proxy.metrics import exposition
from proxy.pairing_desk import PairingDesk
from proxy.play import Play
from proxy.sessions import SessionTable
from proxy.version import version

_log = structlog.get_logger()


class RegionItem(msgspec.Struct, frozen=True):
    """A region of the configuration."""

    name: str
    latitude: float
    longitude: float


class EdgeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The edge, and how many there are of what it has to do with."""

    name: str
    hostname: str
    version: str
    started_at: Time
    accepting: bool
    store_up: bool
    edge_region: str | None
    regions: list[RegionItem]
    sessions: int
    backends: int
    agents: int
    pairings: int
    clients: int | None


class Exposition(PlainTextResponse):
    """Metrics in Prometheus' text format."""

    media_type = CONTENT_TYPE_LATEST


class EdgeApi:
    """Answers for the edge itself.

    Args:
        config: gives the edge's configuration that is in force.
        store: where it counts its clients.
        fleet: its backends.
        desk: the devices that wait.
        table: its sessions.
        play: says whether it accepts launches.
        store_up: tells whether the store's last operation succeeded.
        why_not_ready: see `proxy.readiness`.
        metrics: what ``/metrics`` shows.

    """

    def __init__(
        self,
        *,
        config: Callable[[], ProxyConfig],
        store: Store,
        fleet: Fleet,
        desk: PairingDesk,
        table: SessionTable,
        play: Play,
        store_up: Callable[[], bool],
        why_not_ready: Callable[[], str | None],
        metrics: CollectorRegistry,
    ) -> None:
        self._config = config
        self._store = store
        self._fleet = fleet
        self._desk = desk
        self._table = table
        self._play = play
        self._store_up = store_up
        self._why_not_ready = why_not_ready
        self._metrics = metrics
        self._started_at = datetime.now(UTC)
        self._version = version()

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        return [
            Endpoint("GET", "/api/v1/edge", self.show_edge, READERS),
            Endpoint("GET", "/healthz", self.show_health, ANYBODY),
            Endpoint(
                "GET",
                "/readyz",
                self.show_readiness,
                ANYBODY,
                also={503: "Not ready; the text says why."},
            ),
            Endpoint("GET", "/metrics", self.show_metrics, ANYBODY),
        ]

    async def show_edge(self, asked: Asked[NoParameters, NoParameters, None]) -> EdgeStatus:
        """Tell what the edge is and how much it has; clients are null while the store is down."""
        clients = await self._count_clients()
        config = self._config()
        return EdgeStatus(
            name=config.name,
            hostname=config.hostname,
            version=self._version,
            started_at=self._started_at,
            accepting=self._play.accepting,
            store_up=self._store_up(),
            edge_region=config.geography.edge_region,
            regions=[
                RegionItem(name, region.latitude, region.longitude)
                for name, region in sorted(config.regions.items())
            ],
            sessions=len(self._table),
            backends=len(self._fleet.backends()),
            agents=self._fleet.connected_agents,
            pairings=len(self._desk.pending()),
            clients=clients,
        )

    async def _count_clients(self) -> int | None:
        try:
            return len(await self._store.list_clients())
        except StoreError as error:
            _log.warning("clients_not_counted", why=str(error))
            return None

    async def show_health(
        self, asked: Asked[NoParameters, NoParameters, None]
    ) -> PlainTextResponse:
        """Say that the edge's process answers."""
        return PlainTextResponse("ok\n")

    async def show_readiness(
        self, asked: Asked[NoParameters, NoParameters, None]
    ) -> PlainTextResponse:
        """Say whether the edge can take launches; with status 503, why not."""
        why = self._why_not_ready()
        return PlainTextResponse(f"{why or 'ready'}\n", status_code=503 if why else 200)

    async def show_metrics(self, asked: Asked[NoParameters, NoParameters, None]) -> Exposition:
        """Give the edge's figures for Prometheus."""
        return Exposition(await exposition(self._metrics))
