"""Wolf's own API, on a Unix socket beside it: pending pairings, PINs, apps and sessions.

What it answers is untrusted: bounded, decoded into types, and cleaned where it is text.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import trio

from agent.errors import HostApiError
from revdial.errors import printable
from revdial.messages import AppOffer

_T = TypeVar("_T")
_Address = IPv4Address | IPv6Address

max_pending = 256
max_apps = 512
max_title_characters = 128
_MAX_APP_ID = 2**31 - 1
_PIN = re.compile(r"[0-9]{4,16}")


@dataclass(frozen=True, slots=True)
class PendingPairing:
    """A pairing that waits for its PIN; `secret` is how the host names it."""

    secret: str = field(repr=False)
    address: _Address


class _PendingEntry(msgspec.Struct):
    pair_secret: str
    client_ip: str | None = None
    # Some builds of Wolf give the client's address under this name.
    pin: str | None = None


class _Pending(msgspec.Struct):
    requests: list[_PendingEntry]


class _AppEntry(msgspec.Struct):
    title: str
    id: str | int
    support_hdr: bool = False


class _Apps(msgspec.Struct):
    apps: list[_AppEntry]


class _Sessions(msgspec.Struct):
    sessions: list[dict[str, Any]]


class _Outcome(msgspec.Struct):
    success: bool


class WolfApi:
    """One Wolf's API; made by ``async with WolfApi.open(socket_path)``."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        socket_path: Path,
        timeout_s: float,
        max_answer_bytes: int,
    ) -> None:
        self._client = client
        self._socket_path = socket_path
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes

    @classmethod
    @asynccontextmanager
    async def open(
        cls, socket_path: Path, *, timeout_s: float = 3.0, max_answer_bytes: int = 1 << 20
    ) -> AsyncIterator[WolfApi]:
        """Give the API behind `socket_path`, which need not be there yet."""
        transport = httpx.AsyncHTTPTransport(
            uds=str(socket_path),
            # Never used on a Unix socket; without it httpx loads all root certificates.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            # Wolf closes connections without a word.
            limits=httpx.Limits(max_connections=8, max_keepalive_connections=0),
        )
        async with httpx.AsyncClient(
            transport=transport, base_url="http://wolf/api/v1", timeout=timeout_s, trust_env=False
        ) as client:
            yield cls(client, socket_path, timeout_s, max_answer_bytes)

    async def pending_pairings(self) -> tuple[PendingPairing, ...]:
        """Give the pairings that wait for a PIN."""
        answer = await self._ask("GET", "/pair/pending", _Pending)
        pending = []
        for entry in answer.requests[:max_pending]:
            address = parse_address(entry.client_ip or entry.pin or "")
            if address is not None:
                pending.append(PendingPairing(entry.pair_secret, address))
        return tuple(pending)

    async def confirm(self, pairing: PendingPairing, pin: str) -> bool:
        """Tell the host the PIN of a pairing; False where it is not pending any more."""
        if not _PIN.fullmatch(pin):
            raise HostApiError("bad_pin", "a PIN is 4 to 16 digits")
        content = msgspec.json.encode({"pair_secret": pairing.secret, "pin": pin})
        return (await self._ask("POST", "/pair/client", _Outcome, content)).success

    async def apps(self) -> tuple[AppOffer, ...]:
        """Give the host's apps; those with an id that no client could ask for are left out."""
        answer = await self._ask("GET", "/apps", _Apps)
        offers = (_offer(entry) for entry in answer.apps[:max_apps])
        return tuple(offer for offer in offers if offer is not None)

    async def session_count(self) -> int:
        """Tell how many sessions the host has, paused ones included."""
        return len((await self._ask("GET", "/sessions", _Sessions)).sessions)

    async def _ask(self, method: str, path: str, kind: type[_T], content: bytes = b"") -> _T:
        try:
            with trio.fail_after(self._timeout_s):
                body = await self._exchange(method, path, content)
            return msgspec.json.decode(body, type=kind)
        except (httpx.TimeoutException, trio.TooSlowError):
            raise HostApiError(
                "host_api_timeout", f"the host's API did not answer within {self._timeout_s:g} s"
            ) from None
        except httpx.TransportError as error:
            raise HostApiError(
                "host_api_unreachable",
                f"the host's API cannot be reached at {self._socket_path}: {_first_words(error)}",
            ) from error
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            # The library's text may quote the answer, secrets included.
            raise HostApiError(
                "host_api_nonsense", f"the host's API answered {path} with something else"
            ) from None

    async def _exchange(self, method: str, path: str, content: bytes) -> bytes:
        headers = {"Accept-Encoding": "identity", "Connection": "close"}
        if content:
            headers["Content-Type"] = "application/json"
        async with self._client.stream(method, path, content=content, headers=headers) as answer:
            body = await self._read(answer)
        # A refused PIN comes with a 500 and says so in its body.
        if answer.status_code != httpx.codes.OK and path != "/pair/client":
            raise HostApiError(
                "host_api_refused", f"the host's API answered {path} with {answer.status_code}"
            )
        return body

    async def _read(self, answer: httpx.Response) -> bytes:
        body = bytearray()
        try:
            # Undecoded: a few bytes of compressed answer could otherwise fill the memory.
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > self._max_answer_bytes:
                    # And read on until that is noticed: httpx's generators nest, and one that is
                    # left in the middle is never cleaned up.
                    await answer.aclose()
        except httpx.TransportError:
            if len(body) <= self._max_answer_bytes:
                raise
        if len(body) > self._max_answer_bytes:
            raise HostApiError(
                "host_api_too_large",
                f"the host's API answered more than {self._max_answer_bytes} bytes",
            )
        return bytes(body)


async def confirm_pin_from(
    api: WolfApi, address: _Address, pin: str, *, timeout_s: float, poll_interval_s: float = 0.1
) -> None:
    """Wait for a pairing from `address`, and tell the host its PIN.

    Every pairing pending from there gets the PIN, since one that was given up by its client may
    still be listed beside the one that is meant.
    """
    others: set[_Address] = set()
    try:
        with trio.fail_after(timeout_s):
            while True:
                waiting = await api.pending_pairings()
                others = {pairing.address for pairing in waiting} - {address}
                pending = [pairing for pairing in waiting if pairing.address == address]
                outcomes = [await api.confirm(pairing, pin) for pairing in pending]
                if any(outcomes):
                    return
                await trio.sleep(poll_interval_s)
    except trio.TooSlowError:
        raise HostApiError(
            "no_pending_pairing",
            f"no pairing from {address} was waiting at the host within {timeout_s:g} s"
            + _seen_otherwise(others),
        ) from None


def _seen_otherwise(others: set[_Address]) -> str:
    if not others:
        return ""
    return (
        f", but one from {min(map(str, others))}: if that is how this host sees the agent, set "
        'source_addresses = "never" and seen_as for it'
    )


def parse_address(text: str) -> _Address | None:
    """Read an IP address as hosts write it, IPv4 in IPv6 clothes included; None for anything else.

    >>> parse_address("::ffff:127.64.0.1")
    IPv4Address('127.64.0.1')
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _offer(entry: _AppEntry) -> AppOffer | None:
    text = str(entry.id)
    title = printable(entry.title, max_title_characters).strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_APP_ID))):
        return None
    number = int(text)
    if not (1 <= number <= _MAX_APP_ID and title):
        return None
    return AppOffer(title, number, entry.support_hdr)


def _first_words(error: Exception) -> str:
    cause = error.__cause__
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None and cause.strerror:
        return cause.strerror
    return printable(str(error)) or type(error).__name__
