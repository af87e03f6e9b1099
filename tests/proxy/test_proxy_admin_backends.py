"""The admin API about backends: explanations, drains, users, events."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from proxy_fakes import BACKEND, FakeTunnel, identity, launch_query, serving
from test_proxy_admin import PHONE, TV, Edge, edge, problem

from backends.apps import app_id
from proxy.access import AccessRules
from revdial.messages import GpuReport, Heartbeat, HostOffer, HostReport

__all__ = ["edge"]

EXPLAIN = "/api/v1/backends/explain"
DRAIN = f"/api/v1/drains/{BACKEND}"


async def explained(edge: Edge, **query: str) -> Any:
    asked = {"client_ip": "192.0.2.1", "app": "Game", **query}
    path = EXPLAIN + "?" + "&".join(f"{name}={value}" for name, value in asked.items())
    response = await edge.ask("GET", path)
    assert response.status_code == 200, response.text
    return response.json()


async def test_backends_are_shown_with_what_their_agent_tells(edge: Edge) -> None:
    (backend,) = await edge.items("backends")
    assert (backend["machine"], backend["gpus"], backend["gpu_memory_percent"]) == (None, [], None)


async def test_telemetry_is_shown(edge: Edge, nursery: trio.Nursery) -> None:
    tunnel = FakeTunnel(nursery, "agent-2")
    async with serving(edge.fleet, tunnel):
        gpu = GpuReport("RTX", "nvidia", 6 << 30, 24 << 30)
        report = HostReport("wolf", True, gpus=(gpu,))
        await tunnel.heartbeats_in.send(Heartbeat((report,), cpu_percent=12.5))
        await trio.testing.wait_all_tasks_blocked()
        backend = (await edge.items("backends"))[1]
    assert backend["gpu_memory_percent"] == 25
    assert backend["machine"]["cpu_percent"] == 12.5
    assert backend["gpus"][0]["memory_used_bytes"] == 6 << 30


async def test_what_an_agent_names_is_shown_without_control_characters(
    edge: Edge, nursery: trio.Nursery
) -> None:
    tunnel = FakeTunnel(nursery, "agent-2", (HostOffer("wolf", kind="w\x1b[31m"),))
    async with serving(edge.fleet, tunnel):
        report = HostReport("wolf", True, gpus=(GpuReport("R\x1b[2J\u202eXT", "nv\n"),))
        await tunnel.heartbeats_in.send(Heartbeat((report,)))
        await trio.testing.wait_all_tasks_blocked()
        backend = (await edge.items("backends"))[1]
    assert (backend["gpus"][0]["name"], backend["gpus"][0]["vendor"]) == ("R?[2J?XT", "nv?")
    assert backend["kind"] == "w?[31m"


async def test_what_a_launch_would_get_is_told_and_nothing_is_launched(edge: Edge) -> None:
    told = await explained(edge)
    assert (told["chosen"], told["reason"]) == (BACKEND, "nearest")
    assert told["client_place"]["located_by"] == "nothing"
    (backend,) = told["backends"]
    assert (backend["id"], backend["excluded"], backend["sessions"]) == (BACKEND, None, 0)
    assert len(edge.play.keeper.table) == 0
    assert edge.fleet.decisions == {}


async def test_why_a_launch_would_get_nothing_is_told(edge: Edge) -> None:
    told = await explained(edge, app="Solitaire")
    assert (told["chosen"], told["reason"]) == (None, "no_such_app")
    assert told["backends"][0]["excluded"] == "no_such_app"


async def test_it_is_told_for_a_client_where_its_session_runs(edge: Edge) -> None:
    await edge.play.launch(PHONE, "192.0.2.1", launch_query(app_id("Game")))
    assert (await explained(edge, client=PHONE[:10]))["reason"] == "running"
    gone = await edge.ask("GET", f"{EXPLAIN}?client_ip=::1&app=Game&client=none")
    assert (gone.status_code, problem(gone)) == (404, "no_such_client")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("app=Game", "bad_query"),
        ("client_ip=192.0.2.1", "bad_query"),
        ("client_ip=192.0.2.1&app=" + "x" * 600, "bad_query"),
        ("client_ip=somewhere&app=Game", "bad_address"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    edge: Edge, query: str, reason: str
) -> None:
    response = await edge.ask("GET", f"{EXPLAIN}?{query}")
    assert (response.status_code, problem(response)) == (400, reason)


async def test_a_drain_is_set_listed_and_lifted(edge: Edge) -> None:
    await edge.play.launch(PHONE, "192.0.2.1", launch_query(app_id("Game")))
    response = await edge.ask("PUT", DRAIN, content='{"deadline_s": 3600}')
    assert response.status_code == 200, response.text
    assert (response.json()["target"], response.json()["sessions"]) == (BACKEND, 1)
    assert response.json()["deadline"] > response.json()["since"]
    assert (await explained(edge))["reason"] == "all_draining"
    assert await edge.items("drains") == [response.json()]
    whole = await edge.ask("PUT", "/api/v1/drains/agent-1", content="{}")
    assert (whole.json()["deadline"], whole.json()["sessions"]) == (None, 1)
    for target in ("agent-1", BACKEND):
        lifted = await edge.ask("DELETE", f"/api/v1/drains/{target}")
        assert lifted.status_code == 204
    assert (await explained(edge))["chosen"] == BACKEND
    again = await edge.ask("DELETE", DRAIN)
    assert (again.status_code, problem(again)) == (404, "no_such_drain")
    kinds = [event["kind"] for event in await edge.items("events")]
    assert (kinds.count("drain_began"), kinds.count("drain_ended")) == (2, 2)


@pytest.mark.parametrize(
    ("target", "body", "status", "reason"),
    [
        ("agent-9/wolf", "{}", 404, "no_such_backend"),
        ("agent-1/wolf/x", "{}", 400, "bad_path"),
        ("agent-1/", "{}", 400, "bad_path"),
        (BACKEND, '{"deadline_s": -1}', 400, "bad_body"),
        (BACKEND, '{"deadline": 1}', 400, "bad_body"),
        (BACKEND, "soon", 400, "bad_body"),
    ],
)
async def test_a_drain_that_makes_no_sense_is_refused(
    edge: Edge, target: str, body: str, status: int, reason: str
) -> None:
    response = await edge.ask("PUT", f"/api/v1/drains/{target}", content=body)
    assert (response.status_code, problem(response)) == (status, reason)
    assert edge.store.drains == {}


async def test_a_host_can_be_drained_before_its_agent_connects(edge: Edge) -> None:
    edge.store.tokens[b"hash"] = "agent-2"
    assert (await edge.ask("PUT", "/api/v1/drains/agent-2/wolf", content="{}")).status_code == 200
    edge.store.tokens[b"hash2"] = "agent-1"
    response = await edge.ask("PUT", "/api/v1/drains/agent-1/mistyped", content="{}")
    assert (response.status_code, problem(response)) == (404, "no_such_backend")


async def test_a_device_is_given_only_to_users_that_there_are(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AccessRules, "knows", lambda _rules, user: user == "anna")
    response = await edge.ask("PATCH", f"/api/v1/clients/{TV[:9]}", content='{"user": "ana"}')
    assert (response.status_code, problem(response)) == (404, "no_such_user")


async def test_a_client_is_given_to_a_user_and_taken_again(edge: Edge) -> None:
    for user in ("anna", None):
        body = '{"user": "anna"}' if user else '{"user": null}'
        response = await edge.ask("PATCH", f"/api/v1/clients/{TV[:9]}", content=body)
        assert response.status_code == 204
        assert edge.store.clients[TV].user == user
    for body, reason in (('{"user": "a b"}', "bad_user"), ("{}", "bad_body")):
        response = await edge.ask("PATCH", f"/api/v1/clients/{TV[:9]}", content=body)
        assert (response.status_code, problem(response)) == (400, reason)
    assert identity("tv").certificate.id == TV
