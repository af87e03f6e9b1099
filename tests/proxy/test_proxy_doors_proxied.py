"""Behind a load balancer, the edge's doors believe the balancer and nobody else."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

import pytest
import structlog.testing
import trio

from proxy.doors import Connection, Doors
from revdial.proxies import TrustedProxies
from tests.waiting import until

BALANCER, STRANGER = "127.7.0.1", "127.8.0.1"
V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 48011\r\n"
SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
LOCAL = SIGNATURE + bytes.fromhex("20000000")


def v2(source: str, destination: str = "198.51.100.7", port: int = 48_011) -> bytes:
    block = ip_address(source).packed + ip_address(destination).packed
    block += (56_324).to_bytes(2, "big") + port.to_bytes(2, "big")
    kind = 0x11 if ip_address(source).version == 4 else 0x21
    return SIGNATURE + bytes([0x21, kind]) + len(block).to_bytes(2, "big") + block


class House:
    """Doors that answer each connection with what they know of it, and what it said."""

    def __init__(self, nursery: trio.Nursery, timeout_s: float = 30) -> None:
        self._nursery = nursery
        self.doors = Doors(
            max_connections=4,
            max_connections_per_address=2,
            proxies=TrustedProxies([ip_network("127.7.0.0/16")], timeout_s=timeout_s),
        )
        self.served: list[Connection] = []
        self.port = 0

    async def open(self) -> House:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        await self._nursery.start(self.doors.serve, listeners, self._serve)
        return self

    async def _serve(self, connection: Connection) -> None:
        self.served.append(connection)
        while data := await connection.stream.receive_some():
            await connection.stream.send_all(data)

    async def come(self, source: str, *pieces: bytes) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port, local_address=source)
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        for piece in pieces:
            await stream.send_all(piece)
        return stream

    async def echoed(self, source: str, pieces: Iterable[bytes]) -> bytes:
        """Say everything and hear everything until the other side closes."""
        heard = b""
        async with await self.come(source) as stream:
            try:
                for piece in pieces:
                    await stream.send_all(piece)
                await stream.send_eof()
                with trio.fail_after(5):
                    while data := await stream.receive_some():
                        heard += data
            except trio.BrokenResourceError:  # closed with what we said unread
                pass
        return heard


@pytest.fixture
async def house(nursery: trio.Nursery) -> House:
    return await House(nursery).open()


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize(
    ("header", "client", "reached", "named_port"),
    [
        (V1, "192.0.2.1", "198.51.100.7", 48_011),
        (v2("192.0.2.1"), "192.0.2.1", "198.51.100.7", 48_011),
        (v2("2001:db8::1", "2001:db8::2"), "2001:db8::1", "2001:db8::2", 48_011),
        (v2("::ffff:192.0.2.1", "::ffff:192.0.2.2"), "192.0.2.1", "192.0.2.2", 48_011),
        (b"PROXY UNKNOWN\r\n", BALANCER, "127.0.0.1", None),
        (LOCAL, BALANCER, "127.0.0.1", None),
    ],
)
async def test_a_balancer_says_whose_its_connection_is_and_the_rest_is_the_clients(
    house: House,
    header: bytes,
    client: str,
    reached: str,
    named_port: int | None,
    one_by_one: bool,
) -> None:
    said = header + b"\x16\x03\x01 the client's own"
    pieces = [bytes([byte]) for byte in said] if one_by_one else [said]
    assert await house.echoed(BALANCER, pieces) == b"\x16\x03\x01 the client's own"
    (one,) = house.served
    assert (one.address, one.local_address, one.local_port) == (client, reached, house.port)
    assert one.named_port == named_port
    assert not house.doors.refused


@pytest.mark.parametrize("header", [V1, v2("192.0.2.1")])
async def test_a_strangers_header_is_not_believed_and_not_taken_away(
    house: House, header: bytes
) -> None:
    assert await house.echoed(STRANGER, [header]) == header
    (one,) = house.served
    assert (one.address, one.local_address, one.named_port) == (STRANGER, "127.0.0.1", None)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "proxy_header_missing"),
        (V1[:20], "proxy_header_cut_short"),
        (V1.replace(b"TCP4", b"TCP6"), "proxy_header_malformed"),
        (b"PROXY UNKNOWN" + bytes(95) + b"\r\n", "proxy_header_too_long"),
        (SIGNATURE + bytes.fromhex("2111ffff"), "proxy_header_too_long"),
        (SIGNATURE + bytes.fromhex("213100d8") + bytes(216), "proxy_header_unsupported"),
    ],
)
async def test_a_balancer_without_a_proper_header_is_refused_counted_and_told_of_once(
    house: House, said: bytes, reason: str
) -> None:
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            assert await house.echoed(BALANCER, [said]) == b""
        await until(lambda: house.doors.refused == {reason: 2})
    assert house.served == []
    assert [(each["event"], each["reason"]) for each in logged] == [
        ("proxy_header_refused", reason)
    ]


async def test_a_balancer_that_says_nothing_is_given_up_in_time(nursery: trio.Nursery) -> None:
    house = await House(nursery, timeout_s=0.1).open()
    async with await house.come(BALANCER) as silent:
        with trio.fail_after(5):
            assert await silent.receive_some() == b""
    assert house.doors.refused == {"proxy_header_too_slow": 1}


async def test_a_look_whether_the_port_is_open_is_no_fault(house: House) -> None:
    with structlog.testing.capture_logs() as logged:
        assert await house.echoed(BALANCER, []) == b""
        assert house.doors.open_connections == 0
    assert not house.doors.refused
    assert not house.served
    assert not logged


async def test_limits_count_the_client_behind_the_balancer_and_until_then_only_all(
    house: House,
) -> None:
    """Three connections of one balancer, at most two of one address."""
    streams = [await house.come(BALANCER, v2(f"192.0.2.{number}")) for number in (1, 1, 2)]
    await until(lambda: len(house.served) == 3)
    refused = await house.come(BALANCER, v2("192.0.2.1"))
    await until(lambda: house.doors.refused == {"too_many_from_address": 1})
    nameless = await house.come(BALANCER)
    await until(lambda: house.doors.open_connections == 4)
    over = await house.come(BALANCER, v2("192.0.2.9"))
    await until(lambda: house.doors.refused["too_many_connections"] == 1)
    for stream in (*streams, refused, nameless, over):
        await stream.aclose()
    await until(lambda: house.doors.open_connections == 0)


@pytest.mark.parametrize(
    ("named", "dialled"), [(None, 48_010), (48_020, 48_020), (443, 48_010), (0, 48_010)]
)
async def test_the_port_a_client_dialled_is_the_balancers_word_if_it_is_one_of_ours(
    named: int | None, dialled: int
) -> None:
    ours, theirs = trio.socket.socketpair()
    async with trio.SocketStream(ours) as stream, trio.SocketStream(theirs):
        connection = Connection(stream, "192.0.2.1", "198.51.100.7", 48_010, named)
        assert connection.dialled_port(range(48_010, 48_074)) == dialled
