"""Edges to be put under load: one that runs already, or one that is started for the test."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from moonhost.admin_client import AdminClient
from moonhost.errors import AdminError, CommandFailed
from moonhost.load_options import LoadOptions
from moonhost.local_deployment import LocalDeployment, LocalHost
from moonhost.processes import Processes
from proxy.config import ProxyConfig
from simulator.light_http import Target

max_own_sessions: Final = 128
"""With an edge of its own: what one process may have open."""
crowd_spare_slots: Final = 2
"""Beyond its half of a crowd, so that a host is not full while another launch is being undone."""

_loopback: Final = "127."
_crowd_hosts: Final = {"crowd-2026": "wolf-2026", "crowd-2024": "wolf-2024"}


@dataclass(frozen=True, slots=True)
class Arena:
    """An edge to be put under load."""

    address: str
    http_port: int
    config: ProxyConfig
    pids: dict[str, int] = field(default_factory=dict)
    """Processes on this machine that are part of it."""
    outlives_us: bool = False

    def target(self, number: int, *, one_address: bool = False) -> Target:
        """Return where client `number` goes: on loopback from an address of its own, or not."""
        source = None
        if self.address.startswith(_loopback):
            place = 0 if one_address else number
            source = f"127.64.{place // 250}.{place % 250 + 1}"
        return Target(self.address, self.http_port, source)


@asynccontextmanager
async def arena_of(options: LoadOptions, say: Callable[[str], None]) -> AsyncIterator[Arena]:
    """Find the edge that the options name, or start one; `say` shows progress.

    Raises:
        CommandFailed: there is none, or it cannot be used.

    """
    if options.edge is not None and options.config is not None:
        yield await _running_edge(*options.edge, options.config)
        return
    with tempfile.TemporaryDirectory(prefix="moonhost-loadtest-") as folder:
        async with trio.open_nursery() as nursery:
            deployment = LocalDeployment(Path(folder), Processes(Path(folder), nursery), say)
            await deployment.require("av", "simulator")
            rtsp_ports = options.sessions if options.one_address else 1
            config = await deployment.start_edge(rtsp_ports=rtsp_ports)
            for host in own_hosts(options):
                await deployment.start_host(config, host)
            await deployment.wait_for_backends(config)
            yield Arena(
                config.listen.addresses[0], config.listen.http_port, config, deployment.pids
            )
            nursery.cancel_scope.cancel()


def own_hosts(options: LoadOptions) -> tuple[LocalHost, ...]:
    """Return the hosts of an edge of the test's own: one, or one of each kind for a crowd."""
    if not options.one_address:
        return (
            LocalHost(
                region="load",
                address="127.0.0.11",
                max_sessions=options.sessions,
                picture="noise",
            ),
        )
    slots = -(-options.sessions // len(_crowd_hosts)) + crowd_spare_slots
    return tuple(
        LocalHost(
            region=region,
            address=f"127.0.0.{11 + number}",
            max_sessions=slots,
            picture="noise",
            behave_like=kind,
            max_mbps=options.mbps,
            slowdown=options.slowdown,
        )
        for number, (region, kind) in enumerate(_crowd_hosts.items())
    )


async def _running_edge(name: str, http_port: int, config: ProxyConfig) -> Arena:
    try:
        async with AdminClient.of(config) as admin:
            await admin.get_all("/api/v1/pairings")
    except AdminError as error:
        raise CommandFailed(
            f"The load test confirms its clients' PINs through the edge's admin API, "
            f"which cannot be used: {error}"
        ) from error
    try:
        found = await trio.socket.getaddrinfo(name, http_port, type=trio.socket.SOCK_STREAM)
    except OSError as error:
        raise CommandFailed(f"--edge: {name} cannot be found ({error.strerror}).") from error
    return Arena(str(found[0][4][0]), http_port, config, outlives_us=True)
