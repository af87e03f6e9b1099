"""A whole deployment in one process: an edge, hosts, and an agent beside each of them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import trio

from agent.config import load as load_agent_config
from agent.service import run_agent
from backends.model import BackendId, State
from backends.tokens import new_agent_token, token_hash
from moonhost.admin_client import AdminClient
from moonhost.sample_configs import SampleHost, write_agent_config, write_edge_config
from moonlight.applist import App
from proxy.config import ProxyConfig
from proxy.edge import RunningEdge, run_edge
from settings import load_toml
from simulator.config import DEFAULT_APPS, HostConfig, Traps
from simulator.host import HostHandle, run_host
from simulator.picture import PictureKind
from tests.e2e.real_client import RealClient
from tests.ports import reserved, shift_to
from tests.waiting import until

start_timeout_s = 30.0


@dataclass(frozen=True)
class HostPlan:
    """One host of a deployment, with an agent of its own."""

    name: str = "one"
    region: str = "here"
    traps: Traps = field(default_factory=Traps.wolf_2026)
    apps: tuple[App, ...] = DEFAULT_APPS
    max_sessions: int = 4
    picture: PictureKind = "card"
    settings: str = ""
    """TOML for the end of its agent's configuration, which is the host's section."""
    address: str | None = None
    """None for an address in 127/8 of its own."""
    max_bitrate_kbps: int | None = None
    slowdown: float = 1.0

    @property
    def backend(self) -> BackendId:
        return BackendId(f"{self.name}/host")


@dataclass
class Deployment:
    """What a test can do with a running deployment."""

    edge: RunningEdge
    config: ProxyConfig
    folder: Path
    nursery: trio.Nursery
    hosts: dict[str, HostHandle] = field(default_factory=dict)
    agents: dict[str, trio.CancelScope] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    pins: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def client(self, address: str = "127.0.0.1") -> RealClient:
        """Return a Moonlight client that has never been here, and comes to this address."""
        state = self.folder / f"client{next(self._numbers)}"
        return RealClient(state, self.config.listen.http_port, address)

    async def paired_client(self) -> RealClient:
        """Return a client that has paired with the edge."""
        client = self.client()
        await self.pair(client, "4711471147")
        return client

    async def pair(self, client: RealClient, pin: str, *, told: str | None = None) -> Any:
        """Pair a client that shows `pin`, while an operator tells `told` (or the right one)."""
        self.pins += [pin]
        outcome: dict[str, Any] = {}

        async def tell() -> None:
            async with self.admin() as edge:
                pending: list[Any] = []

                async def asked() -> bool:
                    pending[:] = await edge.get_all("/api/v1/pairings")
                    return bool(pending)

                await until(asked, start_timeout_s)
                outcome["pairing"] = await edge.post(
                    f"/api/v1/pairings/{pending[-1]['id']}", {"pin": told or pin}
                )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            outcome["client"] = await client.outcome("pair", "--pin", pin)
        return outcome

    async def restart_edge(self) -> None:
        """Stop the edge and start another one on the same ports and the same state."""
        self.edge.stop()
        await self.edge.stopped.wait()
        with trio.fail_after(start_timeout_s):
            self.edge = await self.nursery.start(run_edge, self.config)

    def admin(self) -> AdminClient:
        """Return a client of the edge's admin API."""
        return AdminClient.of(self.config)

    async def sessions(self) -> Any:
        """Return the edge's sessions as its API shows them."""
        async with self.admin() as edge:
            return await edge.get_all("/api/v1/sessions")

    def is_up(self, backend: str) -> bool:
        """Tell whether a backend can be reached, as far as the edge knows."""
        known = self.edge.fleet.backend(BackendId(backend))
        return known is not None and known.state is not State.UNHEALTHY

    async def wait_for_backends(self, count: int) -> None:
        """Wait until so many backends are there."""
        await until(lambda: len(self.edge.fleet.backends()) == count, start_timeout_s)


@asynccontextmanager
async def deployed(
    folder: Path,
    *plans: HostPlan,
    settings: str = "",
    environ: Mapping[str, str] = MappingProxyType({}),
    listen: str = "127.0.0.1",
    rtsp_ports: int = 1,
) -> AsyncIterator[Deployment]:
    """Run an edge and these hosts; everything has ended when this returns.

    `settings` is TOML for the end of the edge's configuration, and `environ` overlays all of it
    (``MOONHOST_TEST__SECTION__SETTING``).
    """
    with reserved() as block:
        path = write_edge_config(
            folder, listen, shift_from=shift_to(block), settings=settings, rtsp_ports=rtsp_ports
        )
        config = load_toml(path, ProxyConfig, "MOONHOST_TEST", environ=environ)
        async with _running(config, folder, plans) as deployment:
            yield deployment


@asynccontextmanager
async def _running(
    config: ProxyConfig, folder: Path, plans: Sequence[HostPlan]
) -> AsyncIterator[Deployment]:
    """Run what `deployed` has written."""
    async with trio.open_nursery() as nursery:
        with trio.fail_after(start_timeout_s):
            edge = await nursery.start(run_edge, config)
        deployment = Deployment(edge, config, folder, nursery)
        for number, plan in enumerate(plans, 21):
            await add_host(deployment, nursery, plan.address or f"127.0.0.{number}", plan)
        await deployment.wait_for_backends(len(plans))
        yield deployment
        nursery.cancel_scope.cancel()


async def add_host(
    deployment: Deployment, nursery: trio.Nursery, address: str, plan: HostPlan
) -> None:
    """Start a host and its agent."""
    folder = deployment.folder
    socket = folder / f"{plan.name}.sock"
    host = HostConfig(
        name=plan.name,
        region=plan.region,
        address=address,
        http_port=0,
        https_port=0,
        rtsp_port=0,
        video_port=0,
        audio_port=0,
        control_port=0,
        apps=plan.apps,
        api_socket=socket,
        traps=plan.traps,
        max_sessions=plan.max_sessions,
        picture=plan.picture,
        max_bitrate_kbps=plan.max_bitrate_kbps,
        slowdown=plan.slowdown,
    )
    handle: HostHandle = await nursery.start(
        lambda *, task_status: run_host(host, task_status=task_status)
    )
    token = new_agent_token()
    await deployment.edge.store.put_agent_token(plan.name, token_hash(token), datetime.now(UTC))
    sample = SampleHost(
        name=plan.name,
        region=plan.region,
        address=address,
        http_port=handle.http_port,
        https_port=handle.https_port,
        rtsp_port=handle.rtsp_port,
        udp_ports="1024-65535",
        wolf_socket=socket,
        max_sessions=plan.max_sessions,
        settings=plan.settings,
    )
    path = write_agent_config(folder, deployment.config, sample, token)
    scope = trio.CancelScope()

    async def agent() -> None:
        with scope:
            await run_agent(load_agent_config(path, environ={}))

    nursery.start_soon(agent)
    deployment.hosts[plan.name] = handle
    deployment.agents[plan.name] = scope
    deployment.tokens.append(token)
