"""A real Prometheus that scrapes an edge, in a process of its own, and answers queries."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from tests.ports import reserved
from tests.waiting import until

ready_timeout_s: Final = 20.0


@dataclass
class Prometheus:
    """What a test can ask it."""

    client: httpx.AsyncClient

    async def query(self, expression: str) -> list[Any]:
        """Return the series of a query, as of now."""
        answer = await self.client.get("/api/v1/query", params={"query": expression})
        told = answer.json()
        assert told["status"] == "success", (expression, told)
        return list(told["data"]["result"])

    async def rules(self) -> list[Any]:
        """Return the alert rules as it has read them."""
        told = (await self.client.get("/api/v1/rules")).json()
        return [rule for group in told["data"]["groups"] for rule in group["rules"]]


@asynccontextmanager
async def prometheus(folder: Path, *, target_port: int, rules: Path) -> AsyncIterator[Prometheus]:
    """Run it for the length of a block, on loopback, with all that it writes in `folder`."""
    with reserved() as block:
        _configure(folder, target_port, rules)
        async with _running(folder, block[0]) as running:
            yield running


@asynccontextmanager
async def _running(folder: Path, port: int) -> AsyncIterator[Prometheus]:
    with (folder / "log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def is_ready() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    return (await client.get("/-/ready")).status_code == httpx.codes.OK
                except httpx.TransportError:
                    return False

            await until(is_ready, ready_timeout_s)
            yield Prometheus(client)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def _configure(folder: Path, target_port: int, rules: Path) -> None:
    folder.mkdir()
    config = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {
                "job_name": "moonhost",
                "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}],
            }
        ],
    }
    # JSON is YAML, too.
    (folder / "prometheus.yml").write_text(json.dumps(config))
