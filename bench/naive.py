"""The relay that everybody writes first, as a baseline: a message and an await for each datagram.

``python -m bench.naive edge|agent`` reads its plan as JSON from standard input. Over the same
TLS and the library's own WebSocket connections on trio, one a flow; host to client only.
"""

from __future__ import annotations

import json
import ssl
import sys
from functools import partial
from typing import Any, Final

import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.client import connect
from websockets.trio.server import ServerConnection, serve

_socket_bytes: Final = 4 << 20


async def edge(plan: dict[str, Any]) -> None:
    """Take WebSockets, and send what each brings to the client with the number in its path."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(plan["certificate"], plan["key"])

    async def handle(websocket: ServerConnection) -> None:
        assert websocket.request is not None  # noqa: S101 - it was answered
        number = int(websocket.request.path.rpartition("/")[2])
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, _socket_bytes)
            await sock.connect(tuple(plan["clients"][number]))
            try:
                while True:
                    message = await websocket.recv()
                    assert isinstance(message, bytes)  # noqa: S101 - its agent sends no text
                    await sock.send(message)
            except ConnectionClosed:
                return

    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve, handle, plan["port"], host="127.0.0.1", ssl=context, compression=None)
        )
        print("ready", flush=True)
        await trio.sleep(plan["max_seconds"])
        nursery.cancel_scope.cancel()


async def agent(plan: dict[str, Any]) -> None:
    """Dial once a flow, and send each datagram that comes from the host."""
    context = ssl.create_default_context(cafile=plan["certificate"])
    up = trio.Event()
    count = 0

    async def carry(number: int, local: tuple[str, int]) -> None:
        nonlocal count
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, _socket_bytes)
            await sock.bind(local)
            url = f"wss://127.0.0.1:{plan['port']}/{number}"
            async with connect(url, ssl=context, proxy=None, compression=None) as websocket:
                count += 1
                if count == len(plan["locals"]):
                    up.set()
                while True:
                    await websocket.send(await sock.recv(65_535))

    with trio.move_on_after(plan["max_seconds"]):
        async with trio.open_nursery() as nursery:
            for number, local in enumerate(plan["locals"]):
                nursery.start_soon(carry, number, tuple(local))
            await up.wait()
            print("ready", flush=True)


if __name__ == "__main__":
    trio.run({"edge": edge, "agent": agent}[sys.argv[1]], json.loads(sys.stdin.readline()))
