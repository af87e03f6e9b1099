"""The light client's UDP socket, on a real loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from simulator import light_udp
from simulator.light_http import Target
from simulator.light_udp import LightSocket

UDP_SEGMENT = 103


@pytest.fixture
def far() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


@pytest.fixture
def anybody() -> Iterator[socket.socket]:
    """One that hears everybody, and does not wait for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(5)
        yield bound


@pytest.fixture
def near(far: socket.socket) -> Iterator[LightSocket]:
    opened = LightSocket(Target("127.0.0.1", 0, "127.0.0.9"), far.getsockname()[1])
    opened.send(b"hello")
    _, address = far.recvfrom(100)
    assert address[0] == "127.0.0.9"
    far.connect(address)
    yield opened
    opened._socket.close()


def test_all_that_has_arrived_is_taken_at_once_and_in_order(
    near: LightSocket, far: socket.socket
) -> None:
    assert near.drain() == []
    sent = [bytes([number]) * (number + 1) for number in range(20)]
    for datagram in sent:
        far.send(datagram)
    assert near.drain() == sent
    assert near.drain() == []


def test_runs_that_the_kernel_hands_over_in_one_piece_are_cut_again(
    near: LightSocket, far: socket.socket
) -> None:
    sent = [bytes([number]) * 100 for number in range(9)] + [b"short"]
    far.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
    far.send(b"".join(sent))
    assert near.drain() == sent


def test_one_flood_does_not_keep_the_others_waiting(
    near: LightSocket, far: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light_udp, "_MAX_READS", 3)
    for _ in range(5):
        far.send(b"x")
    assert [len(near.drain()) for _ in range(3)] == [3, 2, 0]


def test_what_the_kernel_had_no_room_for_is_counted(
    far: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light_udp, "_BUFFER_BYTES", 4096)
    near = LightSocket(Target("127.0.0.1", 0), far.getsockname()[1])
    near.send(b"hello")
    far.connect(far.recvfrom(100)[1])
    for _ in range(100):
        far.send(bytes(1000))
    assert 0 < len(near.drain()) < 100
    assert near.dropped() > 0
    near._socket.close()
    assert near.dropped() == 0


async def test_a_socket_that_moves_goes_on_from_elsewhere_and_its_reader_waits_on(
    anybody: socket.socket,
) -> None:
    near = LightSocket(Target("127.0.0.1", 0, "127.0.0.9"), anybody.getsockname()[1])
    near.send(b"from here")
    before = anybody.recvfrom(100)[1]
    taken: list[bytes] = []
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            await near.readable()
            taken.extend(near.drain())

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        for source, ip in ((None, "127.0.0.9"), ("127.0.0.8", "127.0.0.8"), (None, "127.0.0.8")):
            near.move(source)
            near.send(b"from there")
            after = anybody.recvfrom(100)[1]
            assert after[0] == ip
            assert after != before
            before = after
        anybody.sendto(b"answer", after)
    assert taken == [b"answer"]
    near.close()


def test_a_socket_that_cannot_move_goes_on_from_where_it_was(
    near: LightSocket, far: socket.socket
) -> None:
    with pytest.raises(OSError, match="assign"):
        near.move("192.0.2.1")
    near.send(b"still here")
    far.settimeout(5)
    assert far.recv(100) == b"still here"


async def test_closing_ends_the_wait(near: LightSocket) -> None:
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await near.readable()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        near.close()
    near.send(b"to nobody")
    assert near.drain() == []
