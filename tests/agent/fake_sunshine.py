"""A scripted Sunshine on real sockets: its HTTP port, and over TLS its API and its HTTPS port."""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h11
import trio

from agent.config import HostConfig
from moonlight.identity import Identity
from moonlight.tls import server_context
from moonlight.xml import Answer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
Script = dict[str, list[Any]]


@functools.cache
def identity(name: str = "sunshine") -> Identity:
    """One identity a name for all tests: making one takes a while."""
    return Identity.generate(name, now=datetime.now(UTC))


@dataclass
class FakeSunshine:
    """Answers each path with the next of its scripted answers; the last one stays.

    An answer is an object (sent as JSON), an `Answer` (as XML), bytes (a whole HTTP answer), a
    status, or None: no answer. What came before a request is in `heard`, TLS taken off.
    """

    shown: Identity
    ports: dict[str, int] = field(default_factory=dict)
    script: Script = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0

    def asked(self, path: str) -> list[Any]:
        return [json.loads(body or b"null") for asked, _, body in self.requests if asked == path]

    def config(self, folder: Path, **changes: Any) -> HostConfig:
        password = folder / "password"
        password.touch(mode=0o600)
        password.write_text("secret-word\n")
        settings: dict[str, Any] = {
            "name": "pc",
            "kind": "sunshine",
            **{f"{name}_port": port for name, port in self.ports.items()},
            "api_username": "me",
            "api_password_file": str(password),
            "api_certificate": identity().certificate.id,
            "identity_file": str(folder / "agent.pem"),
        }
        return HostConfig.model_validate({**settings, **changes})

    async def serve(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER)
        path, headers, body = "", dict[str, str](), b""
        async with stream:
            self.connections += 1
            while True:
                match connection.next_event():
                    case h11.NEED_DATA:
                        try:
                            connection.receive_data(bytes(await stream.receive_some()))
                        except trio.BrokenResourceError:
                            return
                    case h11.Request() as request:
                        path = request.target.decode().partition("?")[0]
                        headers = {k.decode(): v.decode() for k, v in request.headers}
                    case h11.Data() as data:
                        body += data.data
                    case _:
                        break
            if path:
                self.requests.append((path, headers, body))
                answers = self.script.get(path, [404])
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                await self._answer(stream, answer)

    async def serve_tls(self, stream: trio.abc.Stream) -> None:
        tls = server_context(self.shown)
        secured = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        try:
            await self.serve(secured)
        except trio.BrokenResourceError:
            return

    @staticmethod
    async def _answer(stream: trio.abc.Stream, answer: Any) -> None:
        match answer:
            case None:
                await trio.sleep_forever()
            case bytes():
                await stream.send_all(answer)
            case int():
                await stream.send_all(b"HTTP/1.1 %d Status\r\nContent-Length: 0\r\n\r\n" % answer)
            case _:
                text = (
                    answer.encode() if isinstance(answer, Answer) else json.dumps(answer).encode()
                )
                await stream.send_all(OK % (len(text), text))


@asynccontextmanager
async def fake_sunshine(shown: Identity | None = None) -> AsyncIterator[FakeSunshine]:
    sunshine = FakeSunshine(shown or identity())
    handlers = {
        "http": sunshine.serve,
        "https": sunshine.serve_tls,
        "api": sunshine.serve_tls,
    }
    async with trio.open_nursery() as nursery:
        for name, handler in handlers.items():
            listening = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            await listening.bind(("127.0.0.1", 0))
            listening.listen(16)
            sunshine.ports[name] = listening.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, handler, [trio.SocketListener(listening)])
        yield sunshine
        nursery.cancel_scope.cancel()
