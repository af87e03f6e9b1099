"""An edge and agents as they really run, each a process of its own, with sessions under way.

The sessions are written into the edge's store before it starts, as an edge that was restarted in
mid-stream finds them. So their flows open as they always do, through real agents and real TLS,
while pairing and launching, which cost a host and a client of their own, are left out.
"""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from backends.model import backend_id
from backends.slots import Reservation
from backends.sqlite import SqliteStore
from backends.tokens import new_agent_token, token_hash
from backends.vault import load_or_create_key
from bench.host import HostSession
from bench.machine import Usage, usage_of_all
from bench.player import PlayerSession
from moonlight.flows import Flow
from moonlight.identity import ClientId
from moonlight.launch import RtspUrl
from moonlight.ping import new_ping_payload
from proxy import state_dir
from proxy.session_records import to_record
from proxy.sessions import (
    FlowTerms,
    Session,
    SessionState,
    StreamKey,
    VideoEncryption,
    VideoEncryptor,
    new_session_id,
)

host_name: Final = "host"
first_host_port: Final = 20_000
ports_per_session: Final = 3
start_timeout_s: Final = 30.0
stop_timeout_s: Final = 15.0
agents_port: Final = 16_981
_edge_ports: Final = {
    "http": 16_989,
    "https": 16_984,
    "rtsp": 16_010,
    "video": 16_998,
    "control": 16_999,
    "audio": 17_000,
    "agents": agents_port,
    "admin": 16_980,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where everything is. The prefixes run a command elsewhere, as in a network namespace."""

    folder: Path
    sessions: int
    agents: int = 1
    edge_address: str = "127.0.0.1"
    """Where agents find the edge."""
    listen_address: str = "127.0.0.1"
    """Where clients find it."""
    client_address: str = "127.0.0.1"
    host_address: str = "127.0.0.1"
    audio: bool = False
    control: bool = False
    encrypted: bool = False
    """The edge encrypts video, as it does for clients that chose it."""
    edge_prefix: tuple[str, ...] = ()
    agent_prefix: tuple[str, ...] = ()
    module: str = "moonhost"
    """What is run as ``python -m … agent``."""
    edge_settings: str = ""
    """TOML for the end of the edge's configuration."""
    max_agents: int = 1_024
    """How many the edge takes; the product's default."""
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Deployment:
    """A running edge and its agents."""

    layout: Layout
    host_sessions: tuple[HostSession, ...]
    player_sessions: tuple[PlayerSession, ...]
    edge_pid: int = 0
    agent_pids: tuple[int, ...] = ()

    def edge_usage(self) -> Usage:
        """Return what the edge has used."""
        return usage_of_all([self.edge_pid])

    def agent_usage(self) -> Usage:
        """Return what the agents have used together."""
        return usage_of_all(list(self.agent_pids))


class Process:
    """A process that is told and tells one line at a time."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self._name = name
        self._process = process
        self._received = b""

    @classmethod
    @asynccontextmanager
    async def start(
        cls, name: str, arguments: Sequence[str], first_line: str = ""
    ) -> AsyncIterator[Process]:
        """Run a command for as long as the block; `first_line` is its first input."""
        process = await trio.lowlevel.open_process(
            list(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            made = cls(name, process)
            if first_line:
                await made.say(first_line)
            yield made
        finally:
            with trio.CancelScope(shield=True):
                await end(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def say(self, line: str) -> None:
        """Give it a line."""
        assert self._process.stdin is not None  # noqa: S101 - it was opened with a pipe
        await self._process.stdin.send_all(line.encode() + b"\n")

    async def line(self, timeout_s: float) -> str:
        """Take its next line; raises RuntimeError where it ended instead."""
        assert self._process.stdout is not None  # noqa: S101 - it was opened with a pipe
        with trio.fail_after(timeout_s):
            while b"\n" not in self._received:
                more = await self._process.stdout.receive_some(1 << 16)
                if not more:
                    raise RuntimeError(f"{self._name} ended instead of answering")
                self._received += bytes(more)
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()


def python(module: str) -> list[str]:
    """Return the command that runs a module."""
    return [sys.executable, "-m", module]


async def end(process: trio.Process) -> None:
    """Stop a process, politely first."""
    if process.returncode is None:
        process.terminate()
        with trio.move_on_after(stop_timeout_s):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


@asynccontextmanager
async def deployed(layout: Layout) -> AsyncIterator[Deployment]:
    """Run an edge and its agents until the end of the block, with all tunnels up.

    Raises:
        RuntimeError: something did not start; the text has the end of its log.

    """
    deployment, tokens = await prepare(layout)
    async with trio.open_nursery() as nursery:
        run = partial(_run, nursery, layout)
        try:
            edge = await _start_edge(nursery, layout)
            deployment.edge_pid = edge.pid
            agents = [
                await run(f"agent{index}", layout.agent_prefix, layout.module, "agent", config)
                for index, config in enumerate(_agent_configs(layout, tokens))
            ]
            deployment.agent_pids = tuple(agent.pid for agent in agents)
            await _wait_for_log(edge_log(layout), "tunnel_up", layout.agents)
            yield deployment
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def running_edge(layout: Layout) -> AsyncIterator[trio.Process]:
    """Run an edge alone, on what `prepare` has written, until the end of the block.

    Who kills it leaves the block at once. `edge_log` then has what the next one says.

    Raises:
        RuntimeError: it did not start, or has ended; the text has the end of its log.

    """
    async with trio.open_nursery() as nursery:
        try:
            yield await _start_edge(nursery, layout)
        finally:
            nursery.cancel_scope.cancel()


def edge_log(layout: Layout) -> Path:
    """Where the edge writes its log."""
    return layout.folder / "edge.log"


def agents_certificate(layout: Layout) -> Path:
    """What agents have to trust, once the edge has started."""
    return layout.folder / "edge" / state_dir.agents_certificate


async def _start_edge(nursery: trio.Nursery, layout: Layout) -> trio.Process:
    config = _edge_config(layout)
    edge = await _run(nursery, layout, "edge", layout.edge_prefix, layout.module, "proxy", config)
    await _wait_for_log(edge_log(layout), "edge_started", 1)
    return edge


async def _run(
    nursery: trio.Nursery,
    layout: Layout,
    name: str,
    prefix: Sequence[str],
    module: str,
    command: str,
    config: Path,
) -> trio.Process:
    path = layout.folder / f"{name}.log"
    with path.open("wb") as log:
        process = await trio.lowlevel.open_process(
            [*prefix, *python(module), command, "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **dict(layout.environment)},
        )

    async def watch() -> None:
        try:
            await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                await end(process)
        tail = (await trio.Path(path).read_text())[-2000:]
        raise RuntimeError(f"{name} has stopped by itself:\n{tail}")

    nursery.start_soon(watch)
    return process


async def _wait_for_log(log: Path, event: str, times: int) -> None:
    path = trio.Path(log)
    with trio.move_on_after(start_timeout_s):
        while (await path.read_text()).count(event) < times:  # noqa: ASYNC110 - a process tells
            await trio.sleep(0.05)
        return
    raise RuntimeError(f"{log.name} never said {event}:\n{(await path.read_text())[-2000:]}")


async def prepare(layout: Layout) -> tuple[Deployment, list[str]]:
    """Write the edge's store; returns the deployment and the agents' tokens."""
    folder = layout.folder / "edge"
    state_dir.prepare(folder)
    key = load_or_create_key(folder / state_dir.store_key)
    host_sessions: list[HostSession] = []
    player_sessions: list[PlayerSession] = []
    tokens = [new_agent_token() for _ in range(layout.agents)]
    async with SqliteStore.open(folder / state_dir.database, key) as store:
        for index, token in enumerate(tokens):
            await store.put_agent_token(f"agent{index}", token_hash(token), datetime.now(UTC))
        for index in range(layout.sessions):
            session, at_host, at_client = _session(layout, index)
            host_sessions.append(at_host)
            player_sessions.append(at_client)
            await store.add_session(to_record(session))
    return Deployment(layout, tuple(host_sessions), tuple(player_sessions)), tokens


def _session(layout: Layout, index: int) -> tuple[Session, HostSession, PlayerSession]:
    backend = backend_id(f"agent{index % layout.agents}", host_name)
    port = first_host_port + index * ports_per_session
    video, audio = new_ping_payload(), new_ping_payload()
    control = secrets.randbits(32)
    flows = {Flow.VIDEO: FlowTerms(port, video, new_ping_payload())}
    if layout.audio:
        flows[Flow.AUDIO] = FlowTerms(port + 1, audio, new_ping_payload())
    if layout.control:
        flows[Flow.CONTROL] = FlowTerms(port + 2, control, secrets.randbits(32))
    key = StreamKey(secrets.token_bytes(16), 1)
    session = Session(
        id=new_session_id(),
        client=ClientId(secrets.token_hex(32)),
        client_address=layout.client_address,
        backend=backend,
        app_id=1,
        app_title="Benchmark",
        mode="1920x1080x60",
        key=key,
        corever=1,
        label=secrets.token_hex(10),
        rtsp_port=_edge_ports["rtsp"],
        host_rtsp=RtspUrl(encrypted=False, host="host", port=48010),
        state=SessionState.STREAMING,
        since=0.0,
        reservation=Reservation(backend),
        flows=flows,
        video=VideoEncryption(VideoEncryptor.EDGE if layout.encrypted else VideoEncryptor.NOBODY),
    )
    at_host = HostSession(
        layout.host_address,
        port,
        audio_port=port + 1 if layout.audio else 0,
        control_port=port + 2 if layout.control else 0,
    )
    edge = layout.listen_address
    at_client = PlayerSession(
        layout.client_address,
        (edge, _edge_ports["video"]),
        video,
        (edge, _edge_ports["audio"]) if layout.audio else None,
        audio if layout.audio else "",
        (edge, _edge_ports["control"]) if layout.control else None,
        control if layout.control else 0,
        video_key=key.rikey.hex() if layout.encrypted else "",
    )
    return session, at_host, at_client


def _edge_config(layout: Layout) -> Path:
    path = layout.folder / "edge.toml"
    ports = _edge_ports
    path.write_text(f"""\
hostname = "{layout.edge_address}"
state_dir = "{layout.folder / "edge"}"
log_level = "info"

[listen]
addresses = ["{layout.listen_address}"]
http_port = {ports["http"]}
https_port = {ports["https"]}
rtsp_ports = "{ports["rtsp"]}"
video_port = {ports["video"]}
control_port = {ports["control"]}
audio_port = {ports["audio"]}

[agents]
addresses = ["{layout.edge_address}"]
port = {ports["agents"]}
max_agents = {layout.max_agents}

[admin]
port = {ports["admin"]}

[sessions]
client_silence_timeout_s = 60
{layout.edge_settings}
""")
    return path


def _agent_configs(layout: Layout, tokens: list[str]) -> list[Path]:
    last = first_host_port + layout.sessions * ports_per_session
    paths = []
    for index, token in enumerate(tokens):
        secret = layout.folder / f"agent{index}.token"
        secret.touch(mode=0o600)
        secret.write_text(token)
        path = layout.folder / f"agent{index}.toml"
        path.write_text(f"""\
[edge]
url = "wss://{layout.edge_address}:{_edge_ports["agents"]}"
token_file = "{secret}"
ca_file = "{agents_certificate(layout)}"

[agent]
id = "agent{index}"
region = "here"

[[hosts]]
name = "{host_name}"
address = "{layout.host_address}"
udp_ports = "{first_host_port}-{last}"
apps = [{{ title = "Benchmark", id = 1 }}]
max_sessions = 1024

[limits]
max_flows = 1024
""")
        paths.append(path)
    return paths


async def edge_metrics(layout: Layout) -> dict[str, float]:
    """Return the edge's metrics by their names and labels, read where the edge runs."""
    url = f"http://127.0.0.1:{_edge_ports['admin']}/metrics"
    ask = f"import httpx; print(httpx.get({url!r}).text)"
    shown = await trio.run_process(
        [*layout.edge_prefix, sys.executable, "-c", ask], capture_stdout=True
    )
    lines = shown.stdout.decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def median(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure over several runs; None where no run had it."""
    medians: dict[str, Any] = {}
    for key in runs[0]:
        known = [run[key] for run in runs if run[key] is not None]
        medians[key] = statistics.median(known) if known else None
    return medians
