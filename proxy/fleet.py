"""The agents that are connected now, and the backends that they offer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import structlog
import trio

from backends.apps import AppOffer
from backends.candidates import Candidates
from backends.catalogue import AppCatalogue, titles_of
from backends.errors import InvalidOffer, NoBackend
from backends.geography import ClientPlace, Place
from backends.model import Backend, BackendId, agent_of
from backends.offerings import AgentOffering, GpuMemory, HostOffering, HostStatus
from backends.policies import ByDistance, Policy
from backends.records import DrainRecord
from backends.registry import ConnectionId, Registry, RegistryRules
from backends.selection import Decision, Explanation, LaunchIntent, explain, select
from backends.slots import Reservation
from backends.store import Store
from backends.telling_apart import Telling
from backends.tokens import token_hash
from moonlight.identity import short_id
from proxy.access import Access, everything
from proxy.backend_figures import BackendFigures, failure_of
from proxy.errors import EdgeError, HostUnavailable
from proxy.events import EventKind, Events
from revdial import messages
from revdial.errors import TunnelError, printable
from revdial.tunnel import AgentTunnel

_log = structlog.get_logger()

agent_offline: Final = "agent_offline"
dismissal_s: Final = 30.0
"""How long a dismissed agent is not taken: more than a handshake lasts, which may have been under
way with a token that was good when it began."""
min_gpu_memory_bytes: Final = 2 << 30
"""A smaller GPU is one that borrows the machine's memory: its own little bit is always full."""


max_kept_catalogues: Final = 256
"""Of users with rules of their own."""
_services: Final = ("http", "https", "rtsp")


FlowReports = dict[str, dict[str, messages.FlowReport]]


def _nowhere(_address: str) -> ClientPlace:
    return ClientPlace()


@dataclass(frozen=True, slots=True)
class _Catalogue:
    apps_version: int
    whole: AppCatalogue


class LaunchFailure(StrEnum):
    """How a backend failed a launch."""

    UNREACHABLE = "unreachable"
    """Its agent could not reach the host, or is not there."""
    TIMEOUT = "timeout"
    REFUSED = "refused"
    """The host answered, but not with what was asked for."""
    OTHER = "other"
    """No valid answer, or pairing did not succeed."""


class Fleet:
    """Which tunnel leads to which backend, and which backend a launch goes to.

    Args:
        store: what is kept of apps, stickiness, tokens and drains.
        registry: the backends.
        policy: chooses among regions.
        locate: tells where a client with an IP address is.
        events: is told of every change of a backend's state.

    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        *,
        policy: Policy | None = None,
        locate: Callable[[str], ClientPlace] = _nowhere,
        events: Events | None = None,
    ) -> None:
        self.locate = locate
        self.decisions: Counter[str] = Counter()
        """Backends chosen, by reason."""
        self.refusals: Counter[str] = Counter()
        """Launches for which there was none, by reason."""
        self.failovers: Counter[str] = Counter()
        """Backends that failed to start what they were chosen for, by reason."""
        self.transitions: Counter[str] = Counter()
        """Changes of backends' states, by the new one."""
        self.figures = BackendFigures()
        self.events = events or Events()
        self._store = store
        self._registry = registry
        self._policy = policy or ByDistance()
        self._tunnels: dict[str, AgentTunnel] = {}
        self._heartbeats: dict[str, messages.Heartbeat] = {}
        self._flow_reports: dict[str, FlowReports] = {}
        self._drains: tuple[DrainRecord, ...] = ()
        self._catalogue: _Catalogue | None = None
        self._allowed_catalogues: dict[Access, tuple[AppCatalogue, AppCatalogue]] = {}
        self._arrival = trio.Event()
        self._dismissed: dict[str, float] = {}

    def dismiss(self, agent_id: str) -> None:
        """End an agent's tunnel: its tokens were revoked, so it does not come back."""
        now = trio.current_time()
        self._dismissed = {
            agent: at for agent, at in self._dismissed.items() if now - at < dismissal_s
        } | {agent_id: now}
        if (tunnel := self._tunnels.get(agent_id)) is not None:
            tunnel.close(messages.CloseCode.DONE, "token_revoked")

    def apply(
        self,
        rules: RegistryRules,
        regions: Mapping[str, Place],
        *,
        policy: Policy,
        locate: Callable[[str], ClientPlace],
    ) -> None:
        """Choose by other rules from now on; sessions stay where they are."""
        self._registry.apply(rules, regions)
        self._policy, self.locate = policy, locate
        self._note_transitions()

    async def authenticate(self, token: str) -> str | None:
        """Return whose token this is, or None: for `revdial.listener.TunnelListener`."""
        return await self._store.agent_for_token_hash(token_hash(token))

    async def serve_agent(self, tunnel: AgentTunnel) -> None:
        """Offer an agent's hosts; when its tunnel ends they are unhealthy, and later forgotten."""
        dismissed_at = self._dismissed.get(tunnel.agent_id)
        if dismissed_at is not None and trio.current_time() - dismissed_at < dismissal_s:
            _log.warning("agent_refused", agent=tunnel.agent_id, reason="token_revoked")
            return
        try:
            connection = self._registry.agent_connected(_offering(tunnel), now=trio.current_time())
        except InvalidOffer as error:
            _log.warning(
                "agent_refused", agent=tunnel.agent_id, reason=error.reason, why=str(error)
            )
            return
        self._tunnels[tunnel.agent_id] = tunnel
        self.figures.connected(tunnel.agent_id)
        self._note_transitions()
        self._arrival.set()
        self._arrival = trio.Event()
        try:
            async for heartbeat in tunnel.heartbeats:
                self._note(tunnel, connection, heartbeat)
        finally:
            self.figures.tunnel_ended(
                tunnel.agent_id, warm_dials=tunnel.warm_dials, cold_dials=tunnel.cold_dials
            )
            self._registry.agent_gone(tunnel.agent_id, connection, now=trio.current_time())
            if self._tunnels.get(tunnel.agent_id) is tunnel:
                del self._tunnels[tunnel.agent_id]
                self._heartbeats.pop(tunnel.agent_id, None)
                self._flow_reports.pop(tunnel.agent_id, None)
            self._note_transitions()

    def _note(
        self, tunnel: AgentTunnel, connection: ConnectionId, heartbeat: messages.Heartbeat
    ) -> None:
        if self._tunnels.get(tunnel.agent_id) is tunnel:
            self._heartbeats[tunnel.agent_id] = heartbeat
            reports = self._flow_reports[tunnel.agent_id] = {}
            for report in heartbeat.flows:
                reports.setdefault(report.session, {})[report.flow] = report
        self._registry.heartbeat(
            tunnel.agent_id,
            connection,
            [_status(report) for report in heartbeat.hosts],
            now=trio.current_time(),
            rtt_s=tunnel.rtt_s,
        )
        self._note_transitions()

    def _note_transitions(self) -> None:
        for change in self._registry.transitions():
            if change.after is None:
                connected = self.is_connected(change.backend_id)
                self.figures.forget(change.backend_id, connected=connected)
            after = "gone" if change.after is None else str(change.after)
            self.transitions[after] += 1
            details = {"before": "new" if change.before is None else str(change.before)}
            if change.trouble is not None:
                details["trouble"] = change.trouble
            self.events.note(EventKind.BACKEND_STATE, change.backend_id, state=after, **details)

    def note_connection_failure(
        self, backend_id: BackendId, error: EdgeError | TunnelError
    ) -> None:
        """Count a connection to a host that failed."""
        self.figures.failed(backend_id, failure_of(error))

    def last_heartbeat(self, agent_id: str) -> messages.Heartbeat | None:
        """Return what a connected agent said last."""
        return self._heartbeats.get(agent_id)

    def flow_reports(self, backend_id: BackendId) -> FlowReports:
        """Return what a backend's agent said last of flows, by session and kind."""
        return self._flow_reports.get(agent_of(backend_id), {})

    @property
    def connected_agents(self) -> int:
        """How many agents are connected."""
        return len(self._tunnels)

    def tunnel_of(self, agent_id: str) -> AgentTunnel | None:
        """Return an agent's tunnel, if it is connected."""
        return self._tunnels.get(agent_id)

    def drains(self) -> tuple[DrainRecord, ...]:
        """Return the drains as last read from the store."""
        return self._drains

    async def load_drains(self) -> None:
        """Take over which backends and agents drain, as the store has it."""
        self._drains = await self._store.list_drains()
        self._registry.set_drains(drain.target for drain in self._drains)
        self._note_transitions()

    def is_overdue(self, backend_id: BackendId, now: datetime) -> bool:
        """Tell whether a backend has drained for as long as its sessions were given."""
        return any(
            drain.deadline is not None and drain.deadline <= now and drain.covers(backend_id)
            for drain in self._drains
        )

    def _candidates(self) -> Candidates:
        candidates = self._registry.candidates(now=trio.current_time())
        self._note_transitions()
        return candidates

    def backends(self) -> tuple[Backend, ...]:
        """Return all backends as they are now, by id; those away for a short while included."""
        return tuple(self._candidates())

    def backend(self, backend_id: BackendId) -> Backend | None:
        """Return one backend, if it is known."""
        return self._candidates().get(backend_id)

    def is_down(self, backend_id: BackendId) -> bool:
        """Tell whether a host's own probes say that it is down."""
        return self._registry.is_down(backend_id)

    async def catalogue(self, access: Access | None = None) -> AppCatalogue:
        """Return the union of all backends' apps, as far as a user may use them.

        Raises:
            backends.errors.StoreError: the store could not tell the apps' ids.

        """
        candidates = self._candidates()
        version = candidates.apps_version
        if self._catalogue is None or self._catalogue.apps_version != version:
            backends = tuple(candidates)
            ids = await self._store.app_ids_for(titles_of(backends))
            self._catalogue = _Catalogue(version, AppCatalogue.merge(backends, ids))
        whole = self._catalogue.whole
        return whole if access is None else self._allowed(whole, access)

    def _allowed(self, catalogue: AppCatalogue, access: Access) -> AppCatalogue:
        if access == everything:
            return catalogue
        found = self._allowed_catalogues.get(access)
        if found is None or found[0] is not catalogue:
            found = self._allowed_catalogues[access] = catalogue, self._filter(catalogue, access)
            if len(self._allowed_catalogues) > max_kept_catalogues:
                del self._allowed_catalogues[next(iter(self._allowed_catalogues))]
        return found[1]

    def _filter(self, catalogue: AppCatalogue, access: Access) -> AppCatalogue:
        allowed = {known.id for known in self.backends() if access.allows_region(known.region)}
        apps = []
        for app in catalogue.apps:
            if access.allows_app(app.title):
                offers = {name: number for name, number in app.offers.items() if name in allowed}
                if offers:
                    apps.append(replace(app, offers=offers))
        return AppCatalogue(tuple(apps))

    async def choose(self, intent: LaunchIntent) -> tuple[Decision, Reservation]:
        """Choose a backend for a launch and take a slot there.

        Raises:
            backends.errors.NoBackend: nothing is left; the message is for the player.
            backends.errors.StoreError: the store could not tell where the client played last.

        """
        sticky = await self._store.get_sticky(intent.client)
        # From here to the reservation nothing waits, so no two launches take one slot.
        try:
            decision = select(
                intent,
                self._candidates(),
                sticky=sticky,
                now=datetime.now(UTC),
                policy=self._policy,
            )
            reservation = self._registry.reserve(decision.backend.id)
        except NoBackend as error:
            self.refusals[error.reason] += 1
            client = short_id(intent.client)
            self.events.keep(EventKind.LAUNCH_WITHOUT_BACKEND, client, reason=error.reason)
            raise
        self.decisions[decision.reason] += 1
        return decision, reservation

    def has_room(self, intent: LaunchIntent) -> bool:
        """Tell whether there is a backend for a launch, whatever is sticky."""
        try:
            select(intent, self._candidates(), now=datetime.now(UTC), policy=self._policy)
        except NoBackend:
            return False
        return True

    async def explain(self, intent: LaunchIntent, running: BackendId | None) -> Explanation:
        """Tell what a launch would get now, and how every backend fares; changes nothing.

        Raises:
            backends.errors.StoreError: the store could not tell where the client played last.

        """
        sticky = await self._store.get_sticky(intent.client)
        return explain(
            intent,
            self._candidates(),
            sticky=sticky,
            running=running,
            now=datetime.now(UTC),
            policy=self._policy,
        )

    def note_failure(self, backend_id: BackendId, failure: LaunchFailure) -> None:
        """Count a launch that its backend failed; where the host cannot be dialled, as a miss."""
        self.failovers[failure] += 1
        self.events.keep(EventKind.LAUNCH_FAILED, backend_id, reason=str(failure))
        if failure is LaunchFailure.UNREACHABLE:
            self._registry.launch_failed(backend_id, now=trio.current_time())
            self._note_transitions()

    def started(self, reservation: Reservation) -> None:
        """Note that the host accepted the launch."""
        self._registry.started(reservation)

    def release(self, reservation: Reservation) -> None:
        """Give a slot back; once is enough, more does no harm."""
        self._registry.release(reservation)

    def restore(self, backend_id: BackendId) -> Reservation:
        """Take the slot of a session that the store remembers."""
        return self._registry.restore(backend_id)

    def has_agent(self, agent_id: str) -> bool:
        """Tell whether an agent is connected."""
        return agent_id in self._tunnels

    def note_launched(self, backend_id: BackendId, label: str) -> None:
        """Note the host text of the ``sessionUrl0`` that a host has answered."""
        before = self.telling(backend_id)
        self._registry.note_launched(backend_id, label)
        self._note_telling(backend_id, before)

    def note_set_up(self, backend_id: BackendId, *, secret: bool) -> None:
        """Note whether a host has answered SETUP with a secret of the session."""
        before = self.telling(backend_id)
        self._registry.note_set_up(backend_id, secret=secret)
        self._note_telling(backend_id, before)

    def _note_telling(self, backend_id: BackendId, before: Telling) -> None:
        after = self.telling(backend_id)
        if after is not before and Telling.ALONE in (before, after):
            # It changes how many sessions the host is given.
            self.events.note(EventKind.HOST_TELLS_SESSIONS_APART, backend_id, how=str(after))

    def telling(self, backend_id: BackendId) -> Telling:
        """Tell how sessions have to be kept from being mixed up at a host."""
        return self._registry.telling(backend_id)

    def missing_sessions(self, backend_id: BackendId) -> int | None:
        """Tell how many sessions a host ought to have counted and did not; None: it counts none."""
        return self._registry.missing_sessions(backend_id)

    def is_connected(self, backend_id: BackendId) -> bool:
        """Tell whether there is a tunnel to a backend."""
        return agent_of(backend_id) in self._tunnels

    def tunnel(self, backend_id: BackendId) -> AgentTunnel:
        """Return the tunnel to a backend.

        Raises:
            HostUnavailable: its agent is not connected.

        """
        tunnel = self._tunnels.get(agent_of(backend_id))
        if tunnel is None:
            raise HostUnavailable(
                agent_offline, f"the agent of {backend_id} is not connected to this edge"
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
            HostOffering(
                host.name,
                printable(host.kind),
                host.max_sessions,
                _apps(host.apps),
                own_addresses=host.own_addresses,
                by_address=host.by_address,
            )
            for host in hello.hosts
        ),
    )


def _status(report: messages.HostReport) -> HostStatus:
    # Of what an agent names only what is ours to name: it is shown to operators.
    closed = (service for service in _services if report.ports.get(service) is False)
    down = None if report.reachable else next(closed, "host")
    return HostStatus(
        name=report.name,
        down=down,
        sessions=report.sessions,
        apps=None if report.apps is None else _apps(report.apps),
        gpu_memory=_gpu_memory(report.gpus),
    )


def counts(gpu: messages.GpuReport) -> bool:
    """Tell whether a GPU has memory of its own, as far as is known."""
    total = gpu.memory_total_bytes
    return total is not None and total >= min_gpu_memory_bytes


def _gpu_memory(gpus: Iterable[messages.GpuReport]) -> GpuMemory | None:
    """Return the memory of the fullest GPU; None while that is not known of all that count."""
    known = []
    for gpu in gpus:
        used, total = gpu.memory_used_bytes, gpu.memory_total_bytes
        if total is not None and counts(gpu):
            if used is None:
                return None
            known.append(GpuMemory(used, total))
    return max(known, key=lambda memory: memory.used / memory.total, default=None)


def _apps(offers: Iterable[messages.AppOffer]) -> tuple[AppOffer, ...]:
    return tuple(AppOffer(offer.title, offer.id, offer.hdr) for offer in offers)
