"""Dashboards and alerts against a real Prometheus that scrapes a deployment somebody plays on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.host_gpus import HostGpus
from grafana.dashboards import DASHBOARDS
from revdial.messages import GpuReport
from tests.e2e.deployment import HostPlan, deployed
from tests.e2e.light_player import Player
from tests.e2e.prometheus import Prometheus, prometheus
from tests.waiting import until

ROOT = Path(__file__).parents[2]
data_timeout_s = 25.0
EVERYTHING = {"__rate_interval": "5s", "instance": ".+", "backend": ".+", "session": ".+"}


def filled_in(expression: str) -> str:
    return re.sub(r"\$(\w+)", lambda found: EVERYTHING[found[1]], expression)


def compared(expression: str) -> str:
    """A rule without its last comparison: what it watches, which has to be there at all times."""
    left, _, _ = re.sub(r"\s+", " ", expression).rpartition(" > ")
    return left or re.split(r" (?:==|<) ", re.sub(r"\s+", " ", expression))[0]


async def without_data(server: Prometheus, queries: dict[str, str]) -> dict[str, str]:
    """Return those of the queries that have no series yet."""
    return {name: asked for name, asked in queries.items() if not await server.query(asked)}


async def until_all_have_data(server: Prometheus, queries: dict[str, str]) -> None:
    missing = queries

    async def have_data() -> bool:
        nonlocal missing
        missing = await without_data(server, missing)
        return not missing

    try:
        await until(have_data, data_timeout_s)
    except trio.TooSlowError:
        raise AssertionError(f"no data: {missing}") from None


async def test_every_panel_and_every_rule_has_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = GpuReport("Test GPU", "nvidia", 2 << 30, 8 << 30)
    monkeypatch.setattr(HostGpus, "reports", lambda *_: (gpu,))
    queries = {
        f"{name}: {panel.title} {number}": filled_in(query.expression)
        for name, dashboard in DASHBOARDS.items()
        for panel in dashboard.panels
        for number, query in enumerate(panel.queries)
    }
    async with deployed(tmp_path, HostPlan(picture="noise")) as deployment:
        port = deployment.config.admin.port
        rules = ROOT / "grafana" / "alerts.yml"
        server: Prometheus
        async with prometheus(tmp_path / "prometheus", target_port=port, rules=rules) as server:
            player = await Player.at(deployment, "127.0.0.51")
            async with player.playing():
                await until_all_have_data(server, queries)
                known: list[Any] = await server.rules()
                assert len(known) == rules.read_text().count("- alert: ")
                assert {rule["name"]: rule["health"] for rule in known} == {
                    rule["name"]: "ok" for rule in known
                }
                await until_all_have_data(
                    server, {rule["name"]: compared(rule["query"]) for rule in known}
                )
                assert [rule["name"] for rule in known if rule["state"] == "firing"] == []

            (agent,) = deployment.agents.values()
            agent.cancel()
            gone = "moonhost_agent_connected == 0"
            await until_all_have_data(server, {"an agent that is gone": gone})
