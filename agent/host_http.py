"""One request to a host over HTTP or HTTPS, all of it bounded; known by its certificate's hash.

The certificate is looked at after the handshake and before the first byte of the request, so that
a password never goes to anybody else.
"""

from __future__ import annotations

import contextlib
import hmac
import uuid
from dataclasses import dataclass, field
from typing import Final

import trio

from agent.errors import HostApiError
from moonlight.errors import ProtocolError, TooLarge
from moonlight.http import HttpClient, HttpResponse, Query
from moonlight.identity import Identity, client_id
from moonlight.tls import client_context, peer_certificate
from moonlight.xml import Answer
from revdial.errors import printable

max_answer_bytes: Final = 1 << 20
_RECEIVE_BYTES: Final = 65_536
_nothing: Final = Query()
_UNIQUE_ID: Final = "0123456789ABCDEF"  # what all Moonlights say


@dataclass(frozen=True, slots=True)
class Place:
    """A port of a host. Without `fingerprint` (lower-case hex) it is asked over plain HTTP."""

    address: str
    port: int
    called: str
    """What an operator reads in errors, as in "Sunshine's API"."""
    fingerprint: str | None = None
    identity: Identity | None = None
    """Whose certificate we show there."""


@dataclass(frozen=True, slots=True)
class HostRequest:
    """What to ask; target, headers and body may hold secrets and are in no repr."""

    method: str
    target: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)


async def ask(place: Place, request: HostRequest, *, timeout_s: float) -> HttpResponse:
    """Ask on a connection of its own, and give the answer whatever its status.

    Raises `HostApiError`: ``host_api_timeout``, ``host_api_unreachable``, ``host_api_nonsense``,
    ``host_api_too_large`` or ``host_api_wrong_certificate``.
    """
    try:
        with trio.fail_after(timeout_s):
            stream = await _connect(place)
            try:
                return await _exchange(stream, request)
            finally:
                await trio.aclose_forcefully(stream)
    except trio.TooSlowError:
        raise HostApiError(
            "host_api_timeout", f"{place.called} did not answer within {timeout_s:g} s"
        ) from None
    except TooLarge:
        raise HostApiError(
            "host_api_too_large", f"{place.called} answered more than {max_answer_bytes} bytes"
        ) from None
    except ProtocolError as error:
        raise HostApiError(
            "host_api_nonsense", f"{place.called} gave no valid answer: {error}"
        ) from None
    except (OSError, trio.BrokenResourceError) as error:
        # OSError is what `ssl.SSLError` is as well.
        why = _why(error)
        raise HostApiError(
            "host_api_unreachable", f"{place.called} cannot be reached at port {place.port}: {why}"
        ) from error


async def ask_xml(place: Place, path: str, query: Query = _nothing, *, timeout_s: float) -> Answer:
    """Ask as Moonlight does, for the XML that GameStream answers are: as `ask`."""
    asked = Query.of(("uniqueid", _UNIQUE_ID), ("uuid", uuid.uuid4().hex)) + query
    request = HostRequest("GET", f"{path}?{asked.encode()}")
    response = await ask(place, request, timeout_s=timeout_s)
    try:
        return Answer.parse(response.body)
    except ProtocolError as error:
        raise nonsense(place, path, error) from None


def nonsense(place: Place, path: str, error: ProtocolError) -> HostApiError:
    """Return the error of an answer that cannot be understood."""
    return HostApiError(
        "host_api_nonsense", f"{place.called} gave no valid answer to {path}: {error}"
    )


def _why(error: BaseException) -> str:
    """Say why a connection failed; trio puts what each address said into a group."""
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    told = cause.strerror if isinstance(cause, OSError) else None
    return printable(told or str(cause)) or type(error).__name__


async def _connect(place: Place) -> trio.abc.Stream:
    plain = await trio.open_tcp_stream(place.address, place.port)
    if place.fingerprint is None:
        return plain
    tls = client_context(place.identity, pinned_der=None)
    stream = trio.SSLStream(plain, tls, https_compatible=True)
    try:
        await stream.do_handshake()
        _check(peer_certificate(stream), place, place.fingerprint)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _check(shown: bytes | None, place: Place, fingerprint: str) -> None:
    found = client_id(shown or b"")
    if not hmac.compare_digest(found, fingerprint):
        raise HostApiError(
            "host_api_wrong_certificate",
            f"{place.called} shows another certificate than api_certificate says: its SHA-256 "
            f"fingerprint is {found}. Compare that with the file at the host before you believe it",
        )


async def _exchange(stream: trio.abc.Stream, request: HostRequest) -> HttpResponse:
    connection = HttpClient(max_response_bytes=max_answer_bytes)
    headers = [("Host", "host"), ("Accept", "*/*"), ("Connection", "close"), *request.headers]
    written = connection.request(request.method, request.target, headers, request.body)
    # A host that turns somebody away may answer and close before it has read anything.
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(written)
    while (response := connection.response()) is None:
        connection.receive(await stream.receive_some(_RECEIVE_BYTES))
    return response
