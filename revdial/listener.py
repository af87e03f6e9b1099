"""The edge's door for agents: who may come in, and which tunnel a connection belongs to.

An agent opens `/v1/control` and says hello; that is its tunnel. Asked to dial, it opens
`/v1/data/<id>`. Both carry its bearer token, which is checked before the upgrade, so that whoever
has none costs a TLS handshake and one small answer, and only so many at a time.
"""

from __future__ import annotations

import hashlib
import itertools
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from types import MappingProxyType

import structlog
import trio
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from revdial.admission import HelloRefused, agent_header, answers, bearer_of, check_hello, noise
from revdial.errors import BadMessage, TunnelClosed, printable, where
from revdial.limits import ListenerLimits
from revdial.messages import CloseCode, Hello, decode_from_agent
from revdial.networks import network_of
from revdial.observer import Counters, Refusal, TunnelObserver
from revdial.pending import Pending, PendingTable
from revdial.proxies import TrustedProxies
from revdial.proxy_protocol import HeaderRefused
from revdial.transport import Transport
from revdial.tunnel import AgentTunnel
from revdial.websocket import (
    TunnelWebSocket,
    address_text,
    control_path,
    data_path,
    library_log,
    message_limit,
    tune,
    upgrade_as_server,
    why_closed,
)


@dataclass(slots=True, eq=False)
class _Visitor:
    """What is known of one connection while it is let in."""

    address: str
    network: str = ""
    """What limits per address count it under."""
    agent_id: str = ""
    bearer_digest: bytes = field(default=b"", repr=False)
    tunnel: AgentTunnel | None = None
    claim: Pending[TunnelWebSocket] | None = None
    refused: bool = False


class TunnelListener:
    """Accepts agents. `authenticate` maps a token to the agent id it is for, or None.

    `on_agent` runs for as long as a tunnel lives, and is cancelled when it ends; when it returns,
    the tunnel is closed. A newer tunnel of an agent ends the older one, whose `on_agent` may still
    be cleaning up when the newer one's begins: compare `AgentTunnel.serial`.
    """

    def __init__(
        self,
        *,
        authenticate: Callable[[str], Awaitable[str | None]],
        on_agent: Callable[[AgentTunnel], Awaitable[None]],
        observer: TunnelObserver | None = None,
        limits: ListenerLimits | None = None,
        proxies: TrustedProxies | None = None,
    ) -> None:
        self._authenticate = authenticate
        self._on_agent = on_agent
        self._observer = observer or Counters()
        self._limits = limits or ListenerLimits()
        self._proxies = proxies or TrustedProxies()
        self._told: set[Refusal] = set()
        """Faults of proxies that are in the log already."""
        self._tunnels: dict[str, AgentTunnel] = {}
        # By the hash of the token that each living tunnel has proven.
        self._proven: dict[bytes, AgentTunnel] = {}
        self._dials: PendingTable[TunnelWebSocket] = PendingTable()
        self._serials = itertools.count(1)
        self._homes: Counter[str] = Counter()
        """How many live tunnels came from each network; looked up at every connection."""
        self._waiting: set[_Visitor] = set()
        self._log = structlog.get_logger()
        self._library_log = library_log()

    @property
    def tunnels(self) -> Mapping[str, AgentTunnel]:
        """The live tunnels, by agent id."""
        return MappingProxyType(self._tunnels)

    @property
    def waiting(self) -> int:
        """How many connections have not been let in yet."""
        return len(self._waiting)

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        ssl_context: ssl.SSLContext | None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept agents until cancelled. Without `ssl_context`, only behind something with TLS."""
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(
                    trio.serve_listeners,
                    partial(self._accept, ssl_context),
                    listeners,
                    handler_nursery=nursery,
                )
            )
            task_status.started()

    async def _accept(self, ssl_context: ssl.SSLContext | None, stream: trio.SocketStream) -> None:
        """Serve one connection; whatever happens to it stays here."""
        visitor = _Visitor(_address_of(stream), _network_of_peer(stream))
        close = stream.socket.close
        try:
            await self._hear_proxy(visitor, stream)
            if visitor.refused:
                return
            transport = Transport.of(stream)
            close = transport.close
            if not self._has_room_for(visitor):
                self._refuse(visitor, Refusal.TOO_MANY_WAITING)
                return
            self._waiting.add(visitor)
            tune(
                transport.socket,
                user_timeout_ms=self._limits.tcp_user_timeout_ms,
                unsent_limit_bytes=self._limits.tcp_unsent_limit_bytes,
            )
            await self._serve_connection(visitor, transport, ssl_context)
        except Exception as error:
            self._log.error(
                "agent_connection_failed", error=where(error), agent_address=visitor.address
            )
        finally:
            self._waiting.discard(visitor)
            if visitor.claim is not None:
                # Does nothing where it was delivered.
                visitor.claim.fail(TunnelClosed("data_connection_lost"))
            close()

    async def _hear_proxy(self, visitor: _Visitor, stream: trio.SocketStream) -> None:
        """Let a trusted proxy say whose connection this is, before anything else comes on it."""
        if not self._proxies.speak_for_others(_ip_of(stream)):
            return
        if len(self._waiting) >= self._limits.max_waiting:
            self._refuse(visitor, Refusal.TOO_MANY_WAITING)
            return
        # Until it has said so, only the bound on all holds.
        nameless = _Visitor(visitor.address)
        self._waiting.add(nameless)
        try:
            announced = await self._proxies.read_header(stream)
        except HeaderRefused as error:
            self._refuse_header(visitor, error)
            return
        finally:
            self._waiting.discard(nameless)
        if announced is None:
            visitor.refused = True
        elif (route := announced.route) is not None:
            visitor.address = address_text((route.source, route.source_port))
            visitor.network = network_of(route.source)

    def _refuse_header(self, visitor: _Visitor, error: HeaderRefused) -> None:
        refusal = Refusal(error.reason)
        self._refuse(visitor, refusal)
        if refusal not in self._told:
            # Once: it goes on until somebody sets one of both right.
            self._told.add(refusal)
            self._log.warning(
                "proxy_header_refused",
                proxy_address=visitor.address,
                reason=refusal.value,
                why=error.message,
            )

    def _has_room_for(self, visitor: _Visitor) -> bool:
        """Tell whether one more may wait; whoever holds places must not shut agents out."""
        limits = self._limits
        same = sum(waiting.network == visitor.network for waiting in self._waiting)
        if visitor.network in self._homes:
            return same < limits.max_waiting_per_address + limits.max_data_connections
        return same < limits.max_waiting_per_address and len(self._waiting) < limits.max_waiting

    async def _serve_connection(
        self, visitor: _Visitor, transport: Transport, ssl_context: ssl.SSLContext | None
    ) -> None:
        websocket = await self._let_in(visitor, transport, ssl_context)
        if websocket is None:
            return
        limits = self._limits
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket.keep_alive, limits.ping_interval_s, limits.ping_timeout_s)
            try:
                if visitor.claim is not None and visitor.tunnel is not None:
                    self._waiting.discard(visitor)
                    await visitor.tunnel.hold(websocket, visitor.claim)
                else:
                    await self._serve_agent(visitor, websocket)
            finally:
                await websocket.abort()
            nursery.cancel_scope.cancel()

    async def _let_in(
        self, visitor: _Visitor, transport: Transport, ssl_context: ssl.SSLContext | None
    ) -> TunnelWebSocket | None:
        """TLS, the request and the answer, within one deadline; None where it was refused."""
        with trio.move_on_after(self._limits.handshake_timeout_s) as scope:
            if ssl_context is not None:
                try:
                    await transport.start_tls(ssl_context, server_side=True)
                except trio.BrokenResourceError:
                    self._refuse(visitor, Refusal.TLS_FAILED)
                    return None
            protocol = ServerProtocol(
                max_size=message_limit(control_path), logger=self._library_log
            )
            check = partial(self._check, visitor)
            websocket = await upgrade_as_server(transport, protocol, check)
            if websocket is None and not visitor.refused:
                self._refuse(visitor, Refusal.NOT_WEBSOCKET)
            return websocket
        if scope.cancelled_caught:
            self._refuse(visitor, Refusal.HANDSHAKE_TIMEOUT)
        return None

    async def _check(
        self, visitor: _Visitor, protocol: ServerProtocol, request: Request
    ) -> Response | None:
        """Whether this request may become a WebSocket; called before the upgrade."""
        bearer = bearer_of(request.headers)
        if bearer is None:
            return self._deny(visitor, protocol, Refusal.NO_TOKEN)
        visitor.bearer_digest = hashlib.sha256(bearer.encode()).digest()
        path = request.path.partition("?")[0]
        try:
            agent_id = await self._authenticate(bearer)
        except Exception as error:
            # A living tunnel's streams go on with the token that it has proven before.
            proven = self._proven.get(visitor.bearer_digest) if path != control_path else None
            if proven is None:
                self._log.error("agent_authentication_unavailable", error=where(error))
                return self._deny(visitor, protocol, Refusal.AUTHENTICATION_UNAVAILABLE)
            agent_id = proven.agent_id
        if agent_id is None:
            return self._deny(visitor, protocol, Refusal.BAD_TOKEN)
        visitor.agent_id = agent_id
        if path == control_path:
            return None
        if not path.startswith(data_path):
            return self._deny(visitor, protocol, Refusal.UNKNOWN_PATH)
        dial_id = path[len(data_path) :]
        visitor.tunnel = self._tunnels.get(agent_id)
        if visitor.tunnel is not None:
            visitor.claim = self._dials.claim(dial_id, visitor.tunnel.serial)
        if visitor.claim is None:
            foreign = dial_id in self._dials
            refusal = Refusal.DATA_ID_FOREIGN if foreign else Refusal.DATA_ID_UNKNOWN
            return self._deny(visitor, protocol, refusal)
        protocol.max_message_size = message_limit(path)
        return None

    def _deny(self, visitor: _Visitor, protocol: ServerProtocol, refusal: Refusal) -> Response:
        self._refuse(visitor, refusal)
        status, text = answers[refusal]
        response = protocol.reject(status, f"{text}\n")
        if status == HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = "Bearer"
        if refusal is Refusal.UNKNOWN_PATH and visitor.agent_id is not None:
            response.headers[agent_header] = visitor.agent_id
        return response

    def _refuse(self, visitor: _Visitor, refusal: Refusal) -> None:
        visitor.refused = True
        self._observer.refused(refusal)
        # Anybody can make noise; only who got as far as a token is worth a line by default.
        log = self._log.debug if refusal in noise else self._log.info
        log(
            "agent_connection_refused",
            reason=refusal.value,
            agent_address=visitor.address,
            agent=printable(visitor.agent_id),
        )

    async def _serve_agent(self, visitor: _Visitor, websocket: TunnelWebSocket) -> None:
        try:
            hello = await self._hello(visitor, websocket)
        except HelloRefused as refused:
            self._refuse(visitor, refused.refusal)
            await websocket.close_politely(refused.code, refused.text)
            return
        self._waiting.discard(visitor)
        tunnel = AgentTunnel(
            websocket, hello, next(self._serials), self._dials, self._limits, self._observer
        )
        tunnel.remote_address = visitor.address
        older = self._tunnels.get(tunnel.agent_id)
        self._tunnels[tunnel.agent_id] = tunnel
        self._proven[visitor.bearer_digest] = tunnel
        self._homes[visitor.network] += 1
        if older is not None:
            older.close(CloseCode.REPLACED, "replaced")
        log = self._log.bind(agent=printable(tunnel.agent_id), tunnel=tunnel.serial)
        log.info(
            "tunnel_up",
            region=printable(hello.region),
            agent_address=visitor.address,
            hosts=len(hello.hosts),
        )
        self._observer.tunnel_up(tunnel.agent_id)
        try:
            await tunnel.run(self._on_agent)
        finally:
            self._homes[visitor.network] -= 1
            if not self._homes[visitor.network]:
                del self._homes[visitor.network]
            if self._tunnels.get(tunnel.agent_id) is tunnel:
                del self._tunnels[tunnel.agent_id]
            if self._proven.get(visitor.bearer_digest) is tunnel:
                del self._proven[visitor.bearer_digest]
            log.info(
                "tunnel_down",
                reason=tunnel.reason,
                warm_dials=tunnel.warm_dials,
                cold_dials=tunnel.cold_dials,
            )
            self._observer.tunnel_down(tunnel.agent_id, tunnel.reason)

    async def _hello(self, visitor: _Visitor, websocket: TunnelWebSocket) -> Hello:
        """The agent's first message, which must say who its token says it is."""
        try:
            with trio.fail_after(self._limits.hello_timeout_s):
                message = decode_from_agent(await websocket.recv())
        except trio.TooSlowError:
            raise HelloRefused(
                Refusal.HELLO_TIMEOUT, CloseCode.HELLO_TIMEOUT, "no hello in time"
            ) from None
        except ConnectionClosed:
            refusal = Refusal.HELLO_MISSING
            if why_closed(websocket) == "message_too_large":
                refusal = Refusal.MESSAGE_TOO_LARGE
            raise HelloRefused(refusal, CloseCode.PROTOCOL_ERROR, "closed before hello") from None
        except BadMessage as error:
            raise HelloRefused(
                Refusal.BAD_MESSAGE, CloseCode.PROTOCOL_ERROR, error.message
            ) from None
        return check_hello(message, visitor.agent_id)


def _network_of_peer(stream: trio.SocketStream) -> str:
    ip = _ip_of(stream)
    return network_of(ip) if ip else ""


def _ip_of(stream: trio.SocketStream) -> str:
    with suppress(OSError):
        return str(stream.socket.getpeername()[0])
    return ""


def _address_of(stream: trio.SocketStream) -> str:
    with suppress(OSError):
        return address_text(stream.socket.getpeername())
    return ""
