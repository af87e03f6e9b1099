"""What the light client asks a host over HTTP and HTTPS: pairing, apps, launch and cancel."""

from __future__ import annotations

import socket
import ssl
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import trio

from moonlight.applist import App, parse_applist
from moonlight.http import HttpClient, Query
from moonlight.identity import Identity, PeerCertificate
from moonlight.launch import RtspUrl, session_url
from moonlight.pairing import PairingClient
from moonlight.serverinfo import ServerInfo
from moonlight.tls import client_context
from moonlight.xml import Answer
from simulator.light_errors import ClientFailed, failing_at, first_failure

UNIQUE_ID: Final = "0123456789ABCDEF"
"""What nearly all clients say, so that it identifies nobody."""
CONNECT_TIMEOUT_S: Final = 10.0
REQUEST_TIMEOUT_S: Final = 10.0
LAUNCH_TIMEOUT_S: Final = 120.0
RESUME_TIMEOUT_S: Final = 30.0
CANCEL_TIMEOUT_S: Final = 30.0
PAIRING_TIMEOUT_S: Final = 60.0
_RECEIVE_BYTES: Final = 65_536

ConfirmPin: TypeAlias = Callable[[str], Awaitable[None]]
"""Brings a PIN to the host while the client waits there; may raise whatever ends the pairing."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a host or an edge is, and from which of one's own addresses to come to it."""

    address: str
    """An IP address."""
    http_port: int
    source: str | None = None
    """None leaves it to the kernel. Clients with the same one are as if behind one router."""

    @property
    def family(self) -> socket.AddressFamily:
        """IPv4 or IPv6."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


async def connect(target: Target, port: int, *, max_segment_bytes: int = 0) -> trio.SocketStream:
    """Open a TCP connection; `max_segment_bytes` makes what is sent on it arrive in pieces.

    Raises OSError, also where it takes too long.
    """
    sock = trio.socket.socket(target.family, socket.SOCK_STREAM)
    try:
        if max_segment_bytes:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, max_segment_bytes)
        if target.source is not None:
            await sock.bind((target.source, 0))
        with trio.fail_after(CONNECT_TIMEOUT_S):
            await sock.connect((target.address, port))
    except trio.TooSlowError:
        sock.close()
        raise TimeoutError("no connection in time") from None
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


@dataclass(frozen=True, slots=True)
class LaunchWish:
    """What a launch asks for. The key is the session's."""

    app_id: int
    mode: str
    rikey: bytes = field(repr=False)
    rikeyid: int
    corever: int = 1
    """From 1 on a host may ask for encrypted RTSP."""

    def query(self) -> Query:
        """Write the fields in Moonlight's order."""
        return Query.of(
            ("appid", str(self.app_id)),
            ("mode", self.mode),
            ("additionalStates", "1"),
            ("sops", "1"),
            ("rikey", self.rikey.hex()),
            ("rikeyid", str(self.rikeyid)),
            ("localAudioPlayMode", "0"),
            ("surroundAudioInfo", "196610"),
            ("remoteControllersBitmap", "0"),
            ("gcmap", "0"),
            ("corever", str(self.corever)),
        )


class LightHttp:
    """One client's requests to one host, each on a connection of its own.

    Every method raises `ClientFailed`.
    """

    def __init__(self, target: Target, identity: Identity) -> None:
        self._target = target
        self._identity = identity
        self._https_port: int | None = None
        self._server: PeerCertificate | None = None
        self._pinned: ssl.SSLContext | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports of HTTPS (once the host has told it) and HTTP."""
        known = () if self._https_port is None else (self._https_port,)
        return (*known, self._target.http_port)

    async def pair(self, pin: str, confirm: ConfirmPin) -> None:
        """Pair with the host, which `confirm` tells the PIN while it holds its answer back."""
        with failing_at("serverinfo", timeout_s=REQUEST_TIMEOUT_S):
            info = ServerInfo.parse(await self._plain("/serverinfo", Query()))
        self._https_port = info.https_port
        pairing = PairingClient(self._identity, pin)
        with first_failure():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(confirm, pin)
                await self._pair(pairing)

    async def _pair(self, pairing: PairingClient) -> None:
        try:
            with failing_at("pairing", timeout_s=PAIRING_TIMEOUT_S):
                while not pairing.finished:
                    secure = pairing.over_https
                    if secure:
                        self._server = pairing.server_certificate
                    ask = self._secure if secure else self._plain
                    pairing.receive(await ask("/pair", pairing.next_query()))
        except ClientFailed:
            await self._unpair()
            raise

    async def _unpair(self) -> None:
        """Tell a host that a pairing has failed, as clients do; some hosts do not answer that."""
        with suppress(ClientFailed), failing_at("unpair", timeout_s=REQUEST_TIMEOUT_S):
            await self._plain("/unpair", Query())

    async def serverinfo(self) -> ServerInfo:
        """Read what the host tells a paired client."""
        with failing_at("serverinfo", timeout_s=REQUEST_TIMEOUT_S):
            return ServerInfo.parse(await self._secure("/serverinfo", Query()))

    async def apps(self) -> tuple[App, ...]:
        """Read the list of apps."""
        with failing_at("applist", timeout_s=REQUEST_TIMEOUT_S):
            return parse_applist(await self._secure("/applist", Query()))

    async def launch(self, wish: LaunchWish, *, resume: bool = False) -> RtspUrl:
        """Launch an app, or go on with the one that runs; give the URL of its RTSP."""
        step = "resume" if resume else "launch"
        with failing_at(step, timeout_s=RESUME_TIMEOUT_S if resume else LAUNCH_TIMEOUT_S):
            return session_url(await self._secure(f"/{step}", wish.query()))

    async def cancel(self) -> None:
        """End the app that runs for this client, if one does."""
        with failing_at("cancel", timeout_s=CANCEL_TIMEOUT_S):
            (await self._secure("/cancel", Query())).checked()

    async def _plain(self, path: str, query: Query) -> Answer:
        return await _exchange(await self._connect(self._target.http_port), path, query)

    async def _secure(self, path: str, query: Query) -> Answer:
        if self._https_port is None or self._server is None:
            raise ClientFailed("not_paired", "The client is not paired with this host.")
        if self._pinned is None:
            self._pinned = client_context(self._identity, pinned_der=self._server.der)
        stream = await self._connect(self._https_port)
        return await _exchange(
            trio.SSLStream(stream, self._pinned, https_compatible=True), path, query
        )

    async def _connect(self, port: int) -> trio.SocketStream:
        return await connect(self._target, port)


async def _exchange(stream: trio.abc.Stream, path: str, query: Query) -> Answer:
    """Send one request and read its answer; whatever a host sends behind it is not looked at."""
    common = Query.of(("uniqueid", UNIQUE_ID), ("uuid", str(uuid.uuid4())))
    protocol = HttpClient()
    target = f"{path}?{(common + query).encode()}"
    try:
        await stream.send_all(
            protocol.request("GET", target, [("Host", "host"), ("Accept", "*/*")])
        )
        while (response := protocol.response()) is None:
            protocol.receive(await stream.receive_some(_RECEIVE_BYTES))
    finally:
        await trio.aclose_forcefully(stream)
    return Answer.parse(response.body)
