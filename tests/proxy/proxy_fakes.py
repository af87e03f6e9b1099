"""What the edge is tested with: sessions, a store in memory, agents and hosts by script."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

import structlog
import trio
import trio.testing

from backends.apps import app_id, normalise_title
from backends.errors import StoreError
from backends.model import BackendId
from backends.records import (
    AgentRecord,
    ApiTokenRecord,
    ClientRecord,
    DrainRecord,
    IdentityRecord,
    PairingRecord,
    SessionRecord,
    SigningKeyRecord,
    StickyRecord,
)
from backends.registry import Registry, Reservation
from moonlight.http import HttpRequest, HttpServer, Query
from moonlight.identity import ClientId, Identity
from moonlight.launch import RtspUrl
from proxy.config import ProxyConfig
from proxy.fleet import Fleet
from proxy.host_pairing import HostPairing
from proxy.play import Play
from proxy.session_keeper import SessionKeeper
from proxy.sessions import Session, SessionId, SessionState, StreamKey
from proxy.waker import Waker
from revdial.messages import AppOffer, Heartbeat, Hello, HostOffer
from revdial.tunnel import AgentTunnel

NOW = datetime(2026, 11, 23, tzinfo=UTC)
BACKEND = BackendId("agent-1/wolf")
RIKEY = "000102030405060708090a0b0c0d0e0f"

log = structlog.get_logger()


@cache
def identity(name: str) -> Identity:
    return Identity.generate(name, now=NOW)


def session(
    name: str = "s1",
    *,
    client: str = "",
    address: str = "192.0.2.1",
    label: str = "",
    port: int = 48010,
    state: SessionState = SessionState.LAUNCHED,
    since: float = 0.0,
    backend: BackendId = BACKEND,
    host_rtsp: str = "rtsp://203.0.113.9:48010",
    corever: int = 1,
    rikey: str = RIKEY,
    rtsp_encrypted: bool = False,
) -> Session:
    return Session(
        id=SessionId(name),
        client=ClientId(client or f"client-of-{name}"),
        client_address=address,
        backend=backend,
        app_id=7,
        app_title="Desktop",
        mode="1920x1080x60",
        key=StreamKey(bytes.fromhex(rikey), 1),
        corever=corever,
        rtsp_encrypted=rtsp_encrypted,
        label=label or f"label-of-{name}",
        rtsp_port=port,
        host_rtsp=RtspUrl.parse(host_rtsp),
        state=state,
        since=since,
        reservation=Reservation(backend),
    )


def launch_query(app: int = 7, **others: str) -> Query:
    values = {
        "uniqueid": "0123456789ABCDEF",
        "uuid": "u",
        "appid": str(app),
        "mode": "1920x1080x60",
        "rikey": RIKEY,
        "rikeyid": "1",
    }
    return Query.of(*{**values, **others}.items())


class FakeStore:
    """A store in memory. While `away`, or for a method named in `failing`, nothing works."""

    def __init__(self) -> None:
        self.away = False
        self.failing: set[str] = set()
        self.edge_identity: IdentityRecord | None = None
        self.clients: dict[str, ClientRecord] = {}
        self.identities: dict[str, IdentityRecord] = {}
        self.pairings: dict[tuple[str, str], PairingRecord] = {}
        self.app_ids: dict[str, int] = {}
        self.sticky: dict[str, StickyRecord] = {}
        self.sessions: dict[str, SessionRecord] = {}
        self.tokens: dict[bytes, str] = {}
        self.api_tokens: dict[str, ApiTokenRecord] = {}
        self.signing_keys: dict[str, SigningKeyRecord] = {}
        self.drains: dict[str, DrainRecord] = {}

    async def _enter(self, method: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.away or method in self.failing:
            raise StoreError("away", "The store cannot be reached.")

    def _must_exist(self, client_id: str) -> None:
        if client_id not in self.clients:
            raise StoreError("damaged", "There is no such client.")

    def know(self, certificate_der: bytes, client_id: str) -> ClientId:
        """Enter a paired client."""
        self.clients[client_id] = ClientRecord(client_id, "", certificate_der, NOW)
        return ClientId(client_id)

    async def get_edge_identity(self) -> IdentityRecord | None:
        await self._enter("get_edge_identity")
        return self.edge_identity

    async def add_edge_identity(self, identity: IdentityRecord) -> IdentityRecord:
        await self._enter("add_edge_identity")
        self.edge_identity = self.edge_identity or identity
        return self.edge_identity

    async def put_client(self, client: ClientRecord) -> None:
        await self._enter("put_client")
        self.clients[client.id] = client

    async def get_client(self, client_id: str) -> ClientRecord | None:
        await self._enter("get_client")
        return self.clients.get(client_id)

    async def list_clients(self) -> tuple[ClientRecord, ...]:
        await self._enter("list_clients")
        return tuple(self.clients.values())

    async def delete_client(self, client_id: str) -> bool:
        await self._enter("delete_client")
        self.identities.pop(client_id, None)
        self.sticky.pop(client_id, None)
        for key in [key for key in self.pairings if key[0] == client_id]:
            del self.pairings[key]
        return self.clients.pop(client_id, None) is not None

    async def set_client_user(self, client_id: str, user: str | None) -> bool:
        await self._enter("set_client_user")
        if client_id not in self.clients:
            return False
        self.clients[client_id] = replace(self.clients[client_id], user=user)
        return True

    async def set_client_name(self, client_id: str, name: str) -> bool:
        await self._enter("set_client_name")
        if client_id not in self.clients:
            return False
        self.clients[client_id] = replace(self.clients[client_id], name=name)
        return True

    async def get_host_identity(self, client_id: str) -> IdentityRecord | None:
        await self._enter("get_host_identity")
        return self.identities.get(client_id)

    async def add_host_identity(self, client_id: str, identity: IdentityRecord) -> IdentityRecord:
        await self._enter("add_host_identity")
        self._must_exist(client_id)
        return self.identities.setdefault(client_id, identity)

    async def put_pairing(self, pairing: PairingRecord) -> None:
        await self._enter("put_pairing")
        self._must_exist(pairing.client_id)
        self.pairings[pairing.client_id, pairing.backend_id] = pairing

    async def get_pairing(self, client_id: str, backend_id: BackendId) -> PairingRecord | None:
        await self._enter("get_pairing")
        return self.pairings.get((client_id, backend_id))

    async def delete_pairing(self, client_id: str, backend_id: BackendId) -> bool:
        await self._enter("delete_pairing")
        return self.pairings.pop((client_id, backend_id), None) is not None

    async def app_ids_for(self, titles: Iterable[str]) -> dict[str, int]:
        await self._enter("app_ids_for")
        for title in titles:
            self.app_ids.setdefault(normalise_title(title), app_id(title))
        return dict(self.app_ids)

    async def put_sticky(self, sticky: StickyRecord) -> None:
        await self._enter("put_sticky")
        self._must_exist(sticky.client_id)
        self.sticky[sticky.client_id] = sticky

    async def get_sticky(self, client_id: str) -> StickyRecord | None:
        await self._enter("get_sticky")
        return self.sticky.get(client_id)

    async def delete_sticky(self, client_id: str, backend_id: BackendId) -> bool:
        await self._enter("delete_sticky")
        kept = self.sticky.get(client_id)
        if kept is None or kept.backend_id != backend_id:
            return False
        del self.sticky[client_id]
        return True

    async def add_session(self, session: SessionRecord) -> None:
        await self._enter("add_session")
        self.sessions[session.id] = session

    async def update_session(self, session: SessionRecord) -> bool:
        await self._enter("update_session")
        kept = self.sessions.get(session.id)
        if kept is None or kept.updated_at > session.updated_at:
            return False
        self.sessions[session.id] = session
        return True

    async def delete_session(self, session_id: str) -> bool:
        await self._enter("delete_session")
        return self.sessions.pop(session_id, None) is not None

    async def list_sessions(self) -> tuple[SessionRecord, ...]:
        await self._enter("list_sessions")
        return tuple(self.sessions.values())

    async def put_agent_token(self, agent_id: str, token_hash: bytes, created_at: datetime) -> None:
        await self._enter("put_agent_token")
        self.tokens[token_hash] = agent_id

    async def agent_for_token_hash(self, token_hash: bytes) -> str | None:
        await self._enter("agent_for_token_hash")
        return self.tokens.get(token_hash)

    async def revoke_agent(self, agent_id: str) -> bool:
        await self._enter("revoke_agent")
        held = [token for token, agent in self.tokens.items() if agent == agent_id]
        for token in held:
            del self.tokens[token]
        return bool(held)

    async def list_agents(self) -> tuple[AgentRecord, ...]:
        await self._enter("list_agents")
        agents = sorted(set(self.tokens.values()))
        return tuple(AgentRecord(agent, NOW, 1) for agent in agents)

    async def add_api_token(self, token: ApiTokenRecord) -> bool:
        await self._enter("add_api_token")
        return self.api_tokens.setdefault(token.name, token) is token

    async def api_token_for_hash(self, token_hash: bytes) -> ApiTokenRecord | None:
        await self._enter("api_token_for_hash")
        found = [token for token in self.api_tokens.values() if token.token_hash == token_hash]
        return found[0] if found else None

    async def get_api_token(self, name: str) -> ApiTokenRecord | None:
        await self._enter("get_api_token")
        return self.api_tokens.get(name)

    async def list_api_tokens(self) -> tuple[ApiTokenRecord, ...]:
        await self._enter("list_api_tokens")
        return tuple(sorted(self.api_tokens.values(), key=lambda token: token.name))

    async def delete_api_token(self, name: str) -> bool:
        await self._enter("delete_api_token")
        return self.api_tokens.pop(name, None) is not None

    async def add_signing_key(self, key: SigningKeyRecord, known: Iterable[str]) -> bool:
        await self._enter("add_signing_key")
        if self.signing_keys.keys() - set(known):
            return False
        return self.signing_keys.setdefault(key.kid, key) is key

    async def list_signing_keys(self) -> tuple[SigningKeyRecord, ...]:
        await self._enter("list_signing_keys")
        return tuple(sorted(self.signing_keys.values(), key=lambda key: key.created_at))

    async def delete_signing_key(self, kid: str) -> bool:
        await self._enter("delete_signing_key")
        return self.signing_keys.pop(kid, None) is not None

    async def put_drain(
        self, target: str, since: datetime, deadline: datetime | None = None
    ) -> None:
        await self._enter("put_drain")
        kept = self.drains.get(target)
        self.drains[target] = DrainRecord(target, kept.since if kept else since, deadline)

    async def delete_drain(self, target: str) -> bool:
        await self._enter("delete_drain")
        return self.drains.pop(target, None) is not None

    async def list_drains(self) -> tuple[DrainRecord, ...]:
        await self._enter("list_drains")
        return tuple(self.drains.values())


OnStream = Callable[[str, str, trio.StapledStream[Any, Any]], Awaitable[None]]
OnRequest = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


async def no_stream(host: str, service: str, stream: trio.abc.Stream) -> None:
    raise AssertionError("nobody should have dialled")


async def no_request(method: str, params: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError("nobody should have asked the agent")


@dataclass
class FakeTunnel:
    """The edge's end of an agent's tunnel; its host is a function over in-memory streams."""

    nursery: trio.Nursery
    agent_id: str = "agent-1"
    hosts: tuple[HostOffer, ...] = (
        HostOffer("wolf", max_sessions=2, apps=(AppOffer("Desktop", 1), AppOffer("Game", 2))),
    )
    on_stream: OnStream = no_stream
    on_request: OnRequest = no_request
    refuse: Exception | None = None
    """What every dial raises."""
    rtt_s: float | None = 0.01
    warm_dials: int = 0
    cold_dials: int = 0
    data_connections: int = 0
    connected_at: float = field(default_factory=trio.current_time)
    remote_address: str = "192.0.2.9:50000"
    dials: list[tuple[str, str, str, int | None]] = field(default_factory=list)
    region: str = "home"
    closed_with: tuple[int, str] | None = None

    def __post_init__(self) -> None:
        self.hello = Hello(self.agent_id, region=self.region, hosts=self.hosts)
        self.heartbeats_in, self.heartbeats = trio.open_memory_channel[Heartbeat](1)

    async def open_stream(
        self, host: str, service: str, *, origin: str, port: int | None = None
    ) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dials.append((host, service, origin, port))
        if self.refuse is not None:
            raise self.refuse
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.on_stream, host, service, theirs)
        return ours

    async def request(
        self, method: str, params: dict[str, Any], timeout_s: float = 10.0
    ) -> dict[str, Any]:
        return await self.on_request(method, params)

    def close(self, code: int, reason: str) -> None:
        self.closed_with = code, reason

    def as_tunnel(self) -> AgentTunnel:
        return cast("AgentTunnel", self)


@asynccontextmanager
async def serving(fleet: Fleet, tunnel: FakeTunnel) -> AsyncIterator[None]:
    """Have an agent connected for the length of a block."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.serve_agent, tunnel.as_tunnel())
        while not any(known.agent_id == tunnel.agent_id for known in fleet.backends()):
            await trio.lowlevel.checkpoint()
        yield
        nursery.cancel_scope.cancel()


def new_fleet(store: FakeStore) -> Fleet:
    return Fleet(store, Registry())


HostAnswer = Callable[[HttpRequest], Awaitable[tuple[int, bytes]]]


async def serve_http(stream: trio.abc.Stream, answer: HostAnswer) -> None:
    """Be a host for one HTTP connection: one request, one answer, and the connection ends."""
    http = HttpServer()
    try:
        while (request := http.next_request()) is None:
            data = await stream.receive_some(65_536)
            if not data:
                return
            http.receive(data)
        status, body = await answer(request)
        await stream.send_all(http.respond(status, body, close=True))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    finally:
        await trio.aclose_forcefully(stream)


class NoTls:
    """Stands for `HostPairing` where hosts are asked without TLS and everybody is paired."""

    def __init__(self) -> None:
        self.forgotten: list[tuple[str, str]] = []
        self.failure: Exception | None = None

    async def context_for(self, client: ClientId, backend: BackendId) -> ssl.SSLContext | None:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        return None

    def knows(self, client: ClientId, backend: BackendId) -> bool:
        return self.failure is None

    async def forget(self, client: ClientId, backend: BackendId) -> None:
        self.forgotten.append((client, backend))

    def forget_client(self, client: ClientId) -> None:
        self.forgotten.append((client, ""))


class FakeFlows:
    """Stands for `Media` where only its being told matters."""

    def __init__(self) -> None:
        self.stopped: list[str] = []
        self.forgotten: list[str] = []

    def stop(self, session: SessionId) -> None:
        self.stopped.append(session)

    def forget(self, session: SessionId) -> None:
        self.forgotten.append(session)


def new_play(
    config: ProxyConfig,
    store: FakeStore,
    fleet: Fleet,
    pairing: object,
    flows: FakeFlows,
    waker: Waker | None = None,
) -> Play:
    """Return a `Play` with a keeper of its own."""
    keeper = SessionKeeper(config, store, fleet, flows)
    return Play(config, keeper, fleet, cast("HostPairing", pairing), waker)
