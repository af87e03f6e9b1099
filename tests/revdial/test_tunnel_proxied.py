"""Agents behind a load balancer: the agents' port believes it, and then goes on as ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest
import structlog.testing
import trio
from tunnel_harness import Edge, client_context, edge, text

from revdial.limits import ListenerLimits
from revdial.messages import Hello
from revdial.observer import Refusal
from revdial.proxies import TrustedProxies
from tests.waiting import until

BALANCER = "127.7.0.1"
PROXIES = TrustedProxies([ip_network("127.7.0.0/16")])
HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"


@asynccontextmanager
async def dialled(at: Edge, header: bytes, source: str = BALANCER) -> AsyncIterator[trio.SSLStream]:  # type: ignore[type-arg]
    """TLS to the agents' port, as an agent's through a balancer would arrive there."""
    tcp = await trio.open_tcp_stream("127.0.0.1", at.port, local_address=source)
    await tcp.send_all(header)
    stream = trio.SSLStream(
        tcp, client_context(), server_hostname="127.0.0.1", https_compatible=True
    )
    try:
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


async def answer_to(at: Edge, header: bytes, source: str = BALANCER) -> bytes:
    request = b"GET /v1/control HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\n"
    request += b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    request += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    async with dialled(at, header, source) as stream:
        with trio.fail_after(5):
            await stream.send_all(request)
            return bytes(await stream.receive_some())


@pytest.mark.parametrize("header", [HEADER, b"PROXY UNKNOWN\r\n"])
async def test_tls_begins_right_behind_the_header(header: bytes) -> None:
    with structlog.testing.capture_logs() as logged:
        async with edge(proxies=PROXIES) as at:
            assert (await answer_to(at, header)).startswith(b"HTTP/1.1 401 ")
            assert (await answer_to(at, b"", "127.8.0.1")).startswith(b"HTTP/1.1 401 ")
            await until(lambda: at.counters.refusals == {Refusal.NO_TOKEN: 2})
    named = header is HEADER
    assert (logged[0]["agent_address"] == "192.0.2.1:56324") is named


async def test_a_tunnel_is_known_by_the_agents_address_and_not_the_balancers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect = trio.open_tcp_stream

    async def through_balancer(host: str, port: int) -> trio.SocketStream:
        stream = await connect(host, port, local_address=BALANCER)
        await stream.send_all(HEADER)
        return stream

    async with edge(proxies=PROXIES) as at:
        with monkeypatch.context() as patched:
            patched.setattr("websockets.trio.client.trio.open_tcp_stream", through_balancer)
            async with at.websocket() as websocket:
                await websocket.send(text(Hello("a1")))
                tunnel = await at.next_tunnel()
                assert tunnel.remote_address == "192.0.2.1:56324"
                assert dict(at.listener._homes) == {"192.0.2.1": 1}


async def test_a_balancer_without_a_header_is_refused_counted_and_told_of_once() -> None:
    with structlog.testing.capture_logs() as logged:
        async with edge(proxies=PROXIES) as at:
            for _ in range(2):
                with pytest.raises((trio.BrokenResourceError, ConnectionError)):
                    await answer_to(at, b"")
            await until(lambda: at.counters.refusals == {Refusal.PROXY_HEADER_MISSING: 2})
    (told,) = [each for each in logged if each["log_level"] == "warning"]
    assert (told["event"], told["reason"]) == ("proxy_header_refused", "proxy_header_missing")


async def test_only_the_bound_on_all_holds_until_the_header_is_there() -> None:
    limits = ListenerLimits(max_waiting=3, max_waiting_per_address=1)
    async with edge(proxies=PROXIES, limits=limits) as at:
        streams = [
            await trio.open_tcp_stream("127.0.0.1", at.port, local_address=BALANCER)
            for _ in range(3)
        ]
        await until(lambda: at.listener.waiting == 3)
        over = await trio.open_tcp_stream("127.0.0.1", at.port, local_address=BALANCER)
        with trio.fail_after(5):
            assert await over.receive_some() == b""
        assert at.counters.refusals == {Refusal.TOO_MANY_WAITING: 1}
        for stream in streams[:2]:
            await stream.send_all(HEADER)
        await until(lambda: at.counters.refusals == {Refusal.TOO_MANY_WAITING: 2})
        assert at.listener.waiting == 2
        await streams[2].aclose()
        await until(lambda: at.listener.waiting == 1)
        assert at.counters.refusals == {Refusal.TOO_MANY_WAITING: 2}
        for stream in (over, *streams[:2]):
            await stream.aclose()
        await until(lambda: at.listener.waiting == 0)
