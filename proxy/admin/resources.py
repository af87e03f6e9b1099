"""All resources of the admin API, over the parts of a running edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry

from backends.store import Store
from proxy.access import AccessRules
from proxy.admin.agents import AgentsApi
from proxy.admin.backends import BackendsApi
from proxy.admin.clients import ClientsApi
from proxy.admin.drains import DrainsApi
from proxy.admin.edge_status import EdgeApi
from proxy.admin.endpoints import Endpoint
from proxy.admin.event_stream import EventsApi
from proxy.admin.explain import ExplainApi
from proxy.admin.gate import Caller
from proxy.admin.pairings import PairingsApi
from proxy.admin.sessions import SessionsApi
from proxy.config import ProxyConfig
from proxy.fleet import Fleet
from proxy.media import Media
from proxy.nvhttp import NvHttp
from proxy.pairing_desk import PairingDesk
from proxy.play import Play
from proxy.prober import Prober
from proxy.session_keeper import SessionKeeper


def resources(
    *,
    config: Callable[[], ProxyConfig],
    store: Store,
    fleet: Fleet,
    desk: PairingDesk,
    keeper: SessionKeeper,
    play: Play,
    media: Media,
    nvhttp: NvHttp,
    access: AccessRules,
    metrics: CollectorRegistry,
    store_up: Callable[[], bool],
    why_not_ready: Callable[[], str | None],
    stands: Callable[[Caller], Awaitable[bool]],
    prober: Prober,
) -> list[Endpoint]:
    """Return what can be asked of these parts; see `EdgeApi` and `EventsApi`."""
    groups = (
        EdgeApi(
            config=config,
            store=store,
            fleet=fleet,
            desk=desk,
            table=keeper.table,
            play=play,
            store_up=store_up,
            why_not_ready=why_not_ready,
            metrics=metrics,
        ),
        BackendsApi(fleet),
        AgentsApi(store, fleet, prober),
        ExplainApi(store, fleet, keeper.table, access),
        DrainsApi(store, fleet, keeper.table),
        SessionsApi(store, fleet, keeper, play, media),
        ClientsApi(store, keeper.table, nvhttp, access, fleet.events),
        PairingsApi(desk, fleet.locate, access),
        EventsApi(fleet.events, stands),
    )
    return [endpoint for group in groups for endpoint in group.endpoints()]
