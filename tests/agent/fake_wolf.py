"""A scripted API on a Unix socket, in the place of a Wolf's."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import trio

Route = tuple[str, str]


@dataclass
class FakeWolf:
    """Answers each route with the next of its scripted answers; the last one stays.

    An answer is an object (sent as JSON), raw bytes (a whole HTTP answer), or None: no answer.
    """

    path: Path
    answers: dict[Route, list[Any]] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)

    def script(self, method: str, path: str, *answers: Any) -> None:
        self.answers[method, f"/api/v1{path}"] = list(answers)

    def pending(self, *entries: tuple[str, str], key: str = "client_ip") -> dict[str, Any]:
        requests = [{"pair_secret": secret, key: address} for secret, address in entries]
        return {"success": True, "requests": requests}

    def asked(self, method: str, path: str) -> list[Any]:
        wanted = (method, f"/api/v1{path}")
        return [body for verb, target, body in self.requests if (verb, target) == wanted]

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        method, path, body = "", "", b""
        async with stream:
            while True:
                match connection.next_event():
                    case h11.NEED_DATA:
                        connection.receive_data(await stream.receive_some())
                    case h11.Request() as request:
                        method, path = request.method.decode(), request.target.decode()
                    case h11.Data() as data:
                        body += data.data
                    case _:
                        break
            if not method:
                return
            self.requests.append((method, path, json.loads(body) if body else None))
            answers = self.answers.get((method, path), [b"HTTP/1.1 404 No\r\n\r\n"])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if answer is None:
                await trio.sleep_forever()
            if not isinstance(answer, bytes):
                text = json.dumps(answer).encode()
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
            try:
                await stream.send_all(answer)
            except trio.BrokenResourceError:
                return


@asynccontextmanager
async def fake_wolf(path: Path) -> AsyncIterator[FakeWolf]:
    wolf = FakeWolf(path)
    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await listening.bind(str(path))
    listening.listen(16)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, wolf._serve, [trio.SocketListener(listening)])
        yield wolf
        nursery.cancel_scope.cancel()
