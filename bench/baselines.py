"""Other ways from a host's UDP port to a client's, under the same generator and player."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from bench.deployment import Process, end, python
from bench.machine import usage_of_all
from proxy import state_dir

Address = tuple[str, int]

max_seconds: Final = 120
start_timeout_s: Final = 30.0
_naive_port: Final = 16_961
_settle_s: Final = 0.3
tunnels_not_run: Final = ("frps", "chisel", "rathole", "wstunnel")
"""Tunnels to be compared with where they are on the PATH; see `missing`."""


class Relay:
    """Something that runs, and that datagrams pass from one list of addresses to another."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = list(pids)

    def cpu_s(self) -> float:
        """Return the CPU seconds that all its processes have used."""
        return usage_of_all(self._pids).cpu_s


def missing() -> dict[str, str]:
    """Return the baselines that cannot run here, with what to do about it."""
    notes = {}
    if shutil.which("socat") is None:
        notes["socat"] = "not installed: apt install socat"
    if _nginx_stream() is None:
        notes["nginx"] = "not installed: apt install nginx-light libnginx-mod-stream"
    for name in tunnels_not_run:
        if shutil.which(name) is None:
            notes[name] = "not on the PATH"
    return notes


@asynccontextmanager
async def naive(
    folder: Path, locals_: list[Address], clients: list[Address]
) -> AsyncIterator[Relay]:
    """One WebSocket message and one await a datagram, over TLS, in two processes."""
    state_dir.agents_context(folder, "127.0.0.1", None, None)
    plan = {
        "port": _naive_port,
        "certificate": str(folder / state_dir.agents_certificate),
        "key": str(folder / state_dir.agents_private_key),
        "clients": clients,
        "locals": locals_,
        "max_seconds": max_seconds,
    }
    async with AsyncExitStack() as stack:
        pids = []
        for side in ("edge", "agent"):
            process = await stack.enter_async_context(
                Process.start(f"naive {side}", [*python("bench.naive"), side], json.dumps(plan))
            )
            await process.line(start_timeout_s)
            pids.append(process.pid)
        yield Relay(pids)


@asynccontextmanager
async def socat(_: Path, locals_: list[Address], clients: list[Address]) -> AsyncIterator[Relay]:
    """One socat a flow, UDP to UDP: no tunnel and no encryption."""
    commands = [
        [
            "socat",
            "-u",
            "-b65536",
            f"UDP4-RECV:{port},bind={host},rcvbuf=4194304",
            f"UDP4-SENDTO:{to_host}:{to_port},sndbuf=4194304",
        ]
        for (host, port), (to_host, to_port) in zip(locals_, clients, strict=True)
    ]
    async with _running(commands) as relay:
        yield relay


@asynccontextmanager
async def nginx(
    folder: Path, locals_: list[Address], clients: list[Address]
) -> AsyncIterator[Relay]:
    """Nginx's stream module, UDP to UDP, one worker: no tunnel and no encryption."""
    servers = "\n".join(
        f"server {{ listen {host}:{port} udp rcvbuf=4m sndbuf=4m; "
        f"proxy_pass {to_host}:{to_port}; proxy_responses 0; }}"
        for (host, port), (to_host, to_port) in zip(locals_, clients, strict=True)
    )
    config = folder / "nginx.conf"
    config.write_text(f"""\
load_module {_nginx_stream()};
daemon off;
master_process off;
pid {folder / "nginx.pid"};
error_log {folder / "nginx.log"} warn;
events {{ worker_connections 8192; }}
stream {{
{servers}
}}
""")
    async with _running([["nginx", "-e", str(folder / "nginx.log"), "-c", str(config)]]) as relay:
        yield relay


@asynccontextmanager
async def _running(commands: list[list[str]]) -> AsyncIterator[Relay]:
    processes: list[trio.Process] = []
    try:
        for command in commands:
            started = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            processes += [started]
        await trio.sleep(_settle_s)
        gone = [process for process in processes if process.poll() is not None]
        if gone:
            raise RuntimeError(f"{commands[0][0]} did not start")
        yield Relay([process.pid for process in processes])
    finally:
        with trio.CancelScope(shield=True):
            for process in processes:
                await end(process)


def _nginx_stream() -> Path | None:
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    return module if shutil.which("nginx") and module.exists() else None
