from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import structlog.testing
import trio
import trio.testing

from proxy import doors as doors_module
from proxy.doors import Connection, Doors, open_doors, what_to_do
from proxy.errors import StartFailed
from tests.waiting import until

LOOPBACK = "127.0.0.1"


class Visits:
    """A handler that notes its connections and holds them until told to let go."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.arrived = trio.Event()
        self.let_go = trio.Event()
        self.failure: Exception | None = None

    async def serve(self, connection: Connection) -> None:
        self.connections.append(connection)
        self.arrived.set()
        self.arrived = trio.Event()
        if self.failure is not None:
            raise self.failure
        await self.let_go.wait()

    async def number(self, wanted: int) -> None:
        with trio.fail_after(5):
            while len(self.connections) < wanted:
                await self.arrived.wait()


@asynccontextmanager
async def open_at(doors: Doors, visits: Visits) -> AsyncIterator[int]:
    listeners = await trio.open_tcp_listeners(0, host=LOOPBACK)
    async with trio.open_nursery() as nursery:
        await nursery.start(doors.serve, listeners, visits.serve)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def is_closed(stream: trio.SocketStream) -> bool:
    with trio.fail_after(5), suppress(trio.BrokenResourceError):
        return await stream.receive_some(1) == b""
    return True


async def test_a_connection_knows_its_addresses_and_is_closed_when_served() -> None:
    doors, visits = Doors(max_connections=9, max_connections_per_address=9), Visits()
    async with open_at(doors, visits) as port:
        stream = await trio.open_tcp_stream(LOOPBACK, port)
        await visits.number(1)
        (one,) = visits.connections
        assert (one.address, one.local_address, one.local_port) == (LOOPBACK, LOOPBACK, port)
        assert doors.open_connections == 1
        visits.let_go.set()
        assert await is_closed(stream)
        await until(lambda: doors.open_connections == 0)
        assert not doors._open
        await stream.aclose()


async def test_an_address_has_only_so_many_and_others_are_not_hurt() -> None:
    doors, visits = Doors(max_connections=9, max_connections_per_address=2), Visits()
    async with open_at(doors, visits) as port:
        streams = [await trio.open_tcp_stream(LOOPBACK, port) for _ in range(2)]
        await visits.number(2)
        refused = await trio.open_tcp_stream(LOOPBACK, port)
        assert await is_closed(refused)
        assert doors.refused == {"too_many_from_address": 1}
        streams.append(await trio.open_tcp_stream(LOOPBACK, port, local_address="127.0.0.2"))
        await visits.number(3)
        assert visits.connections[2].address == "127.0.0.2"
        for stream in [refused, *streams]:
            await stream.aclose()


async def test_there_are_only_so_many_in_all_and_room_comes_back() -> None:
    doors, visits = Doors(max_connections=1, max_connections_per_address=9), Visits()
    async with open_at(doors, visits) as port:
        first = await trio.open_tcp_stream(LOOPBACK, port)
        await visits.number(1)
        refused = await trio.open_tcp_stream(LOOPBACK, port)
        assert await is_closed(refused)
        assert doors.refused == {"too_many_connections": 1}
        visits.let_go.set()
        assert await is_closed(first)
        await until(lambda: doors.open_connections == 0)
        again = await trio.open_tcp_stream(LOOPBACK, port)
        await visits.number(2)
        for stream in (first, refused, again):
            await stream.aclose()


@pytest.mark.parametrize(
    ("failure", "events"),
    [
        (trio.BrokenResourceError(), []),
        (trio.ClosedResourceError(), []),
        (ZeroDivisionError("a bug"), ["connection_failed"]),
    ],
)
async def test_what_happens_to_one_connection_stays_there(
    failure: Exception, events: list[str]
) -> None:
    doors, visits = Doors(max_connections=9, max_connections_per_address=9), Visits()
    visits.failure = failure
    with structlog.testing.capture_logs() as logged:
        async with open_at(doors, visits) as port:
            for number in (1, 2):
                stream = await trio.open_tcp_stream(LOOPBACK, port)
                await visits.number(number)
                assert await is_closed(stream)
                await stream.aclose()
            await until(lambda: doors.open_connections == 0)
    assert [event["event"] for event in logged] == events * 2


async def test_a_lack_of_descriptors_is_waited_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    doors = Doors(max_connections=9, max_connections_per_address=9)

    class Listener(trio.abc.Listener[trio.SocketStream]):
        tries = 0

        async def accept(self) -> trio.SocketStream:
            self.tries += 1
            await trio.lowlevel.checkpoint()
            if self.tries > 10:
                raise OSError(errno.EINVAL, "something else")
            raise OSError(errno.EMFILE, "too many open files")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    listener = Listener()
    with pytest.raises(BaseExceptionGroup) as caught:
        await doors.serve([listener], Visits().serve)  # type: ignore[list-item]
    assert caught.group_contains(OSError, match="something else", depth=1)
    assert doors.refused == {"no_descriptors": 10}
    assert trio.current_time() == pytest.approx(10 * doors_module.accept_pause_s)


async def test_a_port_that_is_taken_is_named_with_what_to_do() -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartFailed, match=f"{LOOPBACK} port {port}") as caught:
            await open_doors(["127.0.0.2", LOOPBACK], port)
        assert caught.value.reason == "port_taken"
        for listener in await open_doors(["127.0.0.2"], port):  # the first one was closed again
            await listener.aclose()


async def test_other_bounds_hold_for_who_comes_and_leave_who_is_there() -> None:
    doors, visits = Doors(max_connections=9, max_connections_per_address=9), Visits()
    async with open_at(doors, visits) as port:
        first = await trio.open_tcp_stream(LOOPBACK, port)
        await visits.number(1)
        doors.apply(max_connections=1, max_connections_per_address=9)
        refused = await trio.open_tcp_stream(LOOPBACK, port)
        assert await is_closed(refused)
        assert doors.open_connections == 1
        doors.apply(max_connections=2, max_connections_per_address=9)
        second = await trio.open_tcp_stream(LOOPBACK, port)
        await visits.number(2)
        for stream in (first, refused, second):
            await stream.aclose()


def test_a_port_that_takes_a_right_is_not_said_to_be_in_use() -> None:
    said = what_to_do(PermissionError(errno.EACCES, "Permission denied"))
    assert "CAP_NET_BIND_SERVICE" in said
    assert "Stop what uses it" not in said
