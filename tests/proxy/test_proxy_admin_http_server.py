"""The admin port's HTTP under callers that play by other rules: none of them harms anybody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from proxy.admin.http_server import HttpServer
from proxy.admin.port import admin_doors, listen
from proxy.doors import Doors
from proxy.losses import DoorRefusal
from tests.waiting import until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
UPGRADE = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"


async def version(request: Request) -> Response:
    return PlainTextResponse(request.scope["http_version"])


async def unread(request: Request) -> Response:
    """Answers without a look at the body, as where somebody is turned away."""
    return PlainTextResponse("no", 401)


async def broken(request: Request) -> Response:
    raise RuntimeError("as planned")


@dataclass
class Served:
    port: int
    doors: Doors

    async def exchange(self, sent: bytes) -> bytes:
        """Send something, and return all that comes until the connection is closed."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        got = b""
        async with stream:
            with trio.fail_after(20), suppress(trio.BrokenResourceError):
                await stream.send_all(sent)
                while piece := await stream.receive_some(65_536):
                    got += piece
        return got

    async def version(self) -> bytes:
        return await self.exchange(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


@asynccontextmanager
async def serving(doors: Doors | None = None) -> AsyncIterator[Served]:
    routes = [
        Route("/version", version),
        Route("/unread", unread, methods=["POST"]),
        Route("/broken", broken),
    ]
    listener = await listen("127.0.0.1", 0)
    served = Served(listener.socket.getsockname()[1], doors or admin_doors())
    async with trio.open_nursery() as nursery:
        server = HttpServer(Starlette(routes=routes))
        await nursery.start(served.doors.serve, [listener], server.serve)
        yield served
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "sent",
    [
        UPGRADE + b"Upgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n",
        UPGRADE + b"Upgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n",
        PREFACE + b"\0\0\5\2\0\0\0\0\1\0\0\0\1\3",
        PREFACE + b"\xff" * 64,
        b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n" + b"\xff" * 64,
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + b"\0" * 64,
        b"GET http://[ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /%ff%00//..%2f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /unread HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /version HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /version HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000,
        b"\x16\x03\x01\x02\x00" + b"\0" * 64,
        b"\0" * 64,
    ],
)
async def test_nothing_that_a_caller_sends_harms_others(served: Served, sent: bytes) -> None:
    got = await served.exchange(sent)
    assert b"HTTP/1.1 101" not in got
    assert (await served.version()).endswith(b"\r\n\r\n1.1")
    assert served.doors.failed == 0


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.3"])
async def test_who_asks_for_another_protocol_is_answered_in_http_1_1(
    served: Served, upgrade: bytes
) -> None:
    got = await served.exchange(UPGRADE + b"Upgrade: " + upgrade + b"\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200")
    assert got.endswith(b"1.1")


async def test_http_2_without_asking_is_refused(served: Served) -> None:
    assert (await served.exchange(PREFACE)).startswith(b"HTTP/1.1 505")


async def test_a_connection_whose_body_nobody_reads_ends(served: Served) -> None:
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    head = b"POST /unread HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    await served.exchange(head + 40 * chunk)
    await until(lambda: served.doors.open_connections == 0, 5)


async def test_an_application_that_breaks_ends_its_own_answer_alone(served: Served) -> None:
    got = await served.exchange(b"GET /broken HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 500")
    assert (await served.version()).endswith(b"1.1")


async def test_there_are_only_so_many_connections_at_once() -> None:
    doors = Doors(max_connections=2, max_connections_per_address=2)
    async with serving(doors) as served:
        first = await trio.open_tcp_stream("127.0.0.1", served.port)
        second = await trio.open_tcp_stream("127.0.0.1", served.port)
        await until(lambda: doors.open_connections == 2, 5)
        assert await served.exchange(b"") == b""
        assert doors.refused == {DoorRefusal.TOO_MANY: 1}
        await first.aclose()
        await second.aclose()
        await until(lambda: doors.open_connections == 0, 5)
        assert (await served.version()).endswith(b"1.1")
