"""The checks of an edge, on its own machine, whether it runs or not; none of them changes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from backends.errors import StoreError
from backends.geoip import GeoDatabase
from moonhost.admin_client import AdminClient, NoEdge
from moonhost.checks import machine
from moonhost.checks.certificates import (
    UnusableCertificate,
    judge_certificate,
    judge_shown,
    read_certificate,
)
from moonhost.checks.finding import Finding, not_checked, ok, problem, warning
from moonhost.checks.judging_fleet import (
    GeoFile,
    Place,
    ProbeFacts,
    WakeWish,
    is_near,
    judge_agents,
    judge_backends,
    judge_drains,
    judge_place,
    judge_probe,
    judge_wakes,
    no_probe,
    reached,
)
from moonhost.checks.judging_machine import (
    Descriptors,
    judge_buffers,
    judge_clock,
    judge_configured_files,
    judge_descriptors,
    judge_disk,
    judge_files,
    judge_user,
)
from moonhost.checks.judging_names import NameFacts, judge_name
from moonhost.checks.judging_ports import judge_ports
from moonhost.checks.machine import WantedPort
from moonhost.checks.running import Check, run_checks
from moonhost.errors import AdminError
from proxy import state_dir
from proxy.config import ProxyConfig
from proxy.listening import addresses_here
from proxy.stores import open_store
from revdial.udp import default_buffer_bytes

admin_timeout_s: Final = 3.0
admin_deadline_s: Final = 5.0
probe_deadline_s: Final = 14.0
slow_store_s: Final = 0.05
spare_descriptors: Final = 256
descriptors_a_session: Final = 8
"""Three flows with a UDP socket and a WebSocket each, and streams for RTSP and HTTPS."""
max_probing_agents: Final = 2
_T = TypeVar("_T")


async def check_edge(config: ProxyConfig, command: str) -> list[Finding]:
    """Look at an edge that runs with this configuration, or would; takes 20 s at most.

    `command` is what was typed, for the advice to type it as somebody else.
    """
    return await _Edge(config, command).check()


class _Edge:
    def __init__(self, config: ProxyConfig, command: str) -> None:
        self._config = config
        self._command = command
        self._runs = False
        self._listens = False
        self._process = machine.EdgeProcess()
        self._listening, self._agents_listening = addresses_here(config.listen, config.agents)

    async def check(self) -> list[Finding]:
        first = await run_checks([Check("admin API", self._admin, admin_deadline_s)])
        rest = [
            Check("user", self._user),
            Check("state folder", self._files),
            Check("store", self._store),
            Check("ports", self._ports),
            Check("open files", self._descriptors),
            Check("UDP buffers", self._buffers),
            Check("certificate", self._certificate),
            Check("DNS", self._name),
            Check("clock", self._clock),
            Check("geography", self._place),
            Check("agents", self._fleet),
            Check("wake", self._wakes),
            Check("UDP from outside", self._probe, probe_deadline_s),
        ]
        return [*first, *await run_checks(rest)]

    async def _admin(self) -> list[Finding]:
        """Find out whether the edge runs; all other checks go by that."""
        admin = self._config.admin
        where = f"{admin.address} port {admin.port}"
        try:
            async with AdminClient.anonymous(self._config) as edge:
                with trio.fail_after(admin_timeout_s):
                    ready = await edge.status("/readyz")
        except trio.TooSlowError:
            await self._find_process()
            return [
                problem(
                    "admin API",
                    f"{where} is open, and nothing answers there within {admin_timeout_s:g} s",
                    "If it is the edge, it hangs, or the machine is overloaded (`top`): "
                    "`systemctl restart moonhost-edge` finds its sessions again.",
                )
            ]
        except NoEdge:
            return [
                warning(
                    "admin API",
                    f"no edge answers at {where}",
                    "If it should run, `systemctl start moonhost-edge` (or `moonhost proxy`); why "
                    "it ended, `journalctl -u moonhost-edge` tells. The rest is checked once it "
                    "runs.",
                )
            ]
        except AdminError as error:
            return [problem("admin API", f"{where} cannot be asked", str(error))]
        self._runs = True
        await self._find_process()
        if ready != 200:
            return [
                warning(
                    "admin API",
                    f"the edge at {where} runs and is not ready ({ready})",
                    "It takes no launches: it is about to stop, or its log says why.",
                )
            ]
        return [ok("admin API", f"the edge runs and answers at {where}")]

    async def _find_process(self) -> None:
        admin = self._config.admin
        self._listens = True
        self._process = await _in_thread(partial(machine.edge_process, admin.address, admin.port))

    async def _user(self) -> list[Finding]:
        return [judge_user(machine.user_of(self._config.state_dir), self._command)]

    async def _files(self) -> list[Finding]:
        if machine.is_closed_to_us(self._config.state_dir):
            return [self._closed("state folder")]
        folder = machine.file_facts(self._config.state_dir)
        own, configured = (
            [fact for path in paths if (fact := machine.file_facts(path))]
            for paths in (self._own_files(), self._configured_files())
        )
        free = await _in_thread(partial(machine.free_bytes, self._config.state_dir))
        return [
            *judge_files(folder, own),
            *judge_configured_files(configured),
            judge_disk(self._config.state_dir, free),
        ]

    def _closed(self, check: str) -> Finding:
        why = "it is not ours to look into: run this as the edge's user"
        return not_checked(check, str(self._config.state_dir), why)

    def _own_files(self) -> Iterator[Path]:
        folder = self._config.state_dir
        for name in (state_dir.store_key, state_dir.admin_token, state_dir.agents_private_key):
            yield folder / name
        yield from folder.glob(f"{state_dir.database}*")

    def _configured_files(self) -> Iterator[Path]:
        config, webhook = self._config, self._config.wake.webhook
        for path in (
            config.agents.private_key,
            config.admin.private_key,
            config.admin.token_file,
            config.store.redis_password_file,
            None if webhook is None else webhook.secret_file,
        ):
            if path is not None:
                yield path

    async def _store(self) -> list[Finding]:
        if machine.is_closed_to_us(self._config.state_dir):
            return [self._closed("store")]
        if not (self._config.state_dir / state_dir.store_key).exists():
            why = f"there is no {state_dir.store_key} yet: the edge makes it at its first start"
            return [not_checked("store", self._store_name(), why)]
        began = time.monotonic()
        try:
            async with open_store(self._config, read_only=True) as store:
                opened = time.monotonic()
                identity = await store.get_edge_identity()
                agents = len(await store.list_agents())
        except StoreError as error:
            return [problem("store", str(error), _store_remedy(error.reason))]
        took_s = time.monotonic() - opened
        name = f"{self._store_name()} answers in {took_s * 1000:.0f} ms"
        if identity is None:
            return [not_checked("store", name, "it holds no identity yet: start the edge once")]
        if took_s > slow_store_s and self._config.store.kind == "redis":
            return [
                warning(
                    "store",
                    f"{name} (opened in {(opened - began) * 1000:.0f} ms)",
                    "Launches wait for it several times: put the server nearer to the edge.",
                )
            ]
        return [ok("store", f"{name}, its key fits; agents with tokens: {agents}")]

    def _store_name(self) -> str:
        if self._config.store.kind == "redis":
            return "the Redis server"
        return str(self._config.state_dir / state_dir.database)

    async def _ports(self) -> list[Finding]:
        wanted = list(self._wanted_ports())
        look = (
            partial(machine.own_ports, edge=self._process) if self._listens else machine.try_ports
        )
        return judge_ports(await _in_thread(partial(look, wanted)))

    def _wanted_ports(self) -> Iterator[WantedPort]:
        listen, agents, admin = self._config.listen, self._config.agents, self._config.admin
        for address in self._listening:
            yield WantedPort("TCP", address, listen.http_port, "listen.http_port")
            yield WantedPort("TCP", address, listen.https_port, "listen.https_port")
            for port in listen.rtsp_port_range:
                yield WantedPort("TCP", address, port, "listen.rtsp_ports")
            yield WantedPort("UDP", address, listen.video_port, "listen.video_port")
            yield WantedPort("UDP", address, listen.control_port, "listen.control_port")
            yield WantedPort("UDP", address, listen.audio_port, "listen.audio_port")
            for port in listen.own_udp_port_range:
                yield WantedPort("UDP", address, port, "listen.own_udp_ports")
            if self._config.wake.hosts:
                # Those that nobody listed may be missing.
                for port in self._config.wake.ports or ():
                    yield WantedPort("UDP", address, port, "wake.ports")
        for address in self._agents_listening:
            yield WantedPort("TCP", address, agents.port, "agents.port")
        yield WantedPort("TCP", admin.address, admin.port, "admin.port")

    async def _descriptors(self) -> list[Finding]:
        allowed, of_running = machine.allowed_descriptors(self._process.pid)
        needed = (
            self._config.limits.max_connections
            + self._config.agents.max_agents
            + descriptors_a_session * self._config.sessions.max_sessions
            + spare_descriptors
        )
        return [judge_descriptors(Descriptors(allowed, needed, of_running))]

    async def _buffers(self) -> list[Finding]:
        return [judge_buffers(machine.buffers(), default_buffer_bytes)]

    async def _certificate(self) -> list[Finding]:
        agents, folder = self._config.agents, self._config.state_dir
        chain = agents.certificate or folder / state_dir.agents_certificate
        key = agents.private_key or folder / state_dir.agents_private_key
        if agents.certificate is None and machine.is_closed_to_us(folder):
            return [self._closed("certificate")]
        if agents.certificate is None and not (chain.exists() and key.exists()):
            why = "the edge makes one of its own at its first start"
            return [not_checked("certificate", f"there is no {chain}", why)]
        try:
            facts = read_certificate(chain.read_bytes(), key.read_bytes())
        except PermissionError as error:
            why = f"{error.filename} is not readable: run this as the edge's user"
            return [not_checked("certificate", str(chain), why)]
        except OSError as error:
            seen = f"{error.filename} cannot be read: {error.strerror}"
            remedy = "Set agents.certificate and agents.private_key to files that are there."
            return [problem("certificate", seen, remedy)]
        except UnusableCertificate as error:
            remedy = f"Write PEM files to {chain} and {key}."
            return [problem("certificate", str(error), remedy)]
        shown = None
        if self._runs:
            shown = await machine.shown_certificate(self._agents_listening[0], agents.port)
        stale = judge_shown(facts, shown)
        return [*stale, *judge_certificate(facts, self._config.hostname, datetime.now(UTC))]

    async def _name(self) -> list[Finding]:
        hostname = self._config.hostname
        return judge_name(
            NameFacts(
                hostname,
                await machine.addresses_of(hostname),
                machine.own_addresses(),
                listens_on_ipv6=all(
                    any(":" in address for address in addresses)
                    for addresses in (self._listening, self._agents_listening)
                ),
            )
        )

    async def _clock(self) -> list[Finding]:
        return [judge_clock(machine.clock_is_synchronised())]

    async def _place(self) -> list[Finding]:
        geography = self._config.geography
        database = GeoDatabase(geography.databases)
        await database.reload_if_changed()
        files = tuple(
            GeoFile(status.path, status.problem, status.built_at) for status in database.status()
        )
        place = Place(geography.edge_region, bool(self._config.regions), files)
        return judge_place(place, datetime.now(UTC))

    async def _fleet(self) -> list[Finding]:
        if not self._runs:
            return [not_checked("agents", "which are connected", "no edge runs")]
        try:
            async with AdminClient.of(self._config) as edge:
                agents = await edge.get_all("/api/v1/agents")
                backends = await edge.get_all("/api/v1/backends")
                drains = await edge.get_all("/api/v1/drains")
        except AdminError as error:
            return [not_checked("agents", "which are connected", str(error))]
        sleepers = {host.backend for host in self._config.wake.hosts}
        return [
            *judge_agents(agents),
            *judge_backends(backends, sleepers),
            *judge_drains(drains, datetime.now(UTC)),
        ]

    async def _wakes(self) -> list[Finding]:
        wishes = [WakeWish(host.backend, host.via_agent) for host in self._config.wake.hosts]
        if not wishes:
            return []
        if machine.is_closed_to_us(self._config.state_dir):
            return [self._closed("wake")]
        try:
            async with open_store(self._config, read_only=True) as store:
                agents = {record.agent_id for record in await store.list_agents()}
        except StoreError:
            return [not_checked("wake", "whether the agents are known", "the store was not read")]
        return judge_wakes(wishes, agents)

    async def _probe(self) -> list[Finding]:
        if not self._runs:
            return [no_probe("no edge runs")]
        try:
            async with AdminClient.of(self._config) as edge:
                agents = await edge.get_all("/api/v1/agents")
                connected = [agent for agent in agents if agent["connected"]]
                if not connected:
                    return [no_probe("no agent is connected that could be asked to send some")]
                return await self._first_probe(edge, connected)
        except AdminError as error:
            return [no_probe(str(error))]

    async def _first_probe(
        self, edge: AdminClient, agents: Sequence[dict[str, Any]]
    ) -> list[Finding]:
        """Ask agents in turn, first those outside: one that is older cannot say anything."""
        listen = self._config.listen
        numbers = {
            "video": listen.video_port,
            "audio": listen.audio_port,
            "control": listen.control_port,
        }
        why = ""
        by_distance = sorted(agents, key=lambda agent: is_near(agent["address"]))
        for agent in by_distance[:max_probing_agents]:
            try:
                told = await edge.post(f"/api/v1/agents/{agent['id']}/probe", {})
            except AdminError as error:
                why = str(error)
                continue
            ports = {
                flow: (numbers[flow], how == reached)
                for flow, how in told["ports"].items()
                if flow in numbers
            }
            return judge_probe(
                ProbeFacts(
                    agent["id"],
                    told["sent_to"],
                    self._config.hostname,
                    ports,
                    is_near=is_near(agent["address"]),
                )
            )
        return [no_probe(why)]


def _store_remedy(reason: str) -> str:
    return {
        "bad_secret": f"Bring back the {state_dir.store_key} that belongs to this store.",
        "bad_key": f"Bring back the {state_dir.store_key} that belongs to this store.",
        "key_unreadable": "Give it to the edge's user (`chown`), or run this as that user.",
        "key_exposed": "Do so, and think of the key as known to whoever could log in here.",
    }.get(reason, "Set [store] right, or start what it names.")


async def _in_thread(function: Callable[[], _T]) -> _T:
    return await trio.to_thread.run_sync(function, abandon_on_cancel=True)
