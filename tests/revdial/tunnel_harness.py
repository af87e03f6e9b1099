"""An edge and agents on real loopback TLS, for the tests of tunnels."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import trio
import trustme
from websockets.trio.client import ClientConnection, connect

from revdial.backoff import Backoff
from revdial.dialer import TunnelDialer
from revdial.errors import DialRefused, RequestFailed, TunnelError
from revdial.flow import DatagramChannel
from revdial.framing import Preamble
from revdial.limits import DialerLimits, ListenerLimits
from revdial.listener import TunnelListener
from revdial.messages import (
    Dial,
    FromAgent,
    Heartbeat,
    Hello,
    HostOffer,
    Json,
    encode,
    max_control_message_bytes,
)
from revdial.observer import Counters
from revdial.proxies import TrustedProxies
from revdial.stream import WebSocketStream
from revdial.tunnel import AgentTunnel

TOKENS = {"token-of-a1": "a1", "token-of-a2": "a2"}


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@cache
def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


@dataclass
class Edge:
    listener: TunnelListener
    port: int
    counters: Counters
    arrivals: trio.MemoryReceiveChannel[AgentTunnel]
    scope: trio.CancelScope
    """Cancel to stop this edge."""

    @property
    def url(self) -> str:
        return f"wss://127.0.0.1:{self.port}"

    async def next_tunnel(self) -> AgentTunnel:
        with trio.fail_after(5):
            return await self.arrivals.receive()

    async def stopped(self, tunnel: AgentTunnel) -> None:
        with trio.fail_after(5):
            await tunnel.closed.wait()

    @asynccontextmanager
    async def websocket(
        self, path: str = "/v1/control", token: str = "token-of-a1", **options: Any
    ) -> AsyncIterator[ClientConnection]:
        """A connection of a peer that is not one of ours."""
        async with connect(
            self.url + path,
            ssl=client_context(),
            proxy=None,
            compression=None,
            additional_headers={"Authorization": f"Bearer {token}"},
            **options,
        ) as websocket:
            yield websocket


async def authenticate(token: str) -> str | None:
    return TOKENS.get(token)


@asynccontextmanager
async def edge(
    *,
    port: int = 0,
    authenticate: Callable[[str], Any] = authenticate,
    on_agent: Callable[[AgentTunnel], Any] | None = None,
    limits: ListenerLimits | None = None,
    spares: int = 0,
    proxies: TrustedProxies | None = None,
) -> AsyncIterator[Edge]:
    arrived, arrivals = trio.open_memory_channel[AgentTunnel](100)

    async def wait_for_end(tunnel: AgentTunnel) -> None:
        arrived.send_nowait(tunnel)
        await trio.sleep_forever()

    counters = Counters()
    listener = TunnelListener(
        authenticate=authenticate,
        on_agent=on_agent or wait_for_end,
        observer=counters,
        limits=replace(limits or ListenerLimits(), spare_connections=spares),
        proxies=proxies,
    )
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(listener.serve, listeners, server_context()))
        bound = listeners[0].socket.getsockname()[1]
        yield Edge(listener, bound, counters, arrivals, nursery.cancel_scope)
        nursery.cancel_scope.cancel()
    assert not listener.tunnels
    assert listener.waiting == 0
    assert len(listener._dials) == 0


@dataclass
class Agent:
    """The agent's own code: echoes, unless told otherwise."""

    agent_id: str = "a1"
    token: str = "token-of-a1"
    offers: tuple[HostOffer, ...] = (HostOffer("h1"),)
    dials: list[Dial] = field(default_factory=list)
    preambles: list[Preamble] = field(default_factory=list)
    live: int = 0
    counters: Counters = field(default_factory=Counters)

    def hello(self) -> Hello:
        return Hello(agent_id=self.agent_id, region="lab", hosts=self.offers)

    async def heartbeat(self) -> Heartbeat:
        return Heartbeat(cpu_percent=12.5)

    async def check(self, dial: Dial) -> None:
        self.dials.append(dial)
        if dial.host != "h1":
            raise DialRefused("not_allowed", f"{dial.host} is not on the list")

    async def on_stream(self, dial: Dial, stream: WebSocketStream) -> None:
        self.live += 1
        try:
            async for data in stream:
                await stream.send_all(data)
            await stream.send_eof()
        finally:
            self.live -= 1

    async def on_flow(self, dial: Dial, channel: DatagramChannel, preamble: Preamble) -> None:
        self.preambles.append(preamble)
        self.live += 1
        try:
            while True:
                channel.send_batch((await channel.receive_batch()).runs)
        except TunnelError:
            return
        finally:
            self.live -= 1

    async def on_request(self, method: str, params: dict[str, Json]) -> dict[str, Json]:
        if method == "fail":
            raise RequestFailed("no_such_thing", "there is none")
        if method == "hang":
            await trio.sleep_forever()
        if method == "large":
            return {"x": "x" * max_control_message_bytes}
        if method == "crash":
            raise ZeroDivisionError("a bug")
        return {"method": method, **params}

    def dialer(
        self,
        url: str,
        *,
        backoff: Backoff | None = None,
        limits: DialerLimits | None = None,
        context: ssl.SSLContext | None = None,
    ) -> TunnelDialer:
        return TunnelDialer(
            url,
            self.token,
            context or client_context(),
            hello=self.hello,
            heartbeat=self.heartbeat,
            check=self.check,
            on_stream=self.on_stream,
            on_flow=self.on_flow,
            on_request=self.on_request,
            backoff=backoff or Backoff(lambda: 0.02),
            observer=self.counters,
            limits=limits,
        )


@asynccontextmanager
async def tunnel(
    agent: Agent | None = None,
    *,
    limits: ListenerLimits | None = None,
    spares: int = 0,
    **options: Any,
) -> AsyncIterator[tuple[Edge, AgentTunnel]]:
    """An edge with one agent connected."""
    agent = agent or Agent()
    async with edge(limits=limits, spares=spares) as at, trio.open_nursery() as nursery:
        await nursery.start(agent.dialer(at.url, **options).run)
        yield at, await at.next_tunnel()
        nursery.cancel_scope.cancel()
    assert agent.live == 0


def text(message: FromAgent) -> str:
    return encode(message)


async def until_raised(call: Callable[..., Any], *args: Any) -> None:
    """Do it again and again; ends with what it raises in the end."""
    with trio.fail_after(5):
        while True:
            await call(*args)
