"""An agent that meets something that is not its edge says so, goes on living, and comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import structlog
import trio
import trio.testing
from tunnel_harness import Agent, server_context, tunnel
from websockets.datastructures import Headers
from websockets.trio.server import ServerConnection, serve

from revdial.admission import bearer_of
from revdial.backoff import Backoff
from revdial.errors import DialRefused
from revdial.limits import DialerLimits, ListenerLimits
from revdial.messages import Dial, Heartbeat, Request, Welcome, encode


class Once(Backoff):
    """Stays away after the first attempt, and tells."""

    def __init__(self) -> None:
        super().__init__()
        self.tried = trio.Event()

    def next_delay(self, *_: object, **__: object) -> float:
        self.tried.set()
        return 1000


async def detail_of(
    handler: Callable[[ServerConnection], Awaitable[None]], **options: object
) -> str:
    """What an agent says of an edge that behaves so."""
    backoff = Once()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with structlog.testing.capture_logs() as events:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(serve, handler, listeners=listeners, ssl=server_context(), **options)
            )
            dialer = Agent().dialer(
                f"wss://127.0.0.1:{port}", backoff=backoff, limits=DialerLimits(hello_timeout_s=0.2)
            )
            nursery.start_soon(dialer.run)
            with trio.fail_after(5):
                await backoff.tried.wait()
            nursery.cancel_scope.cancel()
    [event] = [e for e in events if e["event"] == "tunnel_not_connected"]
    return str(event["why"])


def saying(*messages: str | bytes) -> Callable[[ServerConnection], Awaitable[None]]:
    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        for message in messages:
            await connection.send(message)
        await connection.wait_closed()

    return handler


WELCOME = encode(Welcome(10))


@pytest.mark.parametrize(
    ("messages", "detail"),
    [
        (("rubbish",), "malformed"),
        ((b"\0",), "binary control message"),
        ((encode(Request("id", "hi")),), "no welcome"),
        ((WELCOME, WELCOME), "second welcome"),
        ((WELCOME, "rubbish"), "malformed"),
        (("x" * 65_537,), "message too large"),
        ((), "welcome timeout"),
    ],
)
async def test_a_wrong_word_ends_the_connection(messages: tuple[str, ...], detail: str) -> None:
    assert await detail_of(saying(*messages)) == detail


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (302, "the edge answered 302"),
        (403, "the edge does not take this agent's token (403)"),
        (503, "the edge answered 503"),
    ],
)
async def test_another_answer_than_the_upgrade_is_told(status: int, detail: str) -> None:
    assert (
        await detail_of(
            saying(), process_request=lambda connection, _: connection.respond(status, "no\n")
        )
        == detail
    )


async def test_a_server_without_tls_is_told() -> None:
    backoff = Once()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def shout(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with structlog.testing.capture_logs() as events:
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, shout, listeners)
            nursery.start_soon(Agent().dialer(f"wss://127.0.0.1:{port}", backoff=backoff).run)
            with trio.fail_after(5):
                await backoff.tried.wait()
            nursery.cancel_scope.cancel()
    assert events[0]["why"] == "the connection broke during the TLS handshake"


async def test_a_dial_back_that_fails_is_told_to_the_edge() -> None:
    said = trio.Event()

    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        if connection.request is not None and connection.request.path == "/v1/control":
            for message in (Welcome(10), Dial("gone", "stream", "h1", "http")):
                await connection.send(encode(message))
            while "dialfailed" not in str(await connection.recv()):
                pass
            said.set()

    def refuse_data(connection: ServerConnection, request: object) -> object:
        path = getattr(request, "path", "")
        return connection.respond(404, "no\n") if path.startswith("/v1/data") else None

    assert await detail_of(handler, process_request=refuse_data) == "closed by peer"
    assert said.is_set()


class Buggy(Agent):
    beats = 0

    async def heartbeat(self) -> Heartbeat:
        self.beats += 1
        if self.beats == 1:
            raise ZeroDivisionError("secret")
        return Heartbeat(cpu_percent=1.0)

    async def check(self, dial: Dial) -> None:
        raise ZeroDivisionError("secret")


async def test_bugs_of_the_agent_do_not_cost_the_tunnel() -> None:
    with structlog.testing.capture_logs() as events:
        limits = ListenerLimits(heartbeat_interval_s=0.05)
        async with tunnel(Buggy(), limits=limits) as (_, home):
            with trio.fail_after(5):
                assert (await home.heartbeats.receive()).cpu_percent == 1.0
                with pytest.raises(DialRefused) as caught:
                    await home.open_stream("h1", "http", origin="c")
            assert caught.value.reason == "internal_error"
    assert {"heartbeat_failed", "dial_failed"} <= {str(e["event"]) for e in events}
    assert "secret" not in repr(events)


def test_exactly_one_bearer_is_needed() -> None:
    assert bearer_of(Headers([("Authorization", "bearer  t")])) == "t"
    assert bearer_of(Headers([("Authorization", "Bearer t")] * 2)) is None
    assert bearer_of(Headers()) is None
