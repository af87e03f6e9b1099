"""SIGHUP to an edge that runs: another level and other rules hold, and a broken file does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from moonhost.admin_client import AdminClient
from moonhost.sample_configs import write_edge_config
from proxy.config import ProxyConfig
from settings import load_toml
from tests.waiting import until

TIMEOUT_S = 60.0


class Edge:
    """A process of ``moonhost proxy``, its configuration file and its log."""

    def __init__(self, process: trio.Process, path: Path) -> None:
        assert process.stderr is not None
        self.process = process
        self.path = path
        self.config = load_toml(path, ProxyConfig, "NO_SUCH")
        self.log: list[dict[str, Any]] = []
        self._stream = process.stderr

    async def read_log(self) -> None:
        unread = b""
        async for piece in self._stream:
            *whole, unread = (unread + piece).split(b"\n")
            self.log += [json.loads(line) for line in whole]

    async def logged(self, event: str) -> dict[str, Any]:
        """Wait until an event is logged, and return the newest one."""
        await until(lambda: bool(self.lines(event)), TIMEOUT_S)
        return self.lines(event)[-1]

    def lines(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    def reload(self, change: Callable[[str], str]) -> None:
        self.path.write_text(change(self.path.read_text()))
        os.kill(self.process.pid, signal.SIGHUP)

    async def may(self, user: str, app: str) -> bool:
        asked = {"client_ip": "192.0.2.1", "app": app, "user": user}
        async with AdminClient.of(self.config) as client:
            told = await client.get("/api/v1/backends/explain", asked)
        return bool(told["reason"] != "app_not_allowed")


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Edge]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "moonhost", "proxy", "--config", str(path)],
        stderr=subprocess.PIPE,
    )
    edge = Edge(process, path)
    try:
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(edge.read_log)
                await edge.logged("edge_started")
                yield edge
                process.terminate()
                assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_an_edge_takes_what_can_change_and_refuses_what_is_broken(
    tmp_path: Path, shift_from: int
) -> None:
    users = '[users.anna]\napps = ["Desktop"]\n'
    path = write_edge_config(tmp_path, shift_from=shift_from, settings=users)
    async with running(path) as edge:
        assert await edge.may("anna", "Desktop")
        assert not await edge.may("anna", "Steam")

        edge.reload(lambda text: 'log_level = "warning"\n' + text.replace('"Desktop"', '"Steam"'))
        told = await edge.logged("configuration_reloaded")
        assert told["changed"] == ["log_level", "users"]
        assert await edge.may("anna", "Steam")
        assert not await edge.may("anna", "Desktop")

        edge.reload(lambda text: text.replace('"Steam"', "7").replace("[listen]", "[listn]"))
        refused = await edge.logged("configuration_refused")
        assert refused["level"] == "error"
        assert "users.anna.apps.0" in refused["why"]
        assert "listn" in refused["why"]
        assert await edge.may("anna", "Steam")

        edge.reload(
            lambda text: (
                text.replace("= [7]", "= []")
                .replace("[listn]", "[listen]")
                .replace('hostname = "127.0.0.1"', 'hostname = "localhost"')
            )
        )
        restart = await edge.logged("restart_needed")
        assert restart["settings"] == ["hostname"]
        assert not await edge.may("anna", "Steam")
        # Its level is above what is told of a reload that succeeds.
        assert len(edge.lines("configuration_reloaded")) == 1
