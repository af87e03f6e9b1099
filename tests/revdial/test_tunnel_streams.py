"""Byte streams through a tunnel keep trio's contract, and never wait for each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
import trio.testing
from tunnel_harness import Agent, tunnel

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
