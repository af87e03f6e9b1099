"""One connection between two sockets: whatever its peer does, nothing is lost or held up."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing
from tunnel_harness import authority
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri
from websockets.utils import accept_key

from revdial.frames import binary_frame
from revdial.framing import max_batch_bytes
from revdial.transport import Transport
from revdial.websocket import (
    TunnelWebSocket,
    max_fragments,
    max_other_frames,
    upgrade_as_client,
    upgrade_as_server,
)

URI = parse_uri("ws://edge/v1/control")
ANSWER = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n\r\n"
)


@contextmanager
def sockets() -> Iterator[tuple[Transport, socket.socket]]:
    """A transport, and the plain socket at its other end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport = Transport(ours)
    with theirs:
        yield transport, theirs
        transport.close()


def client(transport: Transport) -> TunnelWebSocket:
    protocol = ClientProtocol(URI, state=OPEN, max_size=max_batch_bytes)
    return TunnelWebSocket(transport, protocol)


def server(transport: Transport) -> TunnelWebSocket:
    return TunnelWebSocket(transport, ServerProtocol(state=OPEN, max_size=max_batch_bytes))


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[TunnelWebSocket, TunnelWebSocket]]:
    left, right = socket.socketpair()
    ends = client(Transport(left)), server(Transport(right))
    with trio.fail_after(10):
        yield ends
    for end in ends:
        await end.abort()


def fill(end: TunnelWebSocket) -> int:
    """Send until the kernel takes no more; how many messages that were."""
    count = 0
    while not end.unsent_bytes:
        end.send_nowait(bytes(50_000))
        count += 1
    return count


@pytest.mark.parametrize("cut", [1, 5, 12, 13, 14, 200])
async def test_frames_that_come_with_the_upgrade_are_taken_however_they_are_cut(cut: int) -> None:
    with sockets() as (transport, theirs), trio.fail_after(5):
        protocol = ClientProtocol(URI)
        behind = binary_frame(b"first", masked=False) + Frame(Opcode.PING, b"").serialize(
            mask=False
        )
        behind += binary_frame(bytes(40), masked=False)
        whole = ANSWER.format(accept_key(protocol.key)).encode() + behind
        at = len(whole) - len(behind) + cut
        theirs.send(whole[:at])
        websocket = await upgrade_as_client(transport, protocol, {})
        if whole[at:]:
            theirs.send(whole[at:])
        assert [bytes(await websocket.recv()) for _ in range(2)] == [b"first", bytes(40)]
        theirs.recv(4096).index(b"\x8a\x80")  # a pong, masked


async def test_a_goodbye_that_comes_with_the_upgrade_is_answered() -> None:
    with sockets() as (transport, theirs), trio.fail_after(1.5):
        protocol = ClientProtocol(URI)
        goodbye = Frame(Opcode.CLOSE, b"\x0f\xa1bye").serialize(mask=False)
        theirs.send(ANSWER.format(accept_key(protocol.key)).encode() + goodbye)
        websocket = await upgrade_as_client(transport, protocol, {})
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionClosed) as caught:
            await websocket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 4001
        assert b"\x88" in theirs.recv(4096)


async def test_an_answer_with_a_body_is_read_whole_and_raised() -> None:
    with sockets() as (transport, theirs), trio.fail_after(5):
        theirs.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 7\r\n\r\nno\r\n\r\n!")
        with pytest.raises(InvalidStatus) as caught:
            await upgrade_as_client(transport, ClientProtocol(URI), {})
        assert caught.value.response.body == b"no\r\n\r\n!"


async def test_a_request_that_is_none_makes_no_websocket() -> None:
    async def check(*_: object) -> None:
        raise AssertionError("there is no request to check")

    with sockets() as (transport, theirs), trio.fail_after(5):
        theirs.send(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        assert await upgrade_as_server(transport, ServerProtocol(), check) is None


async def test_what_a_cancelled_sender_has_left_follows_by_itself() -> None:
    async with pair() as (left, right), trio.open_nursery() as nursery:
        sent = fill(left)
        with trio.move_on_after(0.01):
            await left.send(b"never had its turn")
        nursery.start_soon(left.keep_alive, 0.05, 60)
        for _ in range(sent):
            assert len(await right.recv()) == 50_000
        left.send_nowait(b"next")
        assert await right.recv() == b"next"
        nursery.cancel_scope.cancel()


async def test_a_polite_close_delivers_what_was_sent_before_and_says_why() -> None:
    async with pair() as (left, right), trio.open_nursery() as nursery:
        sent = fill(left)
        nursery.start_soon(left.close_politely, 4006, "no_route: gone")
        for _ in range(sent):
            await right.recv()
        with pytest.raises(ConnectionClosed) as caught:
            await right.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4006, "no_route: gone")


async def test_messages_before_a_reset_are_told_before_it() -> None:
    async with pair() as (left, right):
        left.send_nowait(b"last words")
        left.protocol.send_close(1000)
        left._write()
        await left.abort()
        assert await right.recv() == b"last words"
        with pytest.raises(ConnectionClosed):
            await right.recv()


async def test_text_that_is_not_utf_8_ends_the_connection() -> None:
    with sockets() as (transport, theirs), trio.fail_after(5):
        websocket = server(transport)
        theirs.send(Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True))
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
        assert websocket.stream_closed.is_set()
        assert websocket.protocol.close_sent is not None
        assert websocket.protocol.close_sent.code == 1007


@pytest.mark.parametrize(
    "frame", [Frame(Opcode.PING, b""), Frame(Opcode.BINARY, b"x", False)], ids=["pings", "parts"]
)
async def test_a_peer_that_floods_small_frames_is_given_up(frame: Frame) -> None:
    with sockets() as (transport, theirs), trio.fail_after(5):
        websocket = server(transport)
        first = frame.serialize(mask=True)
        opcode = Opcode.CONT if frame.opcode is Opcode.BINARY else frame.opcode
        more = Frame(opcode, b"", frame.fin).serialize(mask=True)
        theirs.send(first + more * (max_other_frames + 1))
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
        assert websocket.protocol.close_sent is not None
        assert websocket.protocol.close_sent.code == 1008


async def test_a_message_in_too_many_parts_is_given_up_and_empty_ones_cost_nothing() -> None:
    with sockets() as (transport, theirs), trio.fail_after(10):
        websocket = server(transport)
        theirs.send(Frame(Opcode.BINARY, b"", False).serialize(mask=True))
        empty = Frame(Opcode.CONT, b"", False).serialize(mask=True)
        part = Frame(Opcode.CONT, b"x", False).serialize(mask=True)
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                for piece in (empty, part):
                    for _ in range(max_fragments + 2):
                        await trio.lowlevel.wait_writable(theirs)
                        theirs.send(piece)
                        await trio.testing.wait_all_tasks_blocked()
                    if piece is empty:
                        assert websocket._fragments == []

            nursery.start_soon(flood)
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            nursery.cancel_scope.cancel()
        assert len(websocket._fragments) <= max_fragments + 1


async def test_a_silent_peer_is_given_up_and_one_that_is_not_read_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with sockets() as (transport, _):
        websocket = client(transport)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket.keep_alive, 18, 36)
            await trio.sleep(200)
            assert websocket.is_open, "nobody has read, so nothing is known"
            began = trio.current_time()
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert 36 < trio.current_time() - began <= 56


async def test_only_one_task_may_read() -> None:
    async with pair() as (left, _), trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(ConnectionClosed):
                await left.recv()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await left.recv()
        await left.abort()
        assert left.protocol.state is State.CLOSED


async def test_the_end_of_tls_is_the_end_also_behind_data() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("edge").configure_cert(context)
    trusting = ssl.create_default_context()
    authority().configure_trust(trusting)
    left, right = socket.socketpair()
    theirs, ours = Transport(left), Transport(right)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: ours.start_tls(context, server_side=True))
            await theirs.start_tls(trusting, server_hostname="edge")
        theirs.send_nowait(b"last words")
        tls = theirs._tls
        assert tls is not None
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        theirs._queue(theirs._outgoing.read())
        assert await ours.receive_some() == b"last words"
        assert await ours.receive_some() == b""
    theirs.close()
    ours.close()
