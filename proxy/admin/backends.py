"""The admin API's backends: the hosts behind agents, and how they are."""

from __future__ import annotations

from typing import Annotated

import msgspec

from backends.model import Backend, State
from proxy.admin.endpoints import Asked, Endpoint, NoParameters
from proxy.admin.paging import Page, PageQuery, page
from proxy.admin.scopes import READERS
from proxy.admin.values import milliseconds
from proxy.fleet import Fleet
from revdial.errors import printable
from revdial.messages import GpuReport, Heartbeat


class Machine(msgspec.Struct, frozen=True):
    """What an agent tells of the machine that it runs on; null is what it does not know."""

    cpu_percent: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    network_receive_bits_per_s: float | None
    network_send_bits_per_s: float | None


class BackendItem(msgspec.Struct, frozen=True, kw_only=True):
    """A host behind an agent; null is what is not known."""

    id: str
    agent: str
    kind: str
    region: str
    latitude: float | None
    longitude: float | None
    state: State
    trouble: Annotated[str | None, msgspec.Meta(description="Why it is not healthy.")]
    draining: bool
    sessions: int
    max_sessions: int
    gpu_memory_percent: Annotated[float | None, msgspec.Meta(description="Of its fullest GPU.")]
    rtt_ms: Annotated[
        float | None, msgspec.Meta(description="Through the tunnel to its agent and back.")
    ]
    apps: list[str]
    gpus: list[GpuReport]
    machine: Machine | None


class BackendsApi:
    """Answers for the backends of an edge."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        return [Endpoint("GET", "/api/v1/backends", self.list_backends, READERS)]

    async def list_backends(self, asked: Asked[NoParameters, PageQuery, None]) -> Page[BackendItem]:
        """List the backends by id; those of agents that went away lately included."""
        part = page(self._fleet.backends(), lambda backend: (0, backend.id), asked.query)
        return Page([self._item(backend) for backend in part.items], part.next)

    def _item(self, backend: Backend) -> BackendItem:
        heartbeat = self._fleet.last_heartbeat(backend.agent_id)
        hosts = () if heartbeat is None else heartbeat.hosts
        place = backend.place
        return BackendItem(
            id=backend.id,
            agent=backend.agent_id,
            kind=backend.kind,
            region=backend.region,
            latitude=None if place is None else place.latitude,
            longitude=None if place is None else place.longitude,
            state=backend.state,
            trouble=backend.trouble,
            draining=backend.draining,
            sessions=backend.sessions,
            max_sessions=backend.max_sessions,
            gpu_memory_percent=percent(backend.gpu_memory_share),
            rtt_ms=milliseconds(backend.rtt_s),
            apps=sorted(app.title for app in backend.apps),
            gpus=[_shown(gpu) for host in hosts if host.name == backend.host for gpu in host.gpus],
            machine=None if heartbeat is None else _machine(heartbeat),
        )


def percent(share: float | None) -> float | None:
    """Return a share of 0 to 1 as a percentage, to a tenth."""
    return None if share is None else round(100 * share, 1)


def _shown(gpu: GpuReport) -> GpuReport:
    return msgspec.structs.replace(gpu, name=printable(gpu.name), vendor=printable(gpu.vendor))


def _machine(heartbeat: Heartbeat) -> Machine:
    return Machine(
        heartbeat.cpu_percent,
        heartbeat.memory_used_bytes,
        heartbeat.memory_total_bytes,
        heartbeat.network_receive_bits_per_s,
        heartbeat.network_send_bits_per_s,
    )
