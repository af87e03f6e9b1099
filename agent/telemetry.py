"""What the agent tells of its hosts: offers in the hello, and how they are in each heartbeat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
import trio
from msgspec.structs import replace

from agent.budget import fit, max_app_bytes, max_gpu_bytes
from agent.config import HostConfig, LimitsConfig
from agent.errors import HostApiError
from agent.host_api import HostApi, open_api
from agent.host_gpus import HostGpus
from agent.machine import MachineState
from revdial.messages import AppOffer, Heartbeat, HostOffer, HostReport


class Telemetry:
    """Watches the configured hosts; made by ``async with Telemetry.open(hosts, limits, …)``."""

    def __init__(
        self, watches: Sequence[_HostWatch], read_machine: Callable[[], Awaitable[MachineState]]
    ) -> None:
        self._read_machine = read_machine
        self._watches = tuple(watches)
        self._apis = {watch.name: watch.api for watch in watches}

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        hosts: Sequence[HostConfig],
        limits: LimitsConfig,
        read_machine: Callable[[], Awaitable[MachineState]],
    ) -> AsyncIterator[Telemetry]:
        """Open the hosts' APIs; asks them nothing yet. `read_machine` keeps its own deadline.

        Raises `settings.ConfigError` where files that the hosts' settings name cannot be used.
        """
        async with AsyncExitStack() as stack:
            watches = []
            for host in hosts:
                api = await stack.enter_async_context(open_api(host, limits))
                watches.append(_HostWatch(host, api, limits.probe_timeout_s, len(hosts)))
            yield cls(watches, read_machine)

    def api(self, host: str) -> HostApi | None:
        """Give the API of a host, if it has one."""
        return self._apis.get(host)

    async def refresh_apps(self) -> None:
        """Ask the hosts for their apps, so that the first hello has them."""
        async with trio.open_nursery() as nursery:
            for watch in self._watches:
                nursery.start_soon(watch.refresh_apps)

    def offers(self) -> tuple[HostOffer, ...]:
        """Give what a hello says of the hosts, with the apps as last heard."""
        return tuple(watch.offer() for watch in self._watches)

    async def heartbeat(self) -> Heartbeat:
        """Look at all hosts and at the machine at once."""
        reports: dict[str, HostReport] = {}

        async def look(watch: _HostWatch) -> None:
            reports[watch.name] = await watch.report()

        async with trio.open_nursery() as nursery:
            for watch in self._watches:
                nursery.start_soon(look, watch)
            machine = await self._read_machine()
        load = machine.load
        return Heartbeat(
            hosts=tuple(
                replace(reports[watch.name], gpus=watch.gpus.reports(machine))
                for watch in self._watches
            ),
            cpu_percent=load.cpu_percent,
            memory_used_bytes=load.memory_used_bytes,
            memory_total_bytes=load.memory_total_bytes,
            network_receive_bits_per_s=load.network_receive_bits_per_s,
            network_send_bits_per_s=load.network_send_bits_per_s,
        )


class _HostWatch:
    """One host: its apps as last heard and as last told, its ports, its sessions, its GPUs."""

    def __init__(
        self, host: HostConfig, api: HostApi | None, probe_timeout_s: float, hosts: int
    ) -> None:
        self.name = host.name
        self.gpus = HostGpus(host, max_gpu_bytes // hosts)
        self.api = api
        self._host = host
        self._probe_timeout_s = probe_timeout_s
        self._max_app_bytes = max_app_bytes // hosts
        self._apps: tuple[AppOffer, ...] = ()
        self._told: tuple[AppOffer, ...] | None = None
        self._api_answers = True
        self._log = structlog.get_logger().bind(host=host.name)
        if host.apps is not None:
            self._take(tuple(AppOffer(app.title, app.id, app.hdr) for app in host.apps))

    def offer(self) -> HostOffer:
        host = self._host
        self._told = self._apps
        return HostOffer(
            name=host.name,
            kind=host.kind,
            max_sessions=host.max_sessions,
            apps=self._apps,
            http_port=host.http_port,
            https_port=host.https_port,
            rtsp_port=host.rtsp_port,
            own_addresses=host.takes_source_addresses,
            by_address=host.identifies_sessions_by == "address",
        )

    async def report(self) -> HostReport:
        ports: dict[str, bool] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe, ports, "http", self._host.http_port)
            nursery.start_soon(self._probe, ports, "https", self._host.https_port)
            nursery.start_soon(self._probe, ports, "rtsp", self._host.rtsp_port)
            nursery.start_soon(self.refresh_apps)
        # Last, so that it is not old already: a place that is free again would seem taken.
        sessions = await self._session_count()
        changed = self._apps != self._told
        self._told = self._apps
        return HostReport(
            name=self.name,
            reachable=all(ports.values()),
            ports=ports,
            sessions=sessions,
            apps=self._apps if changed else None,
        )

    async def refresh_apps(self) -> None:
        """Ask for the apps; what was heard last stays while the host does not say."""
        if self.api is None or self._host.apps is not None:
            return
        try:
            apps = await self.api.apps()
        except HostApiError as error:
            self._api_failed(error)
            return
        if not self._api_answers:
            self._api_answers = True
            self._log.info("host_api_answers_again")
        self._take(apps)

    async def _session_count(self) -> int | None:
        if self.api is None:
            return None
        try:
            return await self.api.session_count()
        except HostApiError as error:
            self._api_failed(error)
            return None

    def _take(self, apps: tuple[AppOffer, ...]) -> None:
        kept = fit(apps, self._max_app_bytes)
        if len(kept) < len(apps) and kept != self._apps:
            self._log.warning("apps_left_out", apps=len(apps), told=len(kept))
        self._apps = kept

    def _api_failed(self, error: HostApiError) -> None:
        # Once, and not with each heartbeat until somebody repairs it.
        if self._api_answers:
            self._api_answers = False
            self._log.warning("host_api_failed", reason=error.reason, why=str(error))

    async def _probe(self, ports: dict[str, bool], service: str, port: int) -> None:
        ports[service] = False
        with trio.move_on_after(self._probe_timeout_s):
            try:
                stream = await trio.open_tcp_stream(str(self._host.address), port)
            except OSError:
                return
            ports[service] = True
            await stream.aclose()
