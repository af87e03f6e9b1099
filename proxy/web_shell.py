"""Carries NvHTTP over connections: bytes in, bytes out, deadlines on both."""

from __future__ import annotations

import ssl
from collections import Counter
from typing import Final

import structlog
import trio

from moonlight.errors import ProtocolError
from moonlight.http import BadRequest, HttpRequest, HttpServer, RequestTooLarge
from moonlight.tls import peer_certificate
from moonlight.xml import Answer
from proxy.doors import Connection
from proxy.nvhttp import Caller, NvHttp, Reply

_log = structlog.get_logger()

receive_bytes: Final = 16_384
send_timeout_s: Final = 10.0
finish_timeout_s: Final = 2.0
max_unread_bytes: Final = 1 << 20


class WebShell:
    """Serves the HTTP and HTTPS connections of clients."""

    def __init__(
        self,
        nvhttp: NvHttp,
        tls: ssl.SSLContext,
        *,
        request_timeout_s: float,
        keep_alive_timeout_s: float,
    ) -> None:
        self._nvhttp = nvhttp
        self._tls = tls
        self.apply(request_timeout_s=request_timeout_s, keep_alive_timeout_s=keep_alive_timeout_s)
        self.refused: Counter[tuple[str, str]] = Counter()
        """What came to the ports of HTTP and is no request, by port and reason."""

    def apply(self, *, request_timeout_s: float, keep_alive_timeout_s: float) -> None:
        """Set other timeouts, for what clients send from now on."""
        self._request_timeout_s = request_timeout_s
        self._keep_alive_timeout_s = keep_alive_timeout_s

    async def serve_http(self, connection: Connection) -> None:
        """Serve a plain connection until it ends."""
        caller = Caller(connection.address, connection.local_address, None, secure=False)
        await self._serve(connection.stream, caller)

    async def serve_https(self, connection: Connection) -> None:
        """Serve a TLS connection until it ends; any client certificate is taken, or none."""
        stream: trio.SSLStream[trio.abc.Stream] = trio.SSLStream(
            connection.stream, self._tls, server_side=True, https_compatible=True
        )
        try:
            with trio.fail_after(self._request_timeout_s):
                await stream.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError) as error:
            reason = "tls_timeout" if isinstance(error, trio.TooSlowError) else "tls_handshake"
            self.refused["https", reason] += 1
            _log.info("https_refused", client_address=connection.address, reason=reason)
            return
        certificate = peer_certificate(stream)
        caller = Caller(connection.address, connection.local_address, certificate, secure=True)
        await self._serve(stream, caller)
        with trio.move_on_after(send_timeout_s):
            await stream.aclose()

    async def _serve(self, stream: trio.abc.Stream, caller: Caller) -> None:
        http = HttpServer()
        timeout_s = self._request_timeout_s
        while not http.wants_close:
            try:
                with trio.fail_after(timeout_s):
                    request = await _next_request(stream, http)
            except trio.TooSlowError:
                return
            except (BadRequest, RequestTooLarge) as error:
                self.refused["https" if caller.secure else "http", error.reason] += 1
                _log.info(
                    "http_refused",
                    client_address=caller.address,
                    reason=error.reason,
                    why=str(error),
                )
                body = Answer.error(error.status, str(error)).encode()
                await _send(stream, http.respond(error.status, body, close=True))
                await _let_finish(stream)
                return
            if request is None:
                return
            reply = await self._reply(stream, http, request, caller)
            if reply is None:
                return
            await _send(
                stream, http.respond(reply.status, reply.body, reply.content_type, close=False)
            )
            timeout_s = self._keep_alive_timeout_s

    async def _reply(
        self, stream: trio.abc.Stream, http: HttpServer, request: HttpRequest, caller: Caller
    ) -> Reply | None:
        """Answer, or stop trying once the client has hung up: a PIN can take minutes."""
        reply: Reply | None = None

        async def watch() -> None:
            try:
                while data := await stream.receive_some(receive_bytes):
                    http.receive(data)
                http.receive(b"")
            except (trio.BrokenResourceError, ProtocolError):
                pass
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if request.path == "/pair":
                nursery.start_soon(watch)
            reply = await self._nvhttp.answer(request, caller)
            nursery.cancel_scope.cancel()
        return reply


async def _next_request(stream: trio.abc.Stream, http: HttpServer) -> HttpRequest | None:
    while (request := http.next_request()) is None:
        if http.wants_close or http.at_eof:
            return None
        http.receive(await stream.receive_some(receive_bytes))
    return request


async def _let_finish(stream: trio.abc.Stream) -> None:
    """Read on for a moment: closing with bytes unread would take the answer back (RST)."""
    with trio.move_on_after(finish_timeout_s):
        left = max_unread_bytes
        while left > 0 and (data := await stream.receive_some(receive_bytes)):
            left -= len(data)


async def _send(stream: trio.abc.Stream, data: bytes) -> None:
    with trio.move_on_after(send_timeout_s) as deadline:
        await stream.send_all(data)
    if deadline.cancelled_caught:
        raise trio.BrokenResourceError("the client does not read its answer")
