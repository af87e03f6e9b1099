"""The agents that are connected now, and the backends that they offer."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import structlog
import trio

from backends.apps import AppCatalogue, titles_of
from backends.errors import InvalidOffer
from backends.model import AppOffer, Backend, BackendId
from backends.registry import (
    AgentOffering,
    ConnectionId,
    HostOffering,
    HostStatus,
    Registry,
    Reservation,
)
from backends.selection import Decision, LaunchIntent, select
from backends.store import Store
from backends.tokens import token_hash
from proxy.errors import HostUnavailable
from revdial import messages
from revdial.tunnel import AgentTunnel

_log = structlog.get_logger()


class Fleet:
    """Which tunnel leads to which backend, and which backend a launch goes to."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._tunnels: dict[str, AgentTunnel] = {}
        self._arrival = trio.Event()

    async def authenticate(self, token: str) -> str | None:
        """Return whose token this is, or None: for `revdial.listener.TunnelListener`."""
        return await self._store.agent_for_token_hash(token_hash(token))

    async def serve_agent(self, tunnel: AgentTunnel) -> None:
        """Offer an agent's hosts for as long as its tunnel stands."""
        try:
            connection = self._registry.agent_connected(_offering(tunnel), now=trio.current_time())
        except InvalidOffer as error:
            _log.warning(
                "agent_refused", agent=tunnel.agent_id, reason=error.reason, why=str(error)
            )
            return
        self._tunnels[tunnel.agent_id] = tunnel
        self._arrival.set()
        self._arrival = trio.Event()
        try:
            async for heartbeat in tunnel.heartbeats:
                self._note(tunnel, connection, heartbeat)
        finally:
            self._registry.agent_gone(tunnel.agent_id, connection)
            if self._tunnels.get(tunnel.agent_id) is tunnel:
                del self._tunnels[tunnel.agent_id]

    def _note(
        self, tunnel: AgentTunnel, connection: ConnectionId, heartbeat: messages.Heartbeat
    ) -> None:
        changed = self._registry.heartbeat(
            tunnel.agent_id,
            connection,
            [_status(report) for report in heartbeat.hosts],
            now=trio.current_time(),
            rtt_s=tunnel.rtt_s,
        )
        for backend in changed:
            _log.info("backend_health", backend=backend.id, healthy=backend.healthy)

    async def load_drains(self) -> None:
        """Take over which backends and agents drain, as the store has it."""
        drains = await self._store.list_drains()
        self._registry.set_drains(drain.target for drain in drains)

    def backends(self) -> tuple[Backend, ...]:
        """Return all backends as they are now."""
        return self._registry.snapshot(now=trio.current_time())

    def backend(self, backend_id: BackendId) -> Backend | None:
        """Return one backend, if its agent is connected."""
        return next((known for known in self.backends() if known.id == backend_id), None)

    async def catalogue(self) -> AppCatalogue:
        """Return the union of all backends' apps.

        Raises:
            backends.errors.StoreError: the store could not tell the apps' ids.

        """
        backends = self.backends()
        return AppCatalogue.merge(backends, await self._store.app_ids_for(titles_of(backends)))

    async def choose(
        self, intent: LaunchIntent, *, excluded: Iterable[BackendId] = ()
    ) -> tuple[Decision, Reservation]:
        """Choose a backend for a launch and take a slot there.

        Raises:
            backends.errors.NoBackend: nothing is left; the message is for the player.
            backends.errors.StoreError: the store could not tell where the client played last.

        """
        sticky = await self._store.get_sticky(intent.client)
        left_out = frozenset(excluded)
        # From here to the reservation nothing waits, so no two launches take one slot.
        candidates = [known for known in self.backends() if known.id not in left_out]
        decision = select(intent, candidates, sticky=sticky, now=datetime.now(UTC))
        return decision, self._registry.reserve(decision.backend.id)

    def started(self, reservation: Reservation) -> None:
        """Note that the host accepted the launch."""
        self._registry.started(reservation)

    def release(self, reservation: Reservation) -> None:
        """Give a slot back; once is enough, more does no harm."""
        self._registry.release(reservation)

    def restore(self, backend_id: BackendId) -> Reservation:
        """Take the slot of a session that the store remembers."""
        return self._registry.restore(backend_id)

    def tunnel(self, backend_id: BackendId) -> AgentTunnel:
        """Return the tunnel to a backend.

        Raises:
            HostUnavailable: its agent is not connected.

        """
        tunnel = self._tunnels.get(backend_id.partition("/")[0])
        if tunnel is None:
            raise HostUnavailable(
                "agent_offline", f"the agent of {backend_id} is not connected to this edge"
            )
        return tunnel

    async def wait_for_tunnel(self, backend_id: BackendId) -> AgentTunnel:
        """Return the tunnel to a backend as soon as there is one; the caller sets the deadline."""
        while True:
            arrival = self._arrival
            try:
                return self.tunnel(backend_id)
            except HostUnavailable:
                await arrival.wait()


def host_name(backend_id: BackendId) -> str:
    """Return what a backend's agent calls the host."""
    return backend_id.partition("/")[2]


def _offering(tunnel: AgentTunnel) -> AgentOffering:
    hello = tunnel.hello
    return AgentOffering(
        agent_id=tunnel.agent_id,
        region=hello.region,
        latitude=hello.latitude,
        longitude=hello.longitude,
        hosts=tuple(
            HostOffering(host.name, host.kind, host.max_sessions, _apps(host.apps))
            for host in hello.hosts
        ),
    )


def _status(report: messages.HostReport) -> HostStatus:
    return HostStatus(
        name=report.name,
        reachable=report.reachable,
        sessions=report.sessions,
        apps=None if report.apps is None else _apps(report.apps),
    )


def _apps(offers: Iterable[messages.AppOffer]) -> tuple[AppOffer, ...]:
    return tuple(AppOffer(offer.title, offer.id, offer.hdr) for offer in offers)
