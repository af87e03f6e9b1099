"""The agent port lets in who it should, and turns everybody else away quietly and completely."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest
import structlog
import trio
import trio.testing
from tunnel_harness import Agent, Edge, client_context, edge, text, tunnel
from websockets.exceptions import ConnectionClosed, InvalidStatus

from revdial.limits import ListenerLimits
from revdial.messages import CloseCode, Dial, Heartbeat, Hello, decode_from_edge
from revdial.observer import Loss, Refusal

EVENTS = {"agent_connection_refused", "tunnel_up", "tunnel_down", "tunnel_connected"}


@pytest.fixture(autouse=True)
def quiet(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[list[dict[str, object]]]:
    """Whatever these peers do: only events we know, no traceback, and no token anywhere."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as events:
        yield events
    assert {str(event["event"]) for event in events} <= EVENTS | {
        "bad_control_message",
        "agent_authentication_unavailable",
        "agent_handler_failed",
        "data_connection_ended",
        "tunnel_not_connected",
    }
    shown = repr(events) + caplog.text + "".join(capfd.readouterr())
    assert "Traceback" not in shown
    assert "token-of" not in shown


async def settled(at: Edge, refusal: Refusal) -> None:
    """Wait until that was counted, and nothing of it is left."""
    with trio.fail_after(5):
        while not at.counters.refusals[refusal] or at.listener.waiting:
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert at.counters.refusals == {refusal: 1}


@pytest.mark.parametrize(
    ("path", "authorization", "status", "refusal"),
    [
        ("/v1/control", "Bearer wrong", 401, Refusal.BAD_TOKEN),
        ("/v1/control", "Bearer ", 401, Refusal.NO_TOKEN),
        ("/v1/control", "Basic dG9rZW4=", 401, Refusal.NO_TOKEN),
        ("/v1/data/x", "Bearer wrong", 401, Refusal.BAD_TOKEN),
        ("/nothing", "Bearer token-of-a1", 404, Refusal.UNKNOWN_PATH),
        ("/v1/data/unknown", "Bearer token-of-a1", 404, Refusal.DATA_ID_UNKNOWN),
        ("/v1/data/", "Bearer token-of-a1", 404, Refusal.DATA_ID_UNKNOWN),
    ],
)
async def test_who_may_not_come_in_is_told_before_the_upgrade(
    path: str, authorization: str, status: int, refusal: Refusal
) -> None:
    async with edge() as at:
        with pytest.raises(InvalidStatus) as caught:
            async with at.websocket(path, token="") as _:
                pass
        # The harness always says Bearer: ask again by hand for the other forms.
        assert caught.value.response.status_code == 401
        at.counters.refusals.clear()
        answer = await plain_request(at, path, authorization)
        assert answer.startswith(f"HTTP/1.1 {status} ")
        assert ("WWW-Authenticate: Bearer" in answer) is (status == 401)
        assert ("Moonhost-Agent: a1" in answer) is (refusal is Refusal.UNKNOWN_PATH)
        await settled(at, refusal)


async def plain_request(at: Edge, path: str, authorization: str) -> str:
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", at.port, ssl_context=client_context(), https_compatible=True
    )
    async with stream:
        await stream.send_all(
            f"GET {path} HTTP/1.1\r\nHost: edge\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Sec-WebSocket-Version: 13\r\nAuthorization: {authorization}\r\n\r\n".encode()
        )
        answer = b""
        with trio.fail_after(5):
            async for data in stream:
                answer += data
    return answer.decode()


async def test_when_tokens_cannot_be_checked_nobody_comes_in() -> None:
    async def broken(token: str) -> str | None:
        raise OSError(f"the store is away, and this text would show {token}")

    async with edge(authenticate=broken) as at:
        answer = await plain_request(at, "/v1/control", "Bearer token-of-a1")
        assert answer.startswith("HTTP/1.1 503 ")
        await settled(at, Refusal.AUTHENTICATION_UNAVAILABLE)


async def test_a_living_tunnel_goes_on_dialling_while_tokens_cannot_be_checked() -> None:
    async def broken(token: str) -> str | None:
        raise OSError("the store is away")

    async with tunnel() as (at, home):
        at.listener._authenticate = broken
        stream = await home.open_stream("h1", "http", origin="c1")
        await stream.send_all(b"still here")
        assert await stream.receive_some(100) == b"still here"
        await stream.aclose()
        for path, token in (("/v1/control", "token-of-a1"), ("/v1/data/x", "another")):
            answer = await plain_request(at, path, f"Bearer {token}")
            assert answer.startswith("HTTP/1.1 503 ")
    assert at.listener._proven == {}


HELLO = text(Hello("a1"))


@pytest.mark.parametrize(
    ("first", "code", "refusal"),
    [
        (text(Hello("a2")), CloseCode.HELLO_MISMATCH, Refusal.HELLO_MISMATCH),
        (text(Hello("a1", version=9)), CloseCode.VERSION_MISMATCH, Refusal.VERSION_MISMATCH),
        (text(Heartbeat()), CloseCode.PROTOCOL_ERROR, Refusal.HELLO_MISSING),
        ("{}", CloseCode.PROTOCOL_ERROR, Refusal.BAD_MESSAGE),
        (b"\x00\x01", CloseCode.PROTOCOL_ERROR, Refusal.BAD_MESSAGE),
        ("x" * 65_537, 1009, Refusal.MESSAGE_TOO_LARGE),
        (None, CloseCode.HELLO_TIMEOUT, Refusal.HELLO_TIMEOUT),
    ],
    ids=["other agent", "version", "no hello", "malformed", "binary", "too large", "silence"],
)
async def test_a_wrong_hello_is_answered_with_its_code(
    first: str | bytes | None, code: int, refusal: Refusal
) -> None:
    async with edge(limits=ListenerLimits(hello_timeout_s=0.05 if first is None else 5)) as at:
        async with at.websocket() as websocket:
            if first is not None:
                await websocket.send(first)
            with trio.fail_after(5), pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert websocket.close_code == code
        await settled(at, refusal)
        assert not at.listener.tunnels


@pytest.mark.parametrize(
    ("later", "code", "refusal"),
    [
        ("{}", CloseCode.PROTOCOL_ERROR, Refusal.BAD_MESSAGE),
        (HELLO, CloseCode.PROTOCOL_ERROR, Refusal.BAD_MESSAGE),
        ("x" * 65_537, 1009, Refusal.MESSAGE_TOO_LARGE),
    ],
    ids=["malformed", "second hello", "too large"],
)
async def test_a_wrong_message_later_ends_the_tunnel(
    later: str, code: int, refusal: Refusal
) -> None:
    async with edge() as at, at.websocket() as websocket:
        await websocket.send(HELLO)
        await websocket.recv()
        lost = await at.next_tunnel()
        await websocket.send(later)
        with trio.fail_after(5), pytest.raises(ConnectionClosed):
            await websocket.recv()
        assert websocket.close_code == code
        await at.stopped(lost)
        assert at.counters.refusals == {refusal: 1}


async def test_answers_nobody_waits_for_are_counted() -> None:
    async with edge() as at, at.websocket() as websocket:
        await websocket.send(HELLO)
        await websocket.recv()
        await websocket.send('{"type":"dialfailed","id":"x","reason":"y"}')
        await websocket.send('{"type":"reply","id":"x","ok":true}')
        await websocket.send(text(Heartbeat()))
        home = await at.next_tunnel()
        with trio.fail_after(5):
            await home.heartbeats.receive()
        assert at.counters.losses == {Loss.LATE_ANSWER: 2}


async def test_noise_and_half_a_handshake_are_refused_and_leave_nothing() -> None:
    noise = [os.urandom(200), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b""]
    async with edge() as at:
        for data in noise:
            async with await trio.open_tcp_stream("127.0.0.1", at.port) as stream:
                await stream.send_all(data)
                with suppress(trio.BrokenResourceError):
                    await stream.send_eof()
                    with trio.fail_after(5):
                        while await stream.receive_some():
                            pass
        with trio.fail_after(5):
            while at.counters.refusals[Refusal.TLS_FAILED] < len(noise):
                await trio.testing.wait_all_tasks_blocked(0.001)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 300 + b"\n",
        b"POST /v1/control HTTP/1.1\r\nAuthorization: Bearer token-of-a1\r\n\r\n",
        b"GET /v1/control HTTP/1.1\r\nAuthorization: Bearer token-of-a1\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n",
        b"GET /v1/control HTTP/1.1\r\nHost: x",
    ],
    ids=["binary", "not GET", "no upgrade", "long line", "many headers", "cut short"],
)
async def test_noise_inside_tls_is_refused_and_leaves_nothing(data: bytes) -> None:
    async with edge() as at:
        stream = await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", at.port, ssl_context=client_context(), https_compatible=True
        )
        async with stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(data)
                if data.endswith(b"x"):
                    await stream.transport_stream.send_eof()  # type: ignore[attr-defined]
                with trio.fail_after(5):
                    while await stream.receive_some():
                        pass
        await settled(at, Refusal.NOT_WEBSOCKET)


@pytest.mark.parametrize("inside_tls", [False, True])
async def test_a_slow_handshake_is_given_up(inside_tls: bool) -> None:
    async with edge(limits=ListenerLimits(handshake_timeout_s=0.2)) as at:
        if inside_tls:
            slow: trio.abc.Stream = await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", at.port, ssl_context=client_context(), https_compatible=True
            )
            await slow.send_all(b"GET / HT")
        else:
            slow = await trio.open_tcp_stream("127.0.0.1", at.port)
        async with slow:
            await settled(at, Refusal.HANDSHAKE_TIMEOUT)


@pytest.mark.parametrize(
    "limits", [ListenerLimits(max_waiting=2), ListenerLimits(max_waiting_per_address=2)]
)
async def test_only_so_many_may_wait_to_be_let_in(limits: ListenerLimits) -> None:
    async with edge(limits=limits) as at:
        first = await trio.open_tcp_stream("127.0.0.1", at.port)
        second = await trio.open_tcp_stream("127.0.0.1", at.port)
        third = await trio.open_tcp_stream("127.0.0.1", at.port)
        with trio.fail_after(5), suppress(trio.BrokenResourceError):
            assert await third.receive_some() == b""
        assert at.counters.refusals == {Refusal.TOO_MANY_WAITING: 1}
        for stream in (first, second, third):
            await stream.aclose()
        with trio.fail_after(5):
            while at.listener.waiting:
                await trio.testing.wait_all_tasks_blocked(0.001)
        async with at.websocket() as websocket:
            await websocket.send(HELLO)
            await websocket.recv()


async def test_idle_strangers_do_not_keep_a_connected_agent_from_dialling_back() -> None:
    """Loopback has many addresses: the strangers come from others than the agent does."""
    agent = Agent()
    async with tunnel(agent, limits=ListenerLimits(max_waiting=2)) as (at, home):
        strangers = [
            await trio.open_tcp_stream("127.0.0.1", at.port, local_address=f"127.0.0.{number}")
            for number in (101, 102)
        ]
        with trio.fail_after(5):
            while at.listener.waiting < len(strangers):
                await trio.testing.wait_all_tasks_blocked(0.001)

        with trio.fail_after(5):
            async with await home.open_stream("h1", "http", origin="c"):
                pass

        for stranger in strangers:
            await stranger.aclose()


class ByHand(Agent):
    """Refuses to dial back by itself and tells the ids it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.ids = trio.open_memory_channel[Dial](10)

    async def check(self, dial: Dial) -> None:
        await self.asked.send(dial)
        await trio.sleep_forever()


async def test_an_id_is_good_once_and_only_for_the_agent_that_was_asked() -> None:
    agent = ByHand()
    async with tunnel(agent) as (at, home), trio.open_nursery() as nursery:
        nursery.start_soon(open_and_close, home)
        path = f"/v1/data/{(await agent.ids.receive()).id}"
        with pytest.raises(InvalidStatus) as foreign:
            async with at.websocket(path, token="token-of-a2"):
                pass
        assert foreign.value.response.status_code == 404
        assert at.counters.refusals == {Refusal.DATA_ID_FOREIGN: 1}
        async with at.websocket(path) as websocket:
            with pytest.raises(InvalidStatus) as reused:
                async with at.websocket(path):
                    pass
            assert reused.value.response.status_code == 404
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
        assert at.counters.refusals[Refusal.DATA_ID_UNKNOWN] == 1


async def open_and_close(home: object) -> None:
    stream = await home.open_stream("h1", "http", origin="c1")  # type: ignore[attr-defined]
    await trio.testing.wait_all_tasks_blocked(0.05)
    await stream.aclose()


async def test_an_id_is_dead_once_nobody_waits() -> None:
    agent = ByHand()
    async with tunnel(agent) as (at, home):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_and_close, home)
            dial = await agent.ids.receive()
            nursery.cancel_scope.cancel()
        assert home.data_connections == 0
        with pytest.raises(InvalidStatus):
            async with at.websocket(f"/v1/data/{dial.id}"):
                pass
        assert at.counters.refusals == {Refusal.DATA_ID_UNKNOWN: 1}


async def test_the_welcome_says_how_often_to_beat() -> None:
    async with (
        edge(limits=ListenerLimits(heartbeat_interval_s=3)) as at,
        at.websocket() as websocket,
    ):
        await websocket.send(HELLO)
        welcome = decode_from_edge(await websocket.recv())
        assert welcome.heartbeat_interval_s == 3  # type: ignore[union-attr]


async def test_the_end_of_a_tunnel_ends_its_data_connections() -> None:
    async with edge() as at, at.websocket() as control, trio.open_nursery() as nursery:
        await control.send(HELLO)
        await control.recv()
        home = await at.next_tunnel()
        nursery.start_soon(partial(home.open_flow, **FLOW))
        dial = decode_from_edge(await control.recv())
        assert isinstance(dial, Dial)
        async with at.websocket(f"/v1/data/{dial.id}") as data:
            preamble = await data.recv()
            assert preamble[:4] == bytes.fromhex("deadbeef")
            home.close()
            with trio.fail_after(5), pytest.raises(ConnectionClosed):
                await data.recv()


FLOW = {"host": "h1", "port": 1, "origin": "c", "session": "s", "flow": "audio"}
