"""Bursts go through real UDP sockets whole and in order, and what the kernel refuses is counted."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from revdial.framing import Run, gather
from revdial.udp import DatagramSocket, _pieces

LOOPBACK = ("127.0.0.1", 0)


@pytest.fixture
def ends() -> Iterator[tuple[DatagramSocket, DatagramSocket]]:
    with DatagramSocket.open(LOOPBACK) as left, DatagramSocket.open(LOOPBACK) as right:
        left.connect(right.local_address)
        right.connect(left.local_address)
        yield left, right


async def take(sock: DatagramSocket, count: int) -> list[bytes]:
    got: list[bytes] = []
    with trio.fail_after(5):
        while len(got) < count:
            for run in await sock.receive_batch():
                got += [bytes(d) for d in run.datagrams()]
    return got


def burst(sizes: list[int]) -> list[bytes]:
    return [bytes([i % 256]) * size for i, size in enumerate(sizes)]


@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize(
    "sizes",
    [[1088] * 200, [1400, 1400, 600, 20, 20, 20, 1400], [9000, 1], [65507], [0, 5, 0]],
    ids=["long", "mixed", "jumbo", "largest", "empty"],
)
async def test_a_burst_arrives_whole(sizes: list[int], offload: bool) -> None:
    sent = burst(sizes)
    with (
        DatagramSocket(socket.socket(type=socket.SOCK_DGRAM), offload=offload) as left,
        DatagramSocket.open(LOOPBACK) as right,
    ):
        left.connect(right.local_address)
        left.send_runs(gather(sent))
        assert await take(right, len(sent)) == sent
        assert left.counters.sent == right.counters.received == len(sent)
        assert left.counters.sent_bytes == sum(sizes)


class Scripted(socket.socket):
    """Reads come from a list, so that what is there to drain does not depend on the kernel."""

    script: list[bytes | OSError]

    def recvmsg(self, *_: object) -> tuple[bytes, list[object], int, tuple[str, int]]:  # type: ignore[override]
        if not self.script:
            raise BlockingIOError
        item = self.script.pop(0)
        if isinstance(item, OSError):
            raise item
        return item, [], 0, ("127.0.0.1", 9)


@pytest.fixture
def scripted() -> Iterator[tuple[Scripted, DatagramSocket]]:
    sock = Scripted(type=socket.SOCK_DGRAM)
    sock.bind(LOOPBACK)
    with DatagramSocket(sock) as wrapped, DatagramSocket.open(LOOPBACK) as knocker:
        # The kernel calls it readable as long as nobody takes this.
        knocker.send(b"knock", sock.getsockname())
        yield sock, wrapped


async def test_equal_datagrams_come_as_one_run(scripted: tuple[Scripted, DatagramSocket]) -> None:
    script, sock = scripted
    script.script = [*burst([500] * 20 + [100, 500])]
    assert [len(run) for run in await sock.receive_batch()] == [21, 1]
    assert sock.counters.received == 22


async def test_a_read_stops_at_its_limit(scripted: tuple[Scripted, DatagramSocket]) -> None:
    script, sock = scripted
    script.script = [*burst([800, 900, 1000])]
    assert [run.segment_size for run in await sock.receive_batch(max_bytes=1500)] == [800, 900]
    assert [run.segment_size for run in await sock.receive_batch()] == [1000]


async def test_port_unreachable_while_reading_is_counted_and_passed_over(
    scripted: tuple[Scripted, DatagramSocket],
) -> None:
    script, sock = scripted
    script.script = [b"a", ConnectionRefusedError(), b"b"]
    assert [bytes(run.data) for run in await sock.receive_batch()] == [b"ab"]
    assert sock.counters.receive_refused == 1


@pytest.mark.parametrize("code", [errno.EHOSTUNREACH, errno.ENOPROTOOPT, errno.ENETUNREACH])
async def test_a_firewall_that_rejects_ends_no_flow(
    scripted: tuple[Scripted, DatagramSocket], code: int
) -> None:
    """Many firewalls say "administratively prohibited" where others say "port unreachable"."""
    script, sock = scripted
    script.script = [b"a", OSError(code, "ICMP"), b"b"]
    assert [bytes(run.data) for run in await sock.receive_batch()] == [b"ab"]
    assert sock.counters.receive_refused == 1


@given(st.integers(1, 3000), st.integers(1, 65_535))
def test_one_call_never_takes_more_than_any_kernel_allows(size: int, total: int) -> None:
    run = Run(min(size, total), memoryview(bytes(total)))
    pieces = list(_pieces(run))
    assert sum(len(piece) for piece in pieces) == len(run)
    assert b"".join(piece.data for piece in pieces) == run.data
    assert all(len(piece) <= 64 and len(piece.data) <= 65_507 for piece in pieces)
    assert all(piece.segment_size == run.segment_size for piece in pieces[:-1])


async def test_an_unconnected_socket_tells_who_sent() -> None:
    with DatagramSocket.open(LOOPBACK) as hub, DatagramSocket.open(LOOPBACK) as peer:
        peer.send(b"ping", to=hub.local_address)
        with trio.fail_after(5):
            [(sender, run)] = await hub.receive_from()
        assert bytes(run.data) == b"ping"
        assert sender == peer.local_address
        hub.send_runs([Run(2, memoryview(b"aabbc"))], to=sender)
        assert await take(peer, 3) == [b"aa", b"bb", b"c"]


class Refusing(socket.socket):
    """A kernel, or a route, without segmentation offload."""

    def sendmsg(self, *_: object) -> int:  # type: ignore[override]
        raise OSError(errno.EIO, "no segmentation here")


async def test_without_segmentation_each_datagram_is_sent_alone() -> None:
    sent = burst([700] * 10)
    with (
        DatagramSocket(Refusing(type=socket.SOCK_DGRAM)) as left,
        DatagramSocket.open(LOOPBACK) as right,
    ):
        left.connect(right.local_address)
        left.send_runs(gather(sent))
        left.send_runs(gather(sent))
        assert await take(right, 20) == sent + sent
        assert left.counters.segmentation_fallbacks == 1
        assert left.counters.sent == 20


@pytest.mark.parametrize(
    ("error", "counter"),
    [
        (BlockingIOError(errno.EAGAIN, ""), "send_would_block"),
        (OSError(errno.ENOBUFS, ""), "send_would_block"),
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), "send_refused"),
        (OSError(errno.ENETUNREACH, ""), "send_failed"),
    ],
)
async def test_what_the_kernel_does_not_take_is_dropped_and_counted(
    error: OSError, counter: str
) -> None:
    class Full(socket.socket):
        def send(self, *_: object) -> int:  # type: ignore[override]
            raise error

        def sendmsg(self, *_: object) -> int:  # type: ignore[override]
            raise error

    with DatagramSocket(Full(type=socket.SOCK_DGRAM)) as sock:
        assert not sock.send(b"one")
        sock.send_runs(gather(burst([100] * 5)))
        assert getattr(sock.counters, counter) == 6
        assert sock.counters.sent == 0


async def test_a_datagram_too_large_is_dropped_and_counted(
    ends: tuple[DatagramSocket, DatagramSocket],
) -> None:
    left, _ = ends
    assert not left.send(bytes(65_508))
    assert left.counters.send_too_large == 1


async def test_a_peer_that_is_away_is_survived() -> None:
    with DatagramSocket.open(LOOPBACK) as gone:
        address = gone.local_address
    with DatagramSocket.open(LOOPBACK, address) as sock:
        for _ in range(4):
            sock.send(b"anyone?")
        with DatagramSocket.open(address, sock.local_address) as back:
            back.send(b"here")
            assert await take(sock, 1) == [b"here"]
        counters = sock.counters
        assert counters.send_refused + counters.receive_refused >= 1


async def test_closing_wakes_who_waits(
    ends: tuple[DatagramSocket, DatagramSocket],
) -> None:
    _, right = ends
    with pytest.RaisesGroup(trio.ClosedResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(right.receive_batch)
            await trio.testing.wait_all_tasks_blocked()
            right.close()
    assert right.closed
    with pytest.raises(trio.ClosedResourceError):
        right.send(b"x")


def test_a_socket_that_cannot_be_bound_is_not_left_open() -> None:
    with pytest.raises(OSError, match="assign"):
        DatagramSocket.open(("203.0.113.1", 0))


@pytest.mark.parametrize(
    ("kbps", "buffer_bytes"), [(1, 2**18), (20_000, 625_000), (10_000_000, 2**23)]
)
def test_the_receive_buffer_is_sized_by_the_bitrate(kbps: int, buffer_bytes: int) -> None:
    asked: list[int] = []

    class Asked(socket.socket):
        def setsockopt(self, level: int, option: int, value: Any) -> None:  # type: ignore[override]
            if option == socket.SO_RCVBUF:
                asked.append(value)

    with DatagramSocket(Asked(type=socket.SOCK_DGRAM)) as sock:
        sock.expect(kbps)
    assert asked == [buffer_bytes]
