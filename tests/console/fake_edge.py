"""An edge that only pretends: the admin API's contract with made-up figures, for the console.

States that a real edge cannot easily show are a matter of an attribute here. To look at it:
``python -m tests.console.fake_edge 8800`` serves it, with the token ``operator``.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import hypercorn.config
import hypercorn.trio
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from proxy.admin import console_files
from tests.console.fake_fleet import client, events, fleet, pairing, session

HOST: Final = "127.0.0.1"
COOKIE: Final = "__Host-moonhost"
RIGHT_PIN: Final = "4711"
TOKENS: Final = {
    "reader": ["read"],
    "pairer": ["pair"],
    "operator": ["operate", "pair"],
    "admin": ["admin"],
}
_start_timeout_s: Final = 10.0
_look_often_s: Final = 0.05


@dataclass
class FakeEdge:
    """What the pretended edge holds; tests change it as they like."""

    backends: list[dict[str, Any]] = field(default_factory=fleet)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    clients: list[dict[str, Any]] = field(default_factory=list)
    pairings: list[dict[str, Any]] = field(default_factory=list)
    drains: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    regions: list[dict[str, Any]] = field(default_factory=list)
    accepting: bool = True
    store_up: bool = True
    refused: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    """Paths that are answered by a problem: status, reason and detail."""
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    """Everything that was to change something: method, path and body."""
    logins: set[str] = field(default_factory=set)
    login_wait_s: int | None = None
    page: int = 100
    """The most items that one page of a list holds."""
    streams_break: int = 0
    """How many streams of events still end at once."""
    ahead_s: float = 0.0
    """How far what it counts is ahead of the time."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def note(self, kind: str, subject: str, **details: str) -> None:
        """Let something happen."""
        last = self.events[0]["id"] if self.events else 0
        at = datetime.now(UTC).isoformat()
        self.events.insert(
            0, {"id": last + 1, "at": at, "kind": kind, "subject": subject, **details}
        )

    def let_in(self, token: str) -> str:
        """Return the cookie of a new login with a token."""
        cookie = f"{token}:{next(self._numbers)}"
        self.logins.add(cookie)
        return cookie


def populated(count: int = 7) -> FakeEdge:
    """Return an edge at which something goes on."""
    edge = FakeEdge(backends=fleet(count))
    edge.regions = [
        {"name": "frankfurt", "latitude": 50.1, "longitude": 8.7},
        {"name": "amsterdam", "latitude": 52.4, "longitude": 4.9},
        {"name": "virginia", "latitude": 38.9, "longitude": -77.5},
        {"name": "tokyo", "latitude": 35.7, "longitude": 139.7},
        {"name": "sao-paulo", "latitude": -23.5, "longitude": -46.6},
        {"name": "sydney", "latitude": -33.9, "longitude": 151.2},
    ]
    edge.sessions = [session(number) for number in range(5)]
    edge.clients = [client(number) for number in range(6)]
    edge.pairings = [pairing(0), pairing(1)]
    edge.drains = [
        {"target": "office/wolf", "since": ago(600), "deadline": ago(-3000), "sessions": 1}
    ]
    edge.events = events()
    edge.tokens = [
        {"kind": "api", "name": "admin", "scopes": ["admin"], "created_at": ago(9e6), "tokens": 1},
        {
            "kind": "api",
            "name": "anna",
            "scopes": ["read", "pair"],
            "created_at": ago(9e5),
            "tokens": 1,
        },
        {"kind": "agent", "name": "living-room", "scopes": [], "created_at": ago(8e6), "tokens": 2},
    ]
    return edge


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


class FakeApi:
    """Answers as the contract says, from the edge that it is given at the moment."""

    def __init__(self, edge: FakeEdge) -> None:
        self.edge = edge

    def application(self) -> Starlette:
        lists = ("backends", "sessions", "clients", "pairings", "drains", "events", "tokens")
        api = "/api/v1"
        routes = [Route(f"{api}/{name}", self._list(name)) for name in lists]
        routes += [
            Route(f"{api}/edge", self._guarded(self._edge)),
            Route(f"{api}/whoami", self._guarded(self._whoami)),
            Route(f"{api}/login", self._login, methods=["POST"]),
            Route(f"{api}/logout", self._logout, methods=["POST"]),
            Route(f"{api}/events/stream", self._guarded(self._stream)),
            Route(f"{api}/tokens", self._guarded(self._make_token), methods=["POST"]),
            Route(f"{api}/pairings/{{id}}", self._guarded(self._pair), methods=["POST"]),
            Route(f"{api}/drains/{{target:path}}", self._guarded(self._drain), methods=["PUT"]),
        ]
        routes += [
            Route(f"{api}/{path}", self._guarded(self._change), methods=["DELETE", "PATCH"])
            for path in ("sessions/{id}", "clients/{id}", "pairings/{id}", "drains/{target:path}")
        ]
        routes += [
            Route(
                f"{api}/tokens/{{kind}}/{{name}}", self._guarded(self._change), methods=["DELETE"]
            )
        ]
        return Starlette(routes=[*routes, *console_files.routes()])

    def _guarded(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def guarded(request: Request) -> Response:
            path = request.url.path.removeprefix("/api/v1")
            if request.cookies.get(COOKIE) not in self.edge.logins:
                return _problem(401, "unauthorized", "Log in first.")
            if path in self.edge.refused:
                return _problem(*self.edge.refused[path])
            if request.method != "GET":
                origin = f"{request.url.scheme}://{request.url.netloc}"
                if request.headers.get("origin") != origin:
                    return _problem(403, "foreign_origin", "That came from another page.")
                body = await request.body()
                self.edge.asked.append((request.method, path, json.loads(body) if body else None))
            answer: Response = await handler(request)
            return answer

        return guarded

    def _list(self, name: str) -> Callable[[Request], Any]:
        async def listed(request: Request) -> Response:
            items = getattr(self.edge, name)
            if name == "sessions":
                now = time.monotonic() + self.edge.ahead_s
                items = [moving(one, now) for one in items]
            begin = int(request.query_params.get("cursor", "0"))
            end = begin + min(self.edge.page, int(request.query_params.get("limit", "100")))
            more = str(end) if end < len(items) else None
            return JSONResponse({"items": items[begin:end], "next": more})

        return self._guarded(listed)

    async def _edge(self, request: Request) -> Response:
        edge = self.edge
        return JSONResponse(
            {
                "name": "edge-fra-1",
                "hostname": "play.example.net",
                "version": "0.1.0",
                "started_at": ago(90_000),
                "accepting": edge.accepting,
                "store_up": edge.store_up,
                "edge_region": "frankfurt",
                "regions": edge.regions,
                "sessions": len(edge.sessions),
                "backends": len(edge.backends),
                "agents": len({one["agent"] for one in edge.backends}),
                "pairings": len(edge.pairings),
                "clients": len(edge.clients),
            }
        )

    async def _whoami(self, request: Request) -> Response:
        name = request.cookies[COOKIE].partition(":")[0]
        return JSONResponse({"name": name, "scopes": TOKENS[name], "expires_at": ago(-7200)})

    async def _login(self, request: Request) -> Response:
        edge = self.edge
        if edge.login_wait_s is not None:
            wait, edge.login_wait_s = edge.login_wait_s, None
            return _problem(429, "too_many_attempts", "Wait a little.", {"Retry-After": str(wait)})
        token = (await request.json())["token"]
        if token not in TOKENS:
            return _problem(401, "unauthorized", "No such token.")
        answer = JSONResponse({"name": token, "scopes": TOKENS[token], "expires_at": ago(-7200)})
        answer.set_cookie(COOKIE, edge.let_in(token), httponly=True, samesite="strict", secure=True)
        return answer

    async def _logout(self, request: Request) -> Response:
        self.edge.logins.discard(request.cookies.get(COOKIE, ""))
        return Response(status_code=204)

    async def _pair(self, request: Request) -> Response:
        body = await request.json()
        waiting = request.path_params["id"]
        if all(one["id"] != waiting for one in self.edge.pairings):
            return _problem(404, "no_such_pairing", "No device waits under that id.")
        self.edge.pairings = [one for one in self.edge.pairings if one["id"] != waiting]
        right = body["pin"] == RIGHT_PIN
        return JSONResponse({"outcome": "paired" if right else "wrong_pin"})

    async def _drain(self, request: Request) -> Response:
        target = request.path_params["target"]
        deadline = (await request.json()).get("deadline_s")
        drain = {
            "target": target,
            "since": ago(0),
            "deadline": deadline and ago(-deadline),
            "sessions": 0,
        }
        self.edge.drains.append(drain)
        self._mark(target, draining=True)
        return JSONResponse(drain)

    async def _make_token(self, request: Request) -> Response:
        body = await request.json()
        made = {"kind": body["kind"], "name": body["name"], "scopes": body.get("scopes", [])}
        self.edge.tokens.append({**made, "created_at": ago(0), "tokens": 1})
        token = "mh_" + "a1b2c3d4" * 5
        return JSONResponse({"kind": made["kind"], "name": made["name"], "token": token}, 201)

    async def _change(self, request: Request) -> Response:
        _, _, _, what, *rest = request.url.path.split("/")
        name = "/".join(rest)
        if request.method == "PATCH":
            (found,) = [one for one in self.edge.clients if one["id"] == name]
            found.update(await request.json())
            return Response(status_code=204)
        if what == "drains":
            self._mark(name, draining=False)
        known = {"drains": "target"}.get(what, "id")
        kept = [one for one in getattr(self.edge, what) if _key(one, what, known) != name]
        setattr(self.edge, what, kept)
        return Response(status_code=204)

    def _mark(self, target: str, *, draining: bool) -> None:
        for one in self.edge.backends:
            if target in (one["id"], one["agent"]):
                one["draining"] = draining
                if one["state"] in ("healthy", "draining"):
                    one["state"] = "draining" if draining else "healthy"

    async def _stream(self, request: Request) -> Response:
        return StreamingResponse(
            self._happenings(request.headers.get("last-event-id")), media_type="text/event-stream"
        )

    async def _happenings(self, last: str | None) -> AsyncIterator[str]:
        yield ": hello\n\n"
        if self.edge.streams_break:
            self.edge.streams_break -= 1
            return
        known = int(last or 0)
        while True:
            for event in reversed(self.edge.events):
                if event["id"] > known:
                    known = event["id"]
                    yield f"id: {known}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n"
            await trio.sleep(_look_often_s)


def _key(one: dict[str, Any], what: str, known: str) -> str:
    return f"{one['kind']}/{one['name']}" if what == "tokens" else str(one[known])


def moving(held: dict[str, Any], now: float) -> dict[str, Any]:
    """Return a session with counters as of a moment, in seconds."""
    phase = now / 9 + len(held["id"]) + ord(held["id"][-1])
    rate = held["rate"]
    wave = 1 + 0.25 * math.sin(phase)
    whole = rate / 8 * (now + 2 * math.cos(phase))
    flows = {
        "video": _flow(whole, now * rate / 10_000, now * held["lossy"], 12 * wave * held["slow"]),
        "audio": _flow(12_000 * now, now * 200, 0, 0.4),
        "control": _flow(500 * now, 0, 0, None),
    }
    told = {name: value for name, value in held.items() if name not in ("rate", "lossy", "slow")}
    told["flows"] = flows
    if held["state"] == "streaming":
        told["rtt_ms"] = {"client": 18 * wave * held["slow"], "host": 6 * wave}
    return told


def _flow(sent: float, packets: float, missing: float, age: float | None) -> dict[str, Any]:
    return {
        "client": "203.0.113.7:50000",
        "datagrams_to_client": int(packets),
        "bytes_to_client": int(sent),
        "datagrams_to_host": int(packets / 50),
        "rtp_packets": int(packets),
        "rtp_missing": int(missing),
        "rtp_late": 0,
        "jitter_ms": 1.2,
        "backlog_age_ms": age,
        "dropped": {},
        "dropped_by_agent": {},
    }


def _problem(
    status: int, reason: str, detail: str, headers: dict[str, str] | None = None
) -> Response:
    body = {"type": f"urn:moonhost:{reason}", "title": reason, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


class ServedEdge:
    """The pretended edge on a port of loopback, in a thread of its own."""

    def __init__(self, port: int = 0) -> None:
        self.api = FakeApi(populated())
        self.url = ""
        self._port = port
        self._started = threading.Event()
        self._stop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))

    def __enter__(self) -> ServedEdge:
        self._thread.start()
        assert self._started.wait(_start_timeout_s)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join()

    async def _serve(self) -> None:
        token = trio.lowlevel.current_trio_token()
        settings = hypercorn.config.Config()
        settings.bind = [f"{HOST}:{self._port}"]
        settings.errorlog = None
        with suppress(trio.Cancelled):
            async with trio.open_nursery() as nursery:
                self._stop = lambda: token.run_sync_soon(nursery.cancel_scope.cancel)
                (bound,) = await nursery.start(
                    hypercorn.trio.serve, self.api.application(), settings
                )
                self.url = bound
                self._started.set()


if __name__ == "__main__":
    with ServedEdge(int(sys.argv[1])) as served:
        served.api.edge = populated(int(sys.argv[2]) if len(sys.argv) > 2 else 7)
        print(served.url, flush=True)
        threading.Event().wait()
