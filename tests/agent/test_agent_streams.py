"""Byte streams between tunnel and host: both directions, half-close, limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from agent.addresses import SourceAddresses
from agent.config import HostConfig, LimitsConfig
from agent.streams import StreamRelay
from agent.targets import Target
from revdial.errors import DialRefused
from tests.waiting import until

Handler = Callable[[trio.SocketStream], Awaitable[None]]
Tunnel = trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]


async def echo(stream: trio.SocketStream) -> None:
    async for piece in stream:
        await stream.send_all(piece.upper())


@asynccontextmanager
async def host(handler: Handler) -> AsyncIterator[Target]:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        config = HostConfig.model_validate({"name": "wolf", "http_port": port})
        with trio.fail_after(5):
            yield Target(config, port)
        nursery.cancel_scope.cancel()


def relay(**limits: float) -> StreamRelay:
    return StreamRelay(SourceAddresses(), LimitsConfig.model_validate(limits))


async def test_both_directions_are_copied_and_end_one_by_one() -> None:
    streams = relay()
    async with host(echo) as target, trio.open_nursery() as nursery:
        edge, tunnel = trio.testing.memory_stream_pair()
        nursery.start_soon(streams.serve, target, "origin", tunnel)
        await edge.send_all(b"hello")
        assert await edge.receive_some() == b"HELLO"
        assert streams.open_streams == 1
        await edge.send_all(b"bye")
        await edge.send_eof()
        assert await edge.receive_some() == b"BYE"
        assert await edge.receive_some() == b""
    assert streams.open_streams == 0


async def test_a_host_may_end_first() -> None:
    heard = []

    async def answer_and_listen(stream: trio.SocketStream) -> None:
        await stream.send_eof()
        heard.extend([piece async for piece in stream])

    async with host(answer_and_listen) as target, trio.open_nursery() as nursery:
        edge, tunnel = trio.testing.memory_stream_pair()
        nursery.start_soon(relay().serve, target, "origin", tunnel)
        assert await edge.receive_some() == b""
        await edge.send_all(b"still")
        await edge.send_eof()
    assert b"".join(heard) == b"still"


async def test_it_is_known_which_origins_have_sent_a_host_something() -> None:
    streams = relay()
    async with host(echo) as target, trio.open_nursery() as nursery:
        edge, tunnel = trio.testing.memory_stream_pair()
        nursery.start_soon(streams.serve, target, "one", tunnel)
        await until(lambda: streams.open_streams == 1)
        assert not streams.has_sent("one")
        await edge.send_all(b"hello")
        await edge.receive_some()
        assert streams.has_sent("one")
        assert not streams.has_sent("other")
        await edge.send_eof()
    assert not streams.has_sent("one")
    assert not streams._sent


async def test_every_origin_comes_from_an_address_of_its_own() -> None:
    seen = []

    async def note(stream: trio.SocketStream) -> None:
        seen.append(stream.socket.getpeername()[0])

    streams = relay()
    async with host(note) as target:
        for origin in ("a", "b", "a"):
            edge, tunnel = trio.testing.memory_stream_pair()
            await edge.send_eof()
            await streams.serve(target, origin, tunnel)
    assert seen[0] == seen[2] != seen[1]
    assert all(address.startswith("127.") and address != "127.0.0.1" for address in seen)


@pytest.mark.parametrize("side", ["edge", "host"])
async def test_when_one_side_breaks_the_other_ends(side: str) -> None:
    broken = trio.Event()

    async def reset(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if side == "host":
            stream.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER: RST
            await trio.aclose_forcefully(stream)
        else:
            assert await stream.receive_some() == b""
        broken.set()

    async with host(reset) as target, trio.open_nursery() as nursery:
        edge, tunnel = trio.testing.memory_stream_pair()
        nursery.start_soon(relay().serve, target, "origin", tunnel)
        await edge.send_all(b"go")
        if side == "edge":
            await edge.aclose()
        await broken.wait()


async def test_a_host_that_is_not_there_is_a_refusal() -> None:
    async with host(echo) as target:
        gone = target
    _, tunnel = trio.testing.memory_stream_pair()
    streams = relay()
    with pytest.raises(DialRefused, match="of wolf does not answer") as caught:
        await streams.serve(gone, "origin", tunnel)
    assert caught.value.reason == "host_unreachable"
    assert streams.open_streams == 0


async def test_a_host_that_does_not_answer_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async def never(*_args: object, **_options: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", never)
    _, tunnel = trio.testing.memory_stream_pair()
    target = Target(HostConfig.model_validate({"name": "wolf"}), 47989)
    with pytest.raises(DialRefused, match="within 5 s") as caught:
        await relay().serve(target, "origin", tunnel)
    assert caught.value.reason == "host_timeout"


async def test_a_host_elsewhere_is_reached_without_an_address_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    async def note(address: str, port: int, *, local_address: str | None) -> None:
        asked.append((address, port, local_address))
        raise OSError

    monkeypatch.setattr(trio, "open_tcp_stream", note)
    _, tunnel = trio.testing.memory_stream_pair()
    config = HostConfig.model_validate({"name": "wolf", "address": "192.0.2.7"})
    with pytest.raises(DialRefused):
        await relay().serve(Target(config, 47989), "origin", tunnel)
    assert asked == [("192.0.2.7", 47989, None)]


async def test_streams_are_bounded() -> None:
    streams = relay(max_streams=1)
    async with host(echo) as target, trio.open_nursery() as nursery:
        edge, tunnel = trio.testing.memory_stream_pair()
        nursery.start_soon(streams.serve, target, "origin", tunnel)
        await edge.send_all(b"x")
        await edge.receive_some()
        with pytest.raises(DialRefused) as caught:
            await streams.serve(target, "origin", trio.testing.memory_stream_pair()[0])
        assert caught.value.reason == "too_many_streams"
        await edge.send_eof()


async def test_a_stream_on_which_nothing_happens_is_given_up(autojump_clock: object) -> None:
    _edge, tunnel = trio.testing.memory_stream_pair()
    async with host(echo_forever) as target:
        with trio.move_on_after(1000) as too_long:
            await relay(stream_idle_timeout_s=2).serve(target, "origin", tunnel)
        assert not too_long.cancelled_caught


async def echo_forever(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()
