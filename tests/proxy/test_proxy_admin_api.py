"""What all of the admin API's endpoints have in common: scopes, bounds, problems, the document."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
import structlog.testing
import trio
from admin_access import authority_over
from proxy_fakes import FakeStore, new_fleet
from served_admin import FakeGate
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from test_proxy_admin import Edge, problem

from proxy.admin.api import AdminApi
from proxy.admin.endpoints import Asked, Endpoint, NoParameters, Shape
from proxy.admin.paging import PageQuery
from proxy.admin.scopes import READERS, Scope
from proxy.admin.serving import application
from proxy.errors import Refused

FOR_ANYBODY = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/api/v1/"),
    ("GET", "/api/v1/openapi.json"),
    ("POST", "/api/v1/token"),
    ("POST", "/api/v1/login"),
    ("POST", "/api/v1/logout"),
    ("GET", "/.well-known/jwks.json"),
}
PROBLEM = "#/components/schemas/Problem"


@pytest.fixture
async def gate() -> FakeGate:
    return FakeGate(Scope.ADMIN)


@pytest.fixture
async def edge(nursery: trio.Nursery, gate: FakeGate) -> Edge:
    store = FakeStore()
    return Edge(store, new_fleet(store), nursery, await authority_over(store), gate)


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, told)
        for path, methods in document["paths"].items()
        for method, told in methods.items()
    ]


async def document(edge: Edge) -> dict[str, Any]:
    response = await edge.ask("GET", "/api/v1/openapi.json", token=None)
    assert response.status_code == 200
    told: dict[str, Any] = response.json()
    return told


def sample(path: str) -> str:
    return re.sub(r"\{\w+(:path)?\}", "x", path)


# Scopes


async def test_the_gate_stands_before_every_endpoint_but_a_few(edge: Edge) -> None:
    open_to_all = {(one.method, one.path) for one in edge.api.endpoints if not one.scopes}
    assert open_to_all == FOR_ANYBODY


@pytest.mark.parametrize("scope", Scope)
async def test_a_token_does_what_its_scope_says_and_no_more(
    edge: Edge, gate: FakeGate, scope: Scope
) -> None:
    gate.scopes = frozenset({scope})
    for endpoint in edge.api.endpoints:
        if endpoint.path.endswith("/stream"):
            continue
        admitted = not endpoint.scopes or scope in endpoint.scopes
        response = await edge.ask(endpoint.method, sample(endpoint.path), content=b"[]")
        refused = response.status_code == 403
        assert refused is not admitted, (endpoint.method, endpoint.path)
        if refused:
            assert problem(response) == "insufficient_scope"


async def test_only_who_may_change_things_changes_them(edge: Edge) -> None:
    for endpoint in edge.api.endpoints:
        if endpoint.method != "GET":
            assert Scope.READ not in endpoint.scopes


# What is said wrongly


@pytest.mark.parametrize(
    "query",
    ["x=1", "limit=0", "limit=501", "limit=x", "limit=1&limit=2", "limit=", "cursor=" + "x" * 600],
)
async def test_a_query_out_of_bounds_is_refused_in_words(edge: Edge, query: str) -> None:
    response = await edge.ask("GET", f"/api/v1/clients?{query}")
    assert (response.status_code, problem(response)) == (400, "bad_query")
    assert "limit (or not): How many, 1 to 500." in response.json()["detail"]


async def test_what_takes_no_query_says_so(edge: Edge) -> None:
    response = await edge.ask("DELETE", "/api/v1/sessions/x?force=1")
    assert response.json()["detail"] == "The query holds nothing."


async def test_a_cursor_of_somewhere_else_is_refused(edge: Edge) -> None:
    response = await edge.ask("GET", "/api/v1/clients?cursor=xyz")
    assert (response.status_code, problem(response)) == (400, "bad_cursor")


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_that_is_not_said_to_be_json_is_refused(edge: Edge, kind: str) -> None:
    response = await edge.ask(
        "POST", "/api/v1/pairings/x", content=b'{"pin": "1"}', headers={"Content-Type": kind}
    )
    assert (response.status_code, problem(response)) == (415, "not_json")


async def test_what_is_not_there_is_a_problem(edge: Edge) -> None:
    for path in ("/", "/api/v1/nothing", "/api/v1/clients/", "/api/v2/clients"):
        response = await edge.ask("GET", path)
        assert (response.status_code, problem(response)) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/clients", {"GET", "HEAD"}),
        ("GET", "/api/v1/clients/x", {"PATCH", "DELETE"}),
        ("POST", "/api/v1/drains/x", {"PUT", "DELETE"}),
        ("OPTIONS", "/healthz", {"GET", "HEAD"}),
    ],
)
async def test_another_method_is_told_which_there_are(
    edge: Edge, method: str, path: str, allowed: set[str]
) -> None:
    response = await edge.ask(method, path)
    assert (response.status_code, problem(response)) == (405, "method_not_allowed")
    assert set(response.headers["allow"].split(", ")) == allowed


async def test_a_refusal_tells_when_to_come_again() -> None:
    error = Refused(429, "too_many", "Wait.", headers={"Retry-After": "7"})
    response = await ask(Endpoint("GET", "/x", raising(error), READERS))
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")


async def test_a_mistake_of_ours_is_logged_once_and_not_shown() -> None:
    with structlog.testing.capture_logs() as logs:
        response = await ask(
            Endpoint("GET", "/x", raising(ZeroDivisionError("the secret")), READERS), "?limit=7"
        )
    assert (response.status_code, problem(response)) == (500, "internal_error")
    assert "secret" not in response.text
    (line,) = logs
    assert (line["event"], line["path"]) == ("admin_request_broke", "/x")
    assert isinstance(line["exc_info"], ZeroDivisionError)


def raising(error: Exception) -> Any:
    async def handler(asked: Asked[NoParameters, PageQuery, None]) -> None:
        """Do nothing."""
        raise error

    return handler


async def ask(endpoint: Endpoint, query: str = "") -> httpx.Response:
    served = application(FakeGate(), [endpoint])
    transport = httpx.ASGITransport(served, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        return await client.request(endpoint.method, endpoint.path + query)


def test_a_handler_has_to_say_what_it_takes() -> None:
    async def handler(request: Request) -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match="GET /x: its handler takes no Asked"):
        Shape.of(Endpoint("GET", "/x", handler, READERS))


# The document


async def test_the_document_tells_of_everything_that_is_served_and_of_nothing_else(
    edge: Edge,
) -> None:
    told = {(method, path) for method, path, _ in operations(await document(edge))}
    served = {
        (method, re.sub(r":path\}", "}", route.path))
        for route in edge.application.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert told == served


async def test_pages_beside_the_api_are_served_and_not_in_its_document(edge: Edge) -> None:
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    api = AdminApi(FakeGate(), edge.api.endpoints[:1], [Route("/console", page)])
    transport = httpx.ASGITransport(api.application())
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        assert (await client.get("/console")).text == "hello"
        assert "/console" not in (await client.get("/api/v1/openapi.json")).json()["paths"]


async def test_every_operation_has_a_name_of_its_own_and_says_what_it_does(edge: Edge) -> None:
    told = operations(await document(edge))
    names = [operation["operationId"] for _, _, operation in told]
    assert len(names) == len(set(names))
    for _, path, operation in told:
        assert operation["summary"], path
        assert operation["description"], path
        assert re.fullmatch("[a-z_]+", operation["operationId"]), path


async def test_every_error_that_is_told_of_is_a_problem(edge: Edge) -> None:
    for method, path, operation in operations(await document(edge)):
        assert "500" in operation["responses"]
        for status, response in operation["responses"].items():
            if status >= "400" and path != "/readyz":
                (schema,) = [
                    content["schema"]
                    for kind, content in response["content"].items()
                    if kind == "application/problem+json"
                ]
                assert schema == {"$ref": PROBLEM}, (method, path, status)


async def test_what_needs_a_token_says_so_and_which_scopes_will_do(edge: Edge) -> None:
    for method, path, operation in operations(await document(edge)):
        if (method, path) in FOR_ANYBODY:
            assert operation["security"] == []
        else:
            assert operation["security"] == [{"bearer": []}, {"cookie": []}]
            assert {"401", "403"} <= operation["responses"].keys()
            assert "`admin`" in operation["description"]


async def test_every_reference_leads_somewhere(edge: Edge) -> None:
    response = await edge.ask("GET", "/api/v1/openapi.json", token=None)
    names = re.findall(r'"#/components/schemas/([^"]+)"', response.text)
    assert set(names) == response.json()["components"]["schemas"].keys()


async def test_parameters_and_bodies_are_told_with_their_bounds(edge: Edge) -> None:
    paths = (await document(edge))["paths"]
    limit, cursor = paths["/api/v1/clients"]["get"]["parameters"]
    assert (limit["in"], limit["required"]) == ("query", False)
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 500, "default": 100}
    assert cursor["name"] == "cursor"
    (target,) = paths["/api/v1/drains/{target}"]["put"]["parameters"]
    assert (target["in"], target["required"]) == ("path", True)
    body = paths["/api/v1/drains/{target}"]["put"]["requestBody"]
    assert body["content"]["application/json"]["example"] == {"deadline_s": 3600}


async def test_an_edge_that_is_not_ready_is_told_of_in_its_document(edge: Edge) -> None:
    told = (await document(edge))["paths"]["/readyz"]["get"]["responses"]
    assert told["503"]["content"] == told["200"]["content"]
    assert list(told["200"]["content"]) == ["text/plain"]


async def test_the_index_leads_to_the_document(edge: Edge) -> None:
    index = (await edge.ask("GET", "/api/v1/", token=None)).json()
    told = (await edge.ask("GET", index["openapi"], token=None)).json()
    assert told["openapi"].startswith("3.1")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/edge", 200),
        ("HEAD", "/api/v1/edge", 200),
        ("GET", "/api/v1/events", 200),
        ("GET", "/metrics", 200),
        ("GET", "/readyz", 200),
        ("POST", "/api/v1/logout", 204),
        ("DELETE", "/api/v1/sessions/none", 404),
        ("GET", "/nowhere", 404),
        ("PUT", "/metrics", 405),
    ],
)
async def test_no_answer_is_run_framed_embedded_or_kept(
    edge: Edge, method: str, path: str, status: int
) -> None:
    response = await edge.ask(method, path)
    assert response.status_code == status
    assert response.headers["content-security-policy"].startswith("default-src 'none'; frame-anc")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["cache-control"] == "no-store"


async def test_what_breaks_is_not_kept_either(gate: FakeGate) -> None:
    async def breaks(asked: Asked[NoParameters, NoParameters, None]) -> None:
        raise RuntimeError("as planned")

    app = application(gate, [Endpoint("GET", "/broken", breaks, READERS)])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        response = await client.get("/broken")
    assert response.status_code == 500
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
