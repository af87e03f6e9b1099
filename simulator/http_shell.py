"""The I/O of one HTTP connection: bytes in, requests to a handler, answers out, all with deadlines.

Wolf writes no header but Content-Length, and closes without having said so. With `silent_close`
this shell does the same; otherwise it keeps a connection for as long as the client likes to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeAlias

import trio

from moonlight.errors import Malformed, ProtocolError, TooLarge
from moonlight.http import BadRequest, HttpRequest, HttpServer, RequestTooLarge

_RECEIVE_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `behind` are stray bytes that follow it on the wire."""

    status: int
    body: bytes = field(repr=False)
    content_type: str | None = "application/xml"
    behind: bytes = field(default=b"", repr=False)


class HttpPeer:
    """Who asks: the address it came from, and the certificate it showed (DER), if any."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        protocol: HttpServer,
        *,
        source: str,
        certificate: bytes | None,
        encrypted: bool,
    ) -> None:
        self.source = source
        self.certificate = certificate
        self.encrypted = encrypted
        self._stream = stream
        self._protocol = protocol

    async def left(self) -> None:
        """Wait until the client closes its connection; what it sends meanwhile is kept.

        One that floods us while it should wait for its answer counts as having left.
        """
        while not self._protocol.at_eof:
            try:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
                self._protocol.receive(bytes(data))
            except (trio.BrokenResourceError, trio.ClosedResourceError, TooLarge):
                return


Handler: TypeAlias = Callable[[HttpRequest, HttpPeer], Awaitable[Reply | None]]
"""Answers one request; None closes the connection without an answer. Sets its own deadline."""


async def serve_http(
    stream: trio.abc.Stream,
    handler: Handler,
    *,
    source: str,
    certificate: bytes | None = None,
    encrypted: bool = False,
    silent_close: bool,
    timeout_s: float,
) -> None:
    """Serve one connection to its end. `timeout_s` bounds each wait for the client."""
    protocol = HttpServer()
    peer = HttpPeer(stream, protocol, source=source, certificate=certificate, encrypted=encrypted)
    shell = _Shell(stream, protocol, silent_close=silent_close, timeout_s=timeout_s)
    try:
        while (request := await shell.request()) is not None:
            reply = await handler(request, peer)
            if reply is None or not await shell.reply(reply):
                return
    except (Malformed, TooLarge) as error:
        await shell.refuse(error)
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        return  # the client left, or had its time: nobody is there to be told


class _Shell:
    """Reads requests and writes answers on one connection."""

    def __init__(
        self, stream: trio.abc.Stream, protocol: HttpServer, *, silent_close: bool, timeout_s: float
    ) -> None:
        self._stream = stream
        self._protocol = protocol
        self._silent_close = silent_close
        self._timeout_s = timeout_s

    async def request(self) -> HttpRequest | None:
        """The next request, None when there will be none."""
        with trio.fail_after(self._timeout_s):
            while not self._protocol.wants_close:
                request = self._protocol.next_request()
                if request is not None:
                    return request
                if self._protocol.at_eof:
                    return None
                self._protocol.receive(bytes(await self._stream.receive_some(_RECEIVE_BYTES)))
        return None

    async def reply(self, reply: Reply) -> bool:
        """Write an answer; tells whether the connection goes on."""
        answer = self._protocol.respond(
            reply.status, reply.body, reply.content_type, close=self._silent_close
        )
        if self._silent_close:
            answer = bare(reply)
        with trio.fail_after(self._timeout_s):
            await self._stream.send_all(answer + reply.behind)
        return not self._silent_close and not reply.behind and not self._protocol.wants_close

    async def refuse(self, error: ProtocolError) -> None:
        """Answer bytes that are no request."""
        status: int = HTTPStatus.BAD_REQUEST
        if isinstance(error, BadRequest | RequestTooLarge):
            status = error.status
        answer = self._protocol.respond(status, b"", None, close=True)
        with trio.move_on_after(self._timeout_s):
            try:
                await self._stream.send_all(answer)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return


def bare(reply: Reply) -> bytes:
    """Write an answer that tells its length and nothing else, not even that it is the last one."""
    phrase = HTTPStatus(reply.status).phrase
    head = f"HTTP/1.1 {reply.status} {phrase}\r\nContent-Length: {len(reply.body)}\r\n\r\n"
    return head.encode() + reply.body
