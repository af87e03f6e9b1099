"""Tokens of agents, people and the console, on a whole edge."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from moonhost.errors import AdminError
from tests.e2e.deployment import Deployment, HostPlan, deployed
from tests.waiting import until


async def refused_agents(deployment: Deployment) -> float:
    async with httpx.AsyncClient(base_url=address(deployment)) as client:
        text = (await client.get("/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "moonhost_tunnel_refusals_total"
        and sample.labels["reason"] == "bad_token"
    )


def address(deployment: Deployment) -> str:
    return f"http://127.0.0.1:{deployment.config.admin.port}"


async def test_a_revoked_agent_is_gone_at_once_and_does_not_come_back(tmp_path: Path) -> None:
    plans = HostPlan(), HostPlan("two")
    async with deployed(tmp_path, *plans) as deployment:
        fleet = deployment.edge.fleet
        tunnel = fleet.tunnel_of("one")
        assert tunnel is not None
        async with deployment.admin() as edge:
            await edge.delete("/api/v1/tokens/agent/one")
            assert tunnel.reason == "token_revoked"
            with pytest.raises(AdminError) as caught:
                await edge.delete("/api/v1/tokens/agent/one")
            assert caught.value.status == 404

        async def refused() -> bool:
            return await refused_agents(deployment) > 0

        await until(refused, 30)
        assert fleet.tunnel_of("one") is None
        assert deployment.is_up("two/host")
        assert not deployment.is_up("one/host")


async def test_jwts_and_logins_of_a_revoked_token_end_and_keys_last_over_a_restart(
    tmp_path: Path,
) -> None:
    async with deployed(tmp_path) as deployment:
        async with deployment.admin() as edge:
            body = {"kind": "api", "name": "anna", "scopes": ["read"]}
            token = (await edge.post("/api/v1/tokens", body))["token"]
        async with httpx.AsyncClient(base_url=address(deployment)) as client:
            bearer = {"Authorization": f"Bearer {token}"}
            made = (await client.post("/api/v1/token", headers=bearer, json={})).json()
            access = {"Authorization": f"Bearer {made['access_token']}"}
            login = await client.post("/api/v1/login", json={"token": token})
            name, _, value = login.headers["set-cookie"].partition(";")[0].partition("=")
            cookie = {"Cookie": f"{name}={value}"}
            for headers, status in ((access, 200), (cookie, 200), (bearer, 401), ({}, 401)):
                answer = await client.get("/api/v1/clients", headers=headers)
                assert answer.status_code == status
            await deployment.restart_edge()
            for headers, status in ((access, 200), (cookie, 401)):
                answer = await client.get("/api/v1/clients", headers=headers)
                assert answer.status_code == status
            async with deployment.admin() as edge:
                await edge.delete("/api/v1/tokens/api/anna")
            assert (await client.get("/api/v1/clients", headers=access)).status_code == 401
            assert (await client.post("/api/v1/token", headers=bearer, json={})).status_code == 401
