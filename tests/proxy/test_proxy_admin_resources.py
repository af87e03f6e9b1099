"""What the admin API tells of an edge: its sessions and how well they run, its events, itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import trio
import trio.testing
from proxy_fakes import BACKEND, FakeTunnel, launch_query, serving, session
from test_proxy_admin import PHONE, TV, Edge, edge, problem, waiting

from backends.apps import app_id
from backends.geography import ClientPlace, LocatedBy, Place
from moonlight.flows import Flow
from proxy.access import AccessRules
from proxy.client_flow import ClientFlow
from proxy.readiness import why_not_ready
from proxy.sessions import SessionId
from proxy.translation import PingTranslation
from proxy.version import version
from revdial.messages import FlowReport, Heartbeat

__all__ = ["edge", "waiting"]


async def never() -> Any:
    await trio.sleep_forever()


def add_flow(edge: Edge, kind: Flow) -> ClientFlow:
    flow = ClientFlow(
        session=SessionId("s1"),
        kind=kind,
        secret=f"s1/{kind}",
        client_address="192.0.2.1",
        translation=PingTranslation("", None),
        open_channel=cast("Callable[[], Awaitable[Any]]", never),
        silence_timeout_s=1e9,
        tunnel_grace_s=1e9,
    )
    edge.media.add(flow)
    return flow


async def test_a_session_is_shown_with_how_well_it_runs(edge: Edge, nursery: trio.Nursery) -> None:
    one = session("s1", client=PHONE)
    one.codec = "HEVC"
    edge.play.keeper.table.add(one)
    video, control = add_flow(edge, Flow.VIDEO), add_flow(edge, Flow.CONTROL)
    video.bytes_to_client, video.gaps.missing, video.gaps.late = 1000, 3, 2
    video.dropped["late_stale"] += 5
    assert control.watch is not None
    control.watch.client.rtt_s, control.watch.host.retransmissions = 0.0304, 2
    tunnel = FakeTunnel(nursery)
    async with serving(edge.fleet, tunnel):
        report = FlowReport("s1", "video", {"stale": 4, "invented": 1}, 2, 40)
        await tunnel.heartbeats_in.send(Heartbeat(flows=(report,)))
        await trio.testing.wait_all_tasks_blocked()
        (shown,) = await edge.items("sessions")
    assert (shown["client"], shown["codec"]) == (PHONE, "HEVC")
    assert shown["started_at"] == one.started_at.isoformat().replace("+00:00", "Z")
    assert shown["rtt_ms"] == {"client": 30.4, "host": None}
    assert shown["retransmissions"] == {"client": 0, "host": 2}
    told = shown["flows"]["video"]
    assert (told["bytes_to_client"], told["rtp_missing"], told["rtp_late"]) == (1000, 3, 2)
    assert (told["dropped"], told["backlog_age_ms"]) == ({"late_stale": 5}, 40)
    assert told["dropped_by_agent"] == {"stale": 4, "other": 1}
    assert told["jitter_ms"] == 0
    of_control = shown["flows"]["control"]
    assert (of_control["jitter_ms"], of_control["dropped_by_agent"]) == (None, {})


async def test_sessions_are_shown_with_their_clients_names_while_the_store_tells_them(
    edge: Edge,
) -> None:
    edge.play.keeper.table.add(session("s1", client=PHONE))
    await edge.store.set_client_name(PHONE, "Phone")
    assert (await edge.items("sessions"))[0]["client_name"] == "Phone"
    edge.store.away = True
    assert (await edge.items("sessions"))[0]["client_name"] is None


async def test_lists_are_read_in_pages(edge: Edge) -> None:
    for number in range(5):
        edge.play.keeper.table.add(session(f"s{number}"))
    seen: list[str] = []
    query = "limit=2"
    while True:
        page = (await edge.ask("GET", f"/api/v1/sessions?{query}")).json()
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        edge.play.keeper.table.remove(SessionId(seen[0]), 0.0)
        query = f"limit=2&cursor={page['next']}"
    assert seen == ["s0", "s1", "s2", "s3", "s4"]


# The edge


async def test_an_edge_tells_what_it_is_and_how_much_it_has(edge: Edge, waiting: str) -> None:
    edge.play.keeper.table.add(session("s1"))
    told = (await edge.ask("GET", "/api/v1/edge")).json()
    assert datetime.fromisoformat(told.pop("started_at")) <= datetime.now(UTC)
    assert told == {
        "name": "moonhost",
        "hostname": "h",
        "version": version(),
        "accepting": True,
        "store_up": True,
        "edge_region": "home",
        "regions": [{"name": "home", "latitude": 50.1, "longitude": 8.7}],
        "sessions": 1,
        "backends": 1,
        "agents": 1,
        "pairings": 1,
        "clients": 2,
    }
    edge.store.away, edge.store_up, edge.play.accepting = True, False, False
    told = (await edge.ask("GET", "/api/v1/edge")).json()
    assert (told["clients"], told["store_up"], told["accepting"]) == (None, False, False)


@pytest.mark.parametrize(
    ("accepting", "store_up", "why"),
    [
        (True, True, None),
        (False, True, "draining"),
        (True, False, "store down"),
        (False, False, "draining, store down"),
    ],
)
def test_an_edge_is_ready_while_it_accepts_and_has_its_store(
    accepting: bool, store_up: bool, why: str | None
) -> None:
    assert why_not_ready(accepting=accepting, store_up=store_up) == why


# Pairings and clients


async def test_a_device_that_waits_is_shown_with_its_place(edge: Edge, waiting: str) -> None:
    (shown,) = await edge.items("pairings")
    assert shown["place"] == {
        "located_by": "nothing",
        "region": None,
        "latitude": None,
        "longitude": None,
    }


async def test_the_place_is_what_the_edge_locates_the_address_at(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ClientPlace(LocatedBy.DATABASE, None, Place(1.5, 2.5))
    monkeypatch.setattr(edge.fleet, "locate", lambda _address: found)
    told = await edge.ask("GET", "/api/v1/backends/explain?client_ip=192.0.2.1&app=Game")
    assert told.json()["client_place"] == {
        "located_by": "database",
        "region": None,
        "latitude": 1.5,
        "longitude": 2.5,
    }


async def change(edge: Edge, body: str, client: str = TV[:9]) -> Any:
    return await edge.ask("PATCH", f"/api/v1/clients/{client}", content=body.encode())


async def test_a_client_is_renamed_and_what_is_not_said_stays(edge: Edge) -> None:
    assert (await change(edge, '{"user": "anna"}')).status_code == 204
    assert (await change(edge, '{"name": "Wohnzimmer ☕"}')).status_code == 204
    kept = edge.store.clients[TV]
    assert (kept.user, kept.name) == ("anna", "Wohnzimmer ☕")
    assert (await change(edge, '{"user": null, "name": "TV"}')).status_code == 204
    kept = edge.store.clients[TV]
    assert (kept.user, kept.name) == (None, "TV")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{}", "bad_body"),
        ('{"name": ""}', "bad_body"),
        ('{"name": null}', "bad_body"),
        ('{"name": "' + "x" * 65 + '"}', "bad_body"),
        ('{"name": "a\\u001b[2J"}', "bad_name"),
        ('{"name": "\\u202e"}', "bad_name"),
        ('{"name": " "}', "bad_name"),
        ('{"name": "TV", "user": "a b"}', "bad_user"),
    ],
)
async def test_a_change_that_makes_no_sense_changes_nothing(
    edge: Edge, body: str, reason: str
) -> None:
    before = dict(edge.store.clients)
    response = await change(edge, body)
    assert (response.status_code, problem(response)) == (400, reason)
    assert edge.store.clients == before


# Events


async def kinds(edge: Edge, subject: str) -> list[tuple[Any, ...]]:
    """What happened to something, the oldest first: the kind, and what it turned to."""
    return [
        (event["kind"], *(event[name] for name in ("state", "outcome", "reason") if name in event))
        for event in reversed(await edge.items("events"))
        if event["subject"] == subject
    ]


async def test_a_sessions_life_is_told_in_events(edge: Edge) -> None:
    await edge.play.launch(PHONE, "192.0.2.1", launch_query(app_id("Game")))
    (one,) = edge.play.keeper.table
    await edge.play.keeper.note_streaming(one)
    await edge.play.keeper.pause(one.id, "silent")
    await edge.play.end_at_host(one.id)
    assert await kinds(edge, one.id) == [
        ("session_started",),
        ("session_state", "streaming"),
        ("session_state", "paused", "silent"),
        ("session_ended", "cancelled"),
    ]
    (began,) = [e for e in await edge.items("events") if e["kind"] == "session_started"]
    assert (began["client"], began["backend"], began["app"]) == (PHONE[:12], BACKEND, "Game")
    secret = (one.label, one.key.rikey.hex(), PHONE)
    told = (await edge.ask("GET", "/api/v1/events")).text
    assert not any(word in told for word in secret)


async def test_a_pairings_life_is_told_in_events(edge: Edge, waiting: str) -> None:
    await edge.ask("DELETE", f"/api/v1/pairings/{waiting}")
    assert await kinds(edge, waiting) == [("pairing_asked",), ("pairing_ended", "refused")]


async def test_what_becomes_of_a_client_is_told_in_events(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    await change(edge, '{"name": "TV", "user": null}')
    assert (await change(edge, '{"name": "TV"}', "x")).status_code == 404
    monkeypatch.setattr(AccessRules, "knows", lambda _rules, _user: False)
    assert (await change(edge, '{"user": "ben"}')).status_code == 404
    await edge.ask("DELETE", f"/api/v1/clients/{TV}")
    assert await kinds(edge, TV[:12]) == [("client_changed",), ("client_unpaired",)]
    (changed,) = [e for e in await edge.items("events") if e["kind"] == "client_changed"]
    assert (changed["name"], changed["user"]) == ("TV", "")
