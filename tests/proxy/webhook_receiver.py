"""A webhook's receiver on loopback that answers as it is told and notes what it was sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import h11
import trio

from proxy.wake_config import WakeWebhook

drip_s = 0.05
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Call:
    target: bytes
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    port: int = 0
    answers: list[int | None] = field(default_factory=list)
    """What the next calls are answered, 200 after them; None for headers that never end."""
    calls: list[Call] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?key=hunter2"

    def config(self, folder: Path, *, timeout_s: float = 10.0) -> WakeWebhook:
        secret = folder / "wake.secret"
        secret.touch(mode=0o600)
        secret.write_text(SECRET)
        return WakeWebhook(url=self.url, secret_file=secret, timeout_s=timeout_s)

    async def serve(self, stream: trio.SocketStream) -> None:
        wire = h11.Connection(h11.SERVER)
        head, body = None, b""
        async for piece in stream:
            wire.receive_data(piece)
            while not isinstance(event := wire.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    break
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
            else:
                break
        assert head is not None
        headers = {name.decode(): value.decode() for name, value in head.headers}
        self.calls.append(Call(bytes(head.target), headers, body))
        status = self.answers.pop(0) if self.answers else 200
        if status is None:
            await stream.send_all(b"HTTP/1.1 200 So\r\n")
            while True:
                await stream.send_all(b"X: y\r\n")
                await trio.sleep(drip_s)
        location = b"Location: /elsewhere\r\n" if status in (301, 307) else b""
        # A body that never ends: nobody may wait for it.
        await stream.send_all(
            b"HTTP/1.1 %d So\r\n%sContent-Length: 999999\r\n\r\nx" % (status, location)
        )


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, receiver.serve, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        receiver.port = listeners[0].socket.getsockname()[1]
        yield receiver
        nursery.cancel_scope.cancel()
