"""An edge and simulated hosts behind agents, as processes on this machine while something lasts.

Each is started by the command that an operator uses, with a configuration file written for the
occasion.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from moonhost.admin_client import AdminClient
from moonhost.errors import AdminError, CommandFailed
from moonhost.ports import NoRoom, find_shift
from moonhost.processes import Processes, run_python
from moonhost.sample_configs import SampleHost, write_agent_config, write_edge_config
from proxy.config import ProxyConfig
from settings import load_toml
from simulator.picture import PictureKind

start_timeout_s: Final = 60.0
poll_s: Final = 0.1

_host_ports: Final = {
    "http-port": 47989,
    "https-port": 47984,
    "rtsp-port": 48010,
    "video-port": 48100,
    "audio-port": 48200,
    "control-port": 47999,
}
_host_tcp: Final = (47984, 47989, 48010)
# Hosts begin here, so that the edge may listen on all addresses with the standard ports; and below
# those ports that the system gives to connections.
_hosts_start: Final = -38_000
_edge: Final = "edge"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalHost:
    """A simulated host, and where it pretends to be."""

    region: str
    address: str
    max_sessions: int
    latitude: float = 0.0
    longitude: float = 0.0
    picture: PictureKind = "card"
    behave_like: str = "wolf-2026"
    max_mbps: float | None = None
    """What it sends to a client at most; None: what the client asks for."""
    slowdown: float = 1.0

    @property
    def process(self) -> str:
        """The name of its process and its log."""
        return f"host-{self.region}"

    @property
    def agent(self) -> str:
        """The name of its agent's process and log."""
        return f"agent-{self.region}"


class LocalDeployment:
    """Starts one edge, then hosts; `say` shows progress.

    Raises:
        CommandFailed: something did not start or did not answer; shows the end of its log.

    """

    def __init__(self, folder: Path, processes: Processes, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._processes = processes
        self._say = say
        self._hosts: list[LocalHost] = []
        self._shift = _hosts_start

    @property
    def edge_config_path(self) -> Path:
        """The edge's configuration file, for the commands."""
        return self._folder / "edge.toml"

    @property
    def pids(self) -> dict[str, int]:
        """The numbers of the processes that were started, by name."""
        return self._processes.pids

    async def require(self, package: str, extra: str) -> None:
        """Fail if a package of an extra of moonhost is not installed."""
        if (await run_python("-c", f"import {package}")).returncode:
            raise CommandFailed(
                f"the package {package} is missing: install 'moonhost[{extra}]', "
                "or use `make demo`, which does."
            )

    async def start_edge(
        self, listen: str = "127.0.0.1", settings: str = "", *, rtsp_ports: int = 1
    ) -> ProxyConfig:
        """Start the edge and return its configuration once it answers.

        `settings` is TOML for the end of its file; see `write_edge_config` for `rtsp_ports`.
        """
        self._say("Starting an edge ...")
        try:
            path = write_edge_config(self._folder, listen, settings=settings, rtsp_ports=rtsp_ports)
        except NoRoom as error:
            raise CommandFailed(str(error)) from error
        config = load_toml(path, ProxyConfig, "MOONHOST_DEMO")
        await self._processes.start(_edge, "proxy", "--config", str(path))

        async def answers() -> bool:
            try:
                async with AdminClient.of(config) as edge:
                    await edge.get_all("/api/v1/backends")
            except AdminError:
                return False
            return True

        await self.wait_for(answers, "the edge did not start in time", _edge)
        return config

    async def start_host(self, config: ProxyConfig, host: LocalHost) -> None:
        """Start a host on free ports, and its agent."""
        self._say(f"Starting a host in {host.region}, behind its agent ...")
        sessions = range(host.max_sessions)
        udp = (47999, *(48100 + n for n in sessions), *(48200 + n for n in sessions))
        try:
            self._shift = find_shift(host.address, _host_tcp, udp, start=self._shift)
        except NoRoom as error:
            raise CommandFailed(str(error)) from error
        ports = {name: port + self._shift for name, port in _host_ports.items()}
        region, socket_path = host.region, self._folder / f"{host.region}.sock"
        await self._processes.start(
            host.process,
            *("simulate-host", "--name", region, "--region", region, "--address", host.address),
            *("--api-socket", str(socket_path), "--max-sessions", str(host.max_sessions)),
            *("--picture", host.picture, "--behave-like", host.behave_like),
            *("--slowdown", str(host.slowdown)),
            *(() if host.max_mbps is None else ("--max-mbps", str(host.max_mbps))),
            *(part for name, port in ports.items() for part in (f"--{name}", str(port))),
        )
        last_audio_port = ports["audio-port"] + host.max_sessions - 1
        sample = SampleHost(
            name=region,
            region=region,
            address=host.address,
            http_port=ports["http-port"],
            https_port=ports["https-port"],
            rtsp_port=ports["rtsp-port"],
            udp_ports=f"{ports['control-port']},{ports['video-port']}-{last_audio_port}",
            wolf_socket=socket_path,
            max_sessions=host.max_sessions,
            latitude=host.latitude,
            longitude=host.longitude,
        )
        path = write_agent_config(self._folder, config, sample, await self._make_token(region))
        late = f"the host in {region} did not start in time"
        await self.wait_for(trio.Path(socket_path).exists, late, host.process)
        await self._processes.start(host.agent, "agent", "--config", str(path))
        self._hosts.append(host)

    async def _make_token(self, name: str) -> str:
        config = str(self.edge_config_path)
        done = await run_python("-m", "moonhost", "token", "agent", name, "--config", config)
        if done.returncode:
            raise CommandFailed(f"no token could be made: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode().strip()

    async def wait_for_backends(self, config: ProxyConfig) -> None:
        """Wait until every host's agent has dialled home."""
        async with AdminClient.of(config) as edge:

            async def all_healthy() -> bool:
                backends = await edge.get_all("/api/v1/backends")
                return len([known for known in backends if known["state"] == "healthy"]) == len(
                    self._hosts
                )

            agents = [host.agent for host in self._hosts]
            await self.wait_for(all_healthy, "not all agents dialled home in time", *agents)

    async def wait_for(self, check: Callable[[], Awaitable[Any]], failure: str, *logs: str) -> Any:
        """Ask until the answer is true, and return it; fail with the ends of these logs."""
        with trio.move_on_after(start_timeout_s):
            while not (found := await check()):  # noqa: ASYNC110 - other processes: only asking tells
                await trio.sleep(poll_s)
            return found
        raise self.failed(failure, *logs)

    def failed(self, failure: str, *logs: str) -> CommandFailed:
        """Return the error that shows the ends of these logs."""
        return CommandFailed("\n".join([f"{failure}.", *map(self._processes.tail, logs)]))
