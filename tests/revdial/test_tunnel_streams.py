"""Byte streams through a tunnel keep trio's contract, and never wait for each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
import trio.testing
from tunnel_harness import Agent, tunnel, until_raised

from revdial.errors import DialRefused, TunnelClosed
from revdial.messages import Dial
from revdial.stream import WebSocketStream


async def test_a_megabyte_each_way_at_once_comes_back_whole() -> None:
    payload = bytes(range(256)) * 4096
    async with tunnel() as (_, agent_tunnel):
        stream = await agent_tunnel.open_stream("h1", "https", origin="c1")
        received = bytearray()

        async def send() -> None:
            await stream.send_all(payload)
            await stream.send_eof()

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                async for data in stream:
                    received += data
            assert received == payload
            # An end stays an end, though the connection is still open.
            assert await stream.receive_some() == b""
        await stream.aclose()


async def test_full_pipes_in_both_directions_do_not_stop_the_readers() -> None:
    """With the library's own reader this is a deadlock: each waits for its own sender."""
    size = 24 * 2**20

    class Pushing(Agent):
        async def on_stream(self, dial: Dial, stream: WebSocketStream) -> None:
            await swap(stream, size)
            await stream.closed.wait()

    async with tunnel(Pushing()) as (_, agent_tunnel):
        stream = await agent_tunnel.open_stream("h1", "https", origin="c1")
        with trio.fail_after(15):
            await swap(stream, size)
        await stream.aclose()


async def swap(stream: WebSocketStream, size: int) -> None:
    """Push `size` bytes with no regard to what comes, then find as many received."""
    piece, received = bytes(2**20), 0

    async def push() -> None:
        for _ in range(size // len(piece)):
            await stream.send_all(piece)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        async for data in stream:
            received += len(data)
    assert received == size


@pytest.fixture
async def pairs() -> AsyncIterator[partial[object]]:
    handed, ends = trio.open_memory_channel[WebSocketStream](1)

    class Handing(Agent):
        async def on_stream(self, dial: Dial, stream: WebSocketStream) -> None:
            await handed.send(stream)
            await stream.closed.wait()

    async with AsyncExitStack() as stack:
        _, agent_tunnel = await stack.enter_async_context(tunnel(Handing()))

        async def pair(turned: bool) -> tuple[WebSocketStream, WebSocketStream]:
            near = await agent_tunnel.open_stream("h1", "rtsp", origin="c1")
            far = await ends.receive()
            return (far, near) if turned else (near, far)

        yield partial(pair)


@pytest.mark.parametrize("turned", [False, True])
async def test_a_stream_keeps_the_contract_of_half_closeable_streams(
    pairs: partial[object], turned: bool
) -> None:
    with trio.fail_after(10):
        await trio.testing.check_half_closeable_stream(
            partial(pairs, turned),  # type: ignore[arg-type]
            None,
        )


async def test_what_the_agent_does_not_allow_is_refused_with_its_reason() -> None:
    agent = Agent()
    async with tunnel(agent) as (at, agent_tunnel):
        with trio.fail_after(5), pytest.raises(DialRefused) as caught:
            await agent_tunnel.open_stream("elsewhere", "http", origin="c1")
        assert caught.value.reason == "not_allowed"
        assert "elsewhere" in str(caught.value)
        assert len(at.listener._dials) == 0
        assert agent_tunnel.data_connections == 0


async def test_a_long_refusal_does_not_cost_the_tunnel() -> None:
    class Wordy(Agent):
        async def check(self, dial: Dial) -> None:
            raise DialRefused("No Way!" * 50, "no\n" * 5000)

    async with tunnel(Wordy()) as (_, agent_tunnel):
        with trio.fail_after(5), pytest.raises(DialRefused) as caught:
            await agent_tunnel.open_stream("h1", "http", origin="c1")
        assert caught.value.reason.startswith("no_way_no_way")
        assert "\n" not in caught.value.message
        assert not agent_tunnel.closed.is_set()


async def test_a_host_found_unreachable_after_pick_up_breaks_the_stream_with_that_cause() -> None:
    class Unlucky(Agent):
        async def on_stream(self, dial: Dial, stream: WebSocketStream) -> None:
            raise DialRefused("host_unreachable", "connection refused")

    async with tunnel(Unlucky()) as (_, agent_tunnel):
        stream = await agent_tunnel.open_stream("h1", "https", origin="c1")
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        cause = caught.value.__cause__
        assert isinstance(cause, DialRefused)
        assert (cause.reason, cause.message) == ("host_unreachable", "connection refused")


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_host_that_breaks_off_breaks_the_stream(grouped: bool) -> None:
    class Broken(Agent):
        async def on_stream(self, dial: Dial, stream: WebSocketStream) -> None:
            error = trio.BrokenResourceError("the host reset the connection")
            raise ExceptionGroup("relay", [error]) if grouped else error

    async with tunnel(Broken()) as (_, agent_tunnel):
        stream = await agent_tunnel.open_stream("h1", "https", origin="c1")
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, TunnelClosed)


async def test_text_on_a_stream_breaks_it() -> None:
    class Chatty(Agent):
        async def on_stream(self, dial: Dial, stream: WebSocketStream) -> None:
            await stream._websocket.send("hello")
            await stream.closed.wait()

    async with tunnel(Chatty()) as (_, agent_tunnel):
        stream = await agent_tunnel.open_stream("h1", "https", origin="c1")
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_a_lost_tunnel_wakes_who_reads_a_stream() -> None:
    async with tunnel() as (at, agent_tunnel):
        stream = await agent_tunnel.open_stream("h1", "https", origin="c1")

        async def read() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                await agent_tunnel.aclose()
        with pytest.raises(TunnelClosed):
            await agent_tunnel.open_stream("h1", "https", origin="c1")
        assert len(at.listener._dials) == 0


async def test_a_stream_stuck_in_both_directions_still_closes() -> None:
    """Nobody reads: the closing handshake cannot go through and is given up."""

    class Deaf(Agent):
        async def on_stream(self, dial: Dial, stream: WebSocketStream) -> None:
            await stream.closed.wait()

    async with tunnel(Deaf()) as (_, agent_tunnel):
        stream = await agent_tunnel.open_stream("h1", "https", origin="c1")

        async def push() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await until_raised(stream.send_all, bytes(2**20))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(push)
                await trio.testing.wait_all_tasks_blocked(0.05)
                await stream.aclose()
