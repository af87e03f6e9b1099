from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import httpx
import pytest
import structlog.testing
import trio
import trio.testing
from admin_access import LOCAL_TOKEN, authority_over, jwt_of
from prometheus_client import CollectorRegistry
from proxy_fakes import (
    BACKEND,
    FakeFlows,
    FakeStore,
    FakeTunnel,
    NoTls,
    identity,
    launch_query,
    new_fleet,
    new_play,
    serve_http,
    serving,
    session,
)

from backends.apps import app_id
from moonlight.http import HttpRequest, Query
from moonlight.identity import client_id
from moonlight.launch import cancel_answer, launch_answer
from moonlight.pairing import PairingClient
from proxy.admin import http as admin_http
from proxy.admin.api import AdminApi
from proxy.admin.authority import Authority
from proxy.admin.gate import Gate
from proxy.admin.pairings import Pin
from proxy.admin.port import admin_doors
from proxy.admin.resources import resources
from proxy.assets import Assets
from proxy.config import ProxyConfig
from proxy.doors import Doors
from proxy.errors import Refused
from proxy.fleet import Fleet
from proxy.host_pairing import HostPairing
from proxy.media import Media
from proxy.metrics import EdgeCollector, registry
from proxy.nvhttp import NvHttp
from proxy.pairing_desk import PairingDesk
from proxy.prober import Prober
from proxy.readiness import why_not_ready
from proxy.waker import Waker
from revdial.observer import Counters

REGIONS = {"home": {"latitude": 50.1, "longitude": 8.7}}
PHONE = client_id(identity("phone").certificate.der)
TV = client_id(identity("tv").certificate.der)


class Edge:
    """The parts of an edge that the admin API shows, and a client of that API."""

    def __init__(
        self,
        store: FakeStore,
        fleet: Fleet,
        nursery: trio.Nursery,
        authority: Authority,
        gate: Gate | None = None,
    ) -> None:
        config = ProxyConfig(hostname="h", regions=REGIONS, geography={"edge_region": "home"})
        pairing = cast("HostPairing", NoTls())
        self.store = store
        self.fleet = fleet
        self.play = new_play(config, store, fleet, pairing, FakeFlows())
        self.desk = PairingDesk(
            identity("edge"),
            max_pending=4,
            max_pending_per_address=4,
            pin_timeout_s=300,
            events=fleet.events,
        )
        self.media = Media(nursery, on_end=lambda *_: None)
        nvhttp = NvHttp(
            config,
            "id",
            store,
            fleet,
            self.desk,
            self.play.keeper,
            self.play,
            pairing,
            Assets(fleet, pairing),
        )
        collector = EdgeCollector(
            sessions=self.play.keeper.table,
            fleet=fleet,
            media=self.media,
            doors=Doors(max_connections=1, max_connections_per_address=1),
            admin_doors=admin_doors(),
            apart=self.play.keeper.apart,
            rtsp_refused=Counter(),
            tunnels=Counters(),
            waker=Waker(config, b"", fleet, ()),
        )
        self.metrics: CollectorRegistry = registry(collector)
        self.store_up = True
        self.gate = gate or authority.gate
        endpoints = resources(
            config=lambda: config,
            store=store,
            fleet=fleet,
            desk=self.desk,
            keeper=self.play.keeper,
            play=self.play,
            media=self.media,
            nvhttp=nvhttp,
            access=nvhttp.access,
            metrics=self.metrics,
            store_up=lambda: self.store_up,
            why_not_ready=lambda: why_not_ready(
                accepting=self.play.accepting, store_up=self.store_up
            ),
            stands=self.gate.stands,
            prober=Prober({}),
        )
        self.api = AdminApi(self.gate, [*endpoints, *authority.endpoints()])
        self.application = self.api.application()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = "",
        content: Any = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        token = jwt_of() if token == "" else token
        sent = {} if token is None else {b"Authorization": f"Bearer {token}".encode("latin-1")}
        sent |= {} if content is None else {b"Content-Type": b"application/json"}
        sent |= {name.encode(): value.encode() for name, value in (headers or {}).items()}
        transport = httpx.ASGITransport(self.application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
            return await client.request(method, path, headers=sent, content=content)

    async def items(self, path: str) -> list[dict[str, Any]]:
        """The one page of a list."""
        response = await self.ask("GET", f"/api/v1/{path}")
        assert response.status_code == 200, response.text
        assert response.json()["next"] is None
        return list(response.json()["items"])


async def host(name: str, service: str, stream: trio.abc.Stream) -> None:
    async def answer(request: HttpRequest) -> tuple[int, bytes]:
        answers = {"/launch": launch_answer("rtsp://h:1"), "/cancel": cancel_answer()}
        return 200, answers[request.path].encode()

    await serve_http(stream, answer)


@pytest.fixture
async def edge(nursery: trio.Nursery) -> AsyncIterator[Edge]:
    store = FakeStore()
    for name in ("phone", "tv"):
        der = identity(name).certificate.der
        store.know(der, client_id(der))
    fleet = new_fleet(store)
    async with serving(fleet, FakeTunnel(nursery, on_stream=host)):
        yield Edge(store, fleet, nursery, await authority_over(store, fleet.dismiss))


def problem(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert told["status"] == response.status_code
    assert told["title"]
    assert told["detail"]
    return str(told["type"]).removeprefix("urn:moonhost:")


API = [
    ("GET", "/api/v1/pairings"),
    ("POST", "/api/v1/pairings/x"),
    ("DELETE", "/api/v1/pairings/x"),
    ("GET", "/api/v1/clients"),
    ("DELETE", "/api/v1/clients/x"),
    ("GET", "/api/v1/sessions"),
    ("DELETE", "/api/v1/sessions/x"),
    ("GET", "/api/v1/backends"),
]


@pytest.mark.parametrize(("method", "path"), API)
@pytest.mark.parametrize("token", [None, "wrong", LOCAL_TOKEN, "a.b.c", "\xe9\xff"])
async def test_without_a_jwt_there_is_nothing(
    edge: Edge, method: str, path: str, token: str | None
) -> None:
    response = await edge.ask(method, path, token=token)
    assert response.status_code == 401
    assert problem(response) == ("unauthorized" if token is None else "malformed_credentials")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert LOCAL_TOKEN not in response.text


@pytest.mark.parametrize("header", ["", "Basic x", "Bearer", "Bearer ", "Bearer a b"])
async def test_other_schemes_are_none(edge: Edge, header: str) -> None:
    transport = httpx.ASGITransport(edge.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        answer = await client.get("/api/v1/clients", headers={"Authorization": header})
    assert answer.status_code == 401


async def test_an_edge_is_alive_and_ready_until_it_drains(edge: Edge) -> None:
    for path, text in (("/healthz", "ok\n"), ("/readyz", "ready\n")):
        response = await edge.ask("GET", path, token=None)
        assert (response.status_code, response.text) == (200, text)
    for accepting, store_up, text in (
        (False, True, "draining\n"),
        (True, False, "store down\n"),
        (False, False, "draining, store down\n"),
    ):
        edge.play.accepting, edge.store_up = accepting, store_up
        assert (await edge.ask("GET", "/healthz", token=None)).status_code == 200
        response = await edge.ask("GET", "/readyz", token=None)
        assert (response.status_code, response.text) == (503, text)


async def test_metrics_count_and_show_no_secret(edge: Edge) -> None:
    edge.play.keeper.table.add(session("s1", label="unguessable"))
    edge.media.dropped["not_a_ping"] += 3
    edge.play.keeper.apart.refused["no_turn_at_host"] += 2
    response = await edge.ask("GET", "/metrics", token=None)
    assert 'moonhost_sessions{state="launched"} 1.0' in response.text
    assert 'moonhost_datagrams_dropped_total{reason="not_a_ping"} 3.0' in response.text
    assert 'moonhost_kept_apart_total{reason="no_turn_at_host"} 2.0' in response.text
    assert f'moonhost_backend_health{{backend="{BACKEND}",health="healthy"}} 1.0' in response.text
    assert "unguessable" not in response.text
    assert LOCAL_TOKEN not in response.text


async def test_backends_are_listed(edge: Edge) -> None:
    (backend,) = await edge.items("backends")
    assert backend["id"] == BACKEND
    assert (backend["state"], backend["sessions"], backend["rtt_ms"]) == ("healthy", 0, None)
    assert backend["apps"] == ["Desktop", "Game"]


async def test_clients_are_listed_with_what_they_play(edge: Edge) -> None:
    await edge.play.launch(PHONE, "192.0.2.1", launch_query(app_id("Game")))
    clients = await edge.items("clients")
    assert {client["id"]: client["app"] for client in clients} == {PHONE: app_id("Game"), TV: None}
    assert "certificate" not in str(clients)


async def test_a_client_is_unpaired_by_the_beginning_of_its_id(edge: Edge) -> None:
    await edge.play.launch(PHONE, "192.0.2.1", launch_query(app_id("Game")))
    assert (await edge.ask("DELETE", f"/api/v1/clients/{PHONE[:12]}")).status_code == 204
    assert edge.store.clients.keys() == {TV}
    assert len(edge.play.keeper.table) == 0
    gone = await edge.ask("DELETE", f"/api/v1/clients/{PHONE[:12]}")
    assert (gone.status_code, problem(gone)) == (404, "no_such_client")


async def test_an_ambiguous_beginning_unpairs_nobody(edge: Edge) -> None:
    edge.store.know(b"", "x-1")
    edge.store.know(b"", "x-2")
    response = await edge.ask("DELETE", "/api/v1/clients/x-")
    assert response.status_code == 404
    assert "2 clients" in response.json()["detail"]
    assert len(edge.store.clients) == 4


async def test_sessions_are_listed_without_their_secrets_and_ended(edge: Edge) -> None:
    await edge.play.launch(PHONE, "192.0.2.1", launch_query(app_id("Game")))
    response = await edge.ask("GET", "/api/v1/sessions")
    (shown,) = response.json()["items"]
    (one,) = edge.play.keeper.table
    assert (shown["id"], shown["region"], shown["state"]) == (one.id, "home", "launched")
    assert one.label not in response.text
    assert (await edge.ask("DELETE", f"/api/v1/sessions/{one.id}")).status_code == 204
    assert len(edge.play.keeper.table) == 0
    gone = await edge.ask("DELETE", f"/api/v1/sessions/{one.id}")
    assert (gone.status_code, problem(gone)) == (404, "no_such_session")


async def test_a_session_whose_backend_is_away_is_listed_all_the_same(edge: Edge) -> None:
    away = session("s1", backend=type(BACKEND)("agent-9/wolf"))
    edge.play.keeper.table.add(away)
    (shown,) = await edge.items("sessions")
    assert shown["region"] is None


# Pairing


@pytest.fixture
async def waiting(edge: Edge, nursery: trio.Nursery) -> str:
    """A device that waits for its PIN and never goes on; gives its attempt's id."""
    query = Query.of(("uniqueid", "1")) + PairingClient(identity("phone"), "1234").next_query()

    async def introduce() -> None:
        with suppress(Refused):
            await edge.desk.introduce("192.0.2.1", query)

    nursery.start_soon(introduce)
    await trio.testing.wait_all_tasks_blocked()
    return str(edge.desk.pending()[0].id)


async def test_pending_pairings_are_listed_and_refused(edge: Edge, waiting: str) -> None:
    (shown,) = await edge.items("pairings")
    assert shown["id"] == waiting
    assert (shown["address"], shown["device"]) == ("192.0.2.1", "roth")
    assert (await edge.ask("DELETE", f"/api/v1/pairings/{waiting}")).status_code == 204
    gone = await edge.ask("DELETE", f"/api/v1/pairings/{waiting}")
    assert (gone.status_code, problem(gone)) == (404, "no_such_pairing")
    assert await edge.items("pairings") == []


async def test_a_pin_for_a_device_that_does_not_go_on(
    edge: Edge, waiting: str, autojump_clock: trio.testing.MockClock
) -> None:
    response = await edge.ask("POST", f"/api/v1/pairings/{waiting}", content=b'{"pin": "1234"}')
    assert (response.status_code, problem(response)) == (504, "pairing_not_finished")


async def test_a_pin_for_nobody(edge: Edge) -> None:
    response = await edge.ask("POST", "/api/v1/pairings/%1b[2J", content=b'{"pin": "1234"}')
    assert (response.status_code, problem(response)) == (404, "no_such_pairing")
    assert "\x1b" not in response.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "bad_body"),
        (b"\xff\xfe", 400, "bad_body"),
        (b"{}", 400, "bad_body"),
        (b"[]", 400, "bad_body"),
        (b'{"pin": 1234}', 400, "bad_body"),
        (b'{"pin": "1234", "more": 1}', 400, "bad_body"),
        (b'{"pin": "\xff"}', 400, "bad_body"),
        (b'{"more": ' + b"[" * 4_000, 400, "bad_body"),
        (b'{"pin": "12x4"}', 400, "bad_pin"),
        (b'{"pin": ""}', 400, "bad_pin"),
    ],
)
async def test_bodies_that_are_no_pin(
    edge: Edge, waiting: str, body: bytes, status: int, reason: str
) -> None:
    with structlog.testing.capture_logs() as events:
        response = await edge.ask("POST", f"/api/v1/pairings/{waiting}", content=body)
    assert (response.status_code, problem(response)) == (status, reason)
    assert "12x4" not in response.text
    assert events == []
    assert len(edge.desk.pending()) == 1


@pytest.mark.parametrize(("chunk_bytes", "status"), [(1, 408), (1_000, 413), (100_000, 413)])
async def test_a_body_that_never_ends_is_given_up(
    edge: Edge,
    waiting: str,
    autojump_clock: trio.testing.MockClock,
    chunk_bytes: int,
    status: int,
) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await trio.sleep(1)
        return {"type": "http.request", "body": b" " * chunk_bytes, "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await edge.application(scope(waiting), receive, cast("Any", send))
    assert sent[0]["status"] == status
    assert trio.current_time() <= admin_http.body_timeout_s


async def test_a_caller_that_hangs_up_is_no_error(edge: Edge, waiting: str) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await edge.application(scope(waiting), receive, cast("Any", send))
    assert sent[0]["status"] == 400


def scope(attempt: str) -> dict[str, Any]:
    path = f"/api/v1/pairings/{attempt}"
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "scheme": "http",
        "headers": [
            (b"authorization", f"Bearer {jwt_of()}".encode()),
            (b"content-type", b"application/json"),
        ],
    }


# What fails


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/v1/clients"), ("DELETE", "/api/v1/clients/x")]
)
async def test_a_store_that_is_away_is_a_503(edge: Edge, method: str, path: str) -> None:
    edge.store.away = True
    with structlog.testing.capture_logs() as events:
        response = await edge.ask(method, path)
    assert (response.status_code, problem(response)) == (503, "away")
    assert len(events) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/api/v1/nothing", 404), ("PUT", "/api/v1/clients", 405)]
)
async def test_what_is_not_there(edge: Edge, method: str, path: str, status: int) -> None:
    assert (await edge.ask(method, path)).status_code == status


def test_a_pin_is_in_no_repr() -> None:
    assert "1234" not in repr(Pin("1234"))
