from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, cast

import pytest
import structlog.testing
import trio
import trio.testing
from proxy_fakes import identity

from moonlight.http import HttpClient, HttpRequest, HttpResponse
from moonlight.identity import client_id
from moonlight.tls import client_context, server_context
from moonlight.xml import Answer
from proxy import web_shell
from proxy.doors import Connection
from proxy.nvhttp import Caller, NvHttp, Reply
from proxy.web_shell import WebShell

GET = b"GET /serverinfo?uniqueid=1 HTTP/1.1\r\nHost: h\r\n\r\n"


class Routes:
    """Stands for `NvHttp`: says what it was asked, and holds ``/pair`` open."""

    def __init__(self) -> None:
        self.asked: list[tuple[HttpRequest, Caller]] = []
        self.hung_up = 0
        self.pin_told = trio.Event()

    async def answer(self, request: HttpRequest, caller: Caller) -> Reply:
        self.asked.append((request, caller))
        if request.path == "/pair":
            try:
                await self.pin_told.wait()
            except trio.Cancelled:
                self.hung_up += 1
                raise
        return Reply(f"answer to {request.path}".encode())


@pytest.fixture
def routes() -> Routes:
    return Routes()


@pytest.fixture
def shell(routes: Routes) -> WebShell:
    return WebShell(
        cast("NvHttp", routes),
        server_context(identity("edge")),
        request_timeout_s=10,
        keep_alive_timeout_s=20,
    )


Visit = trio.StapledStream[Any, Any]


def visit(nursery: trio.Nursery, serve: Callable[[Connection], Any]) -> Visit:
    """Connect; the stream ends when the shell is done with it."""
    ours, theirs = trio.testing.memory_stream_pair()
    connection = Connection(cast("trio.SocketStream", theirs), "192.0.2.1", "203.0.113.1", 47989)

    async def run() -> None:
        async with theirs:
            await serve(connection)

    nursery.start_soon(run)
    return ours


async def everything(stream: trio.abc.Stream) -> bytes:
    data = b""
    while piece := await stream.receive_some(65_536):
        data += piece
    return data


def response(data: bytes) -> HttpResponse:
    client = HttpClient()
    client.request("GET", "/", [("Host", "h")])
    client.receive(data)
    client.receive(b"")
    found = client.response()
    assert found is not None
    return found


async def test_a_request_is_answered_and_the_caller_is_told_apart(
    shell: WebShell, routes: Routes, nursery: trio.Nursery
) -> None:
    stream = visit(nursery, shell.serve_http)
    await stream.send_all(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert response(await everything(stream)).body == b"answer to /serverinfo"
    ((request, caller),) = routes.asked
    assert request.query.get("uniqueid") == "1"
    assert caller == Caller("192.0.2.1", "203.0.113.1", None, secure=False)


@pytest.mark.parametrize("size", [1, 7, 1_000])
async def test_requests_may_come_in_any_pieces(
    shell: WebShell, routes: Routes, nursery: trio.Nursery, size: int
) -> None:
    stream = visit(nursery, shell.serve_http)
    for start in range(0, len(GET), size):
        await stream.send_all(GET[start : start + size])
    assert b"answer to /serverinfo" in await stream.receive_some(65_536)


async def test_a_second_request_on_the_same_connection_is_served(
    shell: WebShell, routes: Routes, nursery: trio.Nursery
) -> None:
    stream = visit(nursery, shell.serve_http)
    await stream.send_all(GET)
    assert b"200 OK" in await stream.receive_some(65_536)
    await stream.send_all(GET + GET)
    await stream.send_eof()
    assert (await everything(stream)).count(b"200 OK") == 2
    assert len(routes.asked) == 3


async def test_an_idle_connection_is_closed(
    shell: WebShell, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stream = visit(nursery, shell.serve_http)
    await stream.send_all(GET)
    await everything(stream)
    assert trio.current_time() == 20


async def test_who_sends_nothing_is_let_go(
    shell: WebShell, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    assert await everything(visit(nursery, shell.serve_http)) == b""
    assert trio.current_time() == 10


@pytest.mark.parametrize("pace_s", [0.5, 3])
async def test_who_drips_a_request_is_let_go_in_time(
    shell: WebShell,
    routes: Routes,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    pace_s: float,
) -> None:
    stream = visit(nursery, shell.serve_http)

    async def drip() -> None:
        try:
            for byte in GET[:-1] + b"x" * 100:
                await stream.send_all(bytes([byte]))
                await trio.sleep(pace_s)
        except trio.BrokenResourceError:
            return

    nursery.start_soon(drip)
    await everything(stream)
    assert trio.current_time() == 10
    assert routes.asked == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\x01\x02\xff\xfe\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /serverinfo HTTP/1.1\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n", 413),
        (b"GET /" + b"x" * 100_000, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000, 431),
        (GET[:20], 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nxx", 400),
    ],
    ids=[
        "noise",
        "TLS on the plain port",
        "no host",
        "space in target",
        "length",
        "two lengths",
        "encoding",
        "body too large",
        "endless target",
        "endless head",
        "cut off in the head",
        "cut off in the body",
    ],
)
async def test_bad_input_gets_a_clear_refusal_and_no_traceback(
    shell: WebShell, routes: Routes, nursery: trio.Nursery, data: bytes, status: int
) -> None:
    with structlog.testing.capture_logs() as events:
        stream = visit(nursery, shell.serve_http)
        await stream.send_all(data)
        await stream.send_eof()
        refused = response(await everything(stream))
    assert refused.status == status
    answer = Answer.parse(refused.body)
    assert answer.status_code == status
    assert answer.status_message
    assert routes.asked == []
    (event,) = events
    assert (event["event"], event["log_level"]) == ("http_refused", "info")


async def test_a_connection_without_a_byte_is_no_event(
    shell: WebShell, nursery: trio.Nursery
) -> None:
    with structlog.testing.capture_logs() as events:
        stream = visit(nursery, shell.serve_http)
        await stream.send_eof()
        assert await everything(stream) == b""
    assert events == []


async def test_who_sends_too_much_can_still_read_why_it_was_refused(
    shell: WebShell, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Closing with bytes unread would reset the connection and take the answer back."""
    unread = visit(nursery, shell.serve_http)
    await unread.send_all(b"GET /" + b"x" * 20_000)
    assert b" 431 " in await unread.receive_some(65_536)
    await unread.send_all(b"x" * 100_000)
    await trio.testing.wait_all_tasks_blocked()
    assert len(await everything(unread)) == 0
    assert trio.current_time() == web_shell.finish_timeout_s


async def test_who_sends_for_ever_is_not_read_for_ever(
    shell: WebShell, nursery: trio.Nursery
) -> None:
    stream = visit(nursery, shell.serve_http)
    with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
        for _ in range(1_000):
            await stream.send_all(b"x" * 20_000)
            await trio.testing.wait_all_tasks_blocked()


async def test_a_client_that_does_not_read_is_let_go(
    shell: WebShell, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    connection = Connection(cast("trio.SocketStream", theirs), "192.0.2.1", "203.0.113.1", 47989)
    nursery.start_soon(ours.send_all, GET)
    with pytest.raises(trio.BrokenResourceError):
        await shell.serve_http(connection)
    assert trio.current_time() == web_shell.send_timeout_s


# Pairing: held open until somebody tells the PIN

PAIR = b"GET /pair?phrase=getservercert HTTP/1.1\r\nHost: h\r\n\r\n"


async def test_a_pairing_is_held_open_for_as_long_as_its_client_waits(
    shell: WebShell, routes: Routes, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stream = visit(nursery, shell.serve_http)
    await stream.send_all(PAIR)
    await trio.sleep(200)
    routes.pin_told.set()
    assert b"answer to /pair" in await stream.receive_some(65_536)
    assert routes.hung_up == 0


async def test_a_client_that_hangs_up_ends_its_wait(
    shell: WebShell, routes: Routes, nursery: trio.Nursery
) -> None:
    stream = visit(nursery, shell.serve_http)
    await stream.send_all(PAIR)
    await trio.testing.wait_all_tasks_blocked()
    await stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert routes.hung_up == 1


async def test_a_client_that_talks_on_while_it_waits_is_let_go_at_a_bound(
    shell: WebShell, routes: Routes, nursery: trio.Nursery
) -> None:
    stream = visit(nursery, shell.serve_http)
    await stream.send_all(PAIR)
    await trio.testing.wait_all_tasks_blocked()
    await stream.send_all(b"x" * 200_000)
    await trio.testing.wait_all_tasks_blocked()
    assert routes.hung_up == 1


async def test_a_request_sent_while_a_pairing_waits_is_answered_after_it(
    shell: WebShell, routes: Routes, nursery: trio.Nursery
) -> None:
    stream = visit(nursery, shell.serve_http)
    await stream.send_all(PAIR)
    await trio.testing.wait_all_tasks_blocked()
    await stream.send_all(GET)
    await trio.testing.wait_all_tasks_blocked()
    routes.pin_told.set()
    answers = b""
    while b"/serverinfo" not in answers:
        answers += await stream.receive_some(65_536)
    assert answers.index(b"answer to /pair") < answers.index(b"answer to /serverinfo")


# HTTPS


def tls(stream: trio.abc.Stream, context: ssl.SSLContext) -> trio.SSLStream[trio.abc.Stream]:
    return trio.SSLStream(stream, context, https_compatible=True)


@pytest.mark.parametrize("name", ["phone", None])
async def test_any_client_certificate_is_taken_or_none_and_told_to_the_routes(
    shell: WebShell, routes: Routes, nursery: trio.Nursery, name: str | None
) -> None:
    own = None if name is None else identity(name)
    context = client_context(own, pinned_der=identity("edge").certificate.der)
    stream = tls(visit(nursery, shell.serve_https), context)
    await stream.send_all(GET)
    assert b"answer to /serverinfo" in await stream.receive_some(65_536)
    await stream.send_all(GET)
    assert b"answer to /serverinfo" in await stream.receive_some(65_536)
    (_, caller), _ = routes.asked
    assert caller.secure
    if own is None:
        assert caller.certificate is None
    else:
        assert caller.certificate is not None
        assert client_id(caller.certificate) == own.certificate.id


async def test_a_tls_connection_ends_politely(shell: WebShell, nursery: trio.Nursery) -> None:
    context = client_context(None, pinned_der=None)
    stream = tls(visit(nursery, shell.serve_https), context)
    await stream.send_all(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert response(await everything(stream)).status == 200


@pytest.mark.parametrize("data", [GET, b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"\xff" * 500, b""])
async def test_what_is_no_tls_is_closed_and_noted_in_one_line(
    shell: WebShell, routes: Routes, nursery: trio.Nursery, data: bytes
) -> None:
    with structlog.testing.capture_logs() as events:
        stream = visit(nursery, shell.serve_https)
        await stream.send_all(data)
        await stream.send_eof()
        await everything(stream)
        await trio.testing.wait_all_tasks_blocked()
    (event,) = events
    assert event["reason"] == "tls_handshake"
    assert routes.asked == []


async def test_a_handshake_has_a_deadline(
    shell: WebShell, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    with structlog.testing.capture_logs() as events:
        assert await everything(visit(nursery, shell.serve_https)) == b""
    assert trio.current_time() == 10
    assert events[0]["reason"] == "tls_timeout"


async def test_bad_input_within_tls_is_refused_as_outside(
    shell: WebShell, routes: Routes, nursery: trio.Nursery
) -> None:
    stream = tls(visit(nursery, shell.serve_https), client_context(None, pinned_der=None))
    await stream.send_all(b"\x00noise\r\n\r\n")
    assert b" 400 " in await stream.receive_some(65_536)
    await stream.aclose()
    assert routes.asked == []


async def test_a_tls_client_that_hangs_up_while_it_waits_ends_its_wait(
    shell: WebShell, routes: Routes, nursery: trio.Nursery
) -> None:
    stream = tls(visit(nursery, shell.serve_https), client_context(None, pinned_der=None))
    await stream.send_all(PAIR)
    await trio.testing.wait_all_tasks_blocked()
    await trio.aclose_forcefully(stream)
    await trio.testing.wait_all_tasks_blocked()
    assert routes.hung_up == 1
