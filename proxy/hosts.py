"""Asking hosts through their tunnels: one HTTP or HTTPS request at a time."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

import trio

from backends.model import BackendId
from moonlight.errors import ProtocolError
from moonlight.http import HttpClient, HttpResponse, Query
from moonlight.xml import Answer
from proxy.errors import HostIdentityChanged, HostUnavailable
from proxy.fleet import Fleet, host_name
from revdial.errors import TunnelError, refusal_behind

host_timeout_s: Final = 10.0
receive_bytes: Final = 65_536
max_answer_bytes: Final = 1 << 20
max_asset_bytes: Final = 8 << 20
# OpenSSL's words for a certificate that `moonlight.tls` did not accept.
_not_the_pinned_one: Final = "certificate verify failed"


@dataclass(frozen=True, slots=True)
class HostRequest:
    """What to ask a host, and as whom."""

    path: str
    query: Query
    origin: str
    """Whom the host sees as one source address: a session's id, or the purpose of the request."""
    timeout_s: float = host_timeout_s
    max_bytes: int = max_answer_bytes


async def ask(
    fleet: Fleet, backend: BackendId, request: HostRequest, tls: ssl.SSLContext | None
) -> HttpResponse:
    """Ask a host, over HTTPS where `tls` is given, and return its answer, whatever its status.

    What fails is counted as a failed connection to the backend.

    A connection carries one request: hosts close without saying so, and some send a stray second
    answer (``protocol.md`` §8).

    Raises:
        HostUnavailable: no tunnel, no connection, no answer in time, or no valid answer.
        HostIdentityChanged: its certificate is not the one that `tls` expects.

    """
    try:
        return await _ask(fleet, backend, request, tls)
    except HostUnavailable as error:
        fleet.note_connection_failure(backend, error)
        raise


async def _ask(
    fleet: Fleet, backend: BackendId, request: HostRequest, tls: ssl.SSLContext | None
) -> HttpResponse:
    try:
        with trio.fail_after(request.timeout_s):
            stream: trio.abc.Stream = await fleet.tunnel(backend).open_stream(
                host_name(backend), "https" if tls else "http", origin=request.origin
            )
            try:
                if tls is not None:
                    stream = trio.SSLStream(stream, tls, https_compatible=True)
                    await _shake_hands(stream, backend)
                return await _exchange(stream, request)
            finally:
                await trio.aclose_forcefully(stream)
    except trio.TooSlowError:
        raise HostUnavailable(
            "host_timeout", f"{backend} did not answer {request.path} in {request.timeout_s:g} s"
        ) from None
    except TunnelError as error:
        raise HostUnavailable(
            error.reason, f"{backend} cannot be reached for {request.path}: {error}"
        ) from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
        if (refused := refusal_behind(error)) is not None:
            raise HostUnavailable(
                refused.reason, f"{backend} cannot be reached for {request.path}: {refused}"
            ) from error
        raise HostUnavailable(
            "host_connection_lost", f"the connection to {backend} broke during {request.path}"
        ) from error
    except ProtocolError as error:
        raise HostUnavailable(
            error.reason, f"{backend} gave no valid answer to {request.path}: {error}"
        ) from error


async def ask_xml(
    fleet: Fleet, backend: BackendId, request: HostRequest, tls: ssl.SSLContext | None
) -> Answer:
    """Ask a host for XML, whatever its status: as `ask`."""
    response = await ask(fleet, backend, request, tls)
    try:
        return Answer.parse(response.body)
    except ProtocolError as error:
        raise HostUnavailable(
            error.reason, f"{backend} answered {request.path} with other than XML: {error}"
        ) from error


async def _shake_hands(stream: trio.SSLStream[trio.abc.Stream], backend: BackendId) -> None:
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        if isinstance(cause, ssl.SSLError) and _not_the_pinned_one in str(cause):
            raise HostIdentityChanged(
                "host_identity_changed",
                f"{backend} shows another certificate than the one it was paired with",
            ) from error
        raise


async def _exchange(stream: trio.abc.Stream, request: HostRequest) -> HttpResponse:
    connection = HttpClient(max_response_bytes=request.max_bytes)
    target = f"{request.path}?{request.query.encode()}"
    await stream.send_all(connection.request("GET", target, [("Host", "host"), ("Accept", "*/*")]))
    while (response := connection.response()) is None:
        connection.receive(await stream.receive_some(receive_bytes))
    return response
