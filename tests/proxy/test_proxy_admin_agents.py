"""The admin API about agents: who is there, and what one of them reaches of the edge."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from proxy_fakes import BACKEND, FakeStore, FakeTunnel, new_fleet, serving
from served_admin import FakeGate

from moonlight.flows import Flow
from proxy.admin.agents import AgentsApi
from proxy.admin.api import AdminApi
from proxy.admin.scopes import OPERATORS, READERS
from proxy.fleet import Fleet
from proxy.prober import Prober
from revdial.errors import RequestFailed

PORTS = {Flow.VIDEO: 47998, Flow.AUDIO: 48000, Flow.CONTROL: 47999}
PROBE = "/api/v1/agents/agent-1/probe"


class Agents:
    """The API, as a client sees it."""

    def __init__(self, fleet: Fleet) -> None:
        store = FakeStore()
        store.tokens[b"hash"] = "garage"
        self.prober = Prober(PORTS)
        self.api = AgentsApi(store, fleet, self.prober)
        self._application = AdminApi(FakeGate(), self.api.endpoints()).application()

    async def ask(self, method: str, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(self._application)
        async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
            return await client.request(method, path)


@pytest.fixture
def fleet() -> Fleet:
    return new_fleet(FakeStore())


def test_readers_may_look_and_only_operators_have_packets_sent(fleet: Fleet) -> None:
    listing, probing = Agents(fleet).api.endpoints()
    assert (listing.scopes, probing.scopes) == (READERS, OPERATORS)


async def test_agents_that_are_there_and_those_that_hold_tokens_are_listed(
    fleet: Fleet, nursery: trio.Nursery
) -> None:
    async with serving(fleet, FakeTunnel(nursery)):
        told = (await Agents(fleet).ask("GET", "/api/v1/agents")).json()
    assert told["next"] is None
    here, away = told["items"]
    assert (here["id"], here["connected"], here["holds_token"]) == ("agent-1", True, False)
    assert (here["backends"], here["rtt_ms"]) == ([BACKEND], 10.0)
    assert datetime.fromisoformat(here["connected_at"]) <= datetime.now(UTC)
    assert (away["id"], away["connected"], away["holds_token"]) == ("garage", False, True)
    assert (away["connected_at"], away["rtt_ms"], away["backends"]) == (None, None, [])


async def test_what_an_agent_reaches_is_told_by_flow(
    fleet: Fleet, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    agents = Agents(fleet)

    async def send(method: str, params: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        assert params["ports"] == list(PORTS.values())
        agents.prober.take(Flow.VIDEO, bytes.fromhex(params["nonce"]))
        agents.prober.take(Flow.CONTROL, bytes.fromhex(params["nonce"]))
        return {"host": "play.example.org\x1b", "sent": 9}

    async with serving(fleet, FakeTunnel(nursery, on_request=send)):
        first = await agents.ask("POST", PROBE)
        again = await agents.ask("POST", PROBE)
    assert first.json() == {
        "sent_to": "play.example.org?",
        "ports": {"video": "reached", "audio": "not_reached", "control": "reached"},
    }
    assert again.status_code == 429
    assert 0 < int(again.headers["Retry-After"]) <= 12
    assert again.json()["type"] == "urn:moonhost:probe_too_soon"


async def test_an_agent_that_cannot_is_told(fleet: Fleet, nursery: trio.Nursery) -> None:
    async def refuse(method: str, params: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        raise RequestFailed("unknown_method", "no")

    agents = Agents(fleet)
    assert (await agents.ask("POST", PROBE)).status_code == 404
    async with serving(fleet, FakeTunnel(nursery, on_request=refuse)):
        answer = await agents.ask("POST", PROBE)
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:moonhost:agent_too_old"
