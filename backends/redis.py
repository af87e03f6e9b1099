"""The shared store: one Redis or Valkey server, for several edges and the commands beside them.

A single server, or the primary of replicas that somebody else fails over: no Redis Cluster (a
script's keys lie in several slots) and no Sentinel. Redis 6 or newer, or Valkey.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from backends import redis_layout as layout
from backends import redis_scripts as scripts
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
from backends.redis_address import parse_redis_url
from backends.redis_schema import migrate
from backends.redis_server import RedisServer, Reply
from backends.times import from_us, to_us
from backends.vault import Vault

default_prefix: Final = "moonhost:"
proposed_app_ids: Final = 4
max_name_attempts: Final = 5
"""To rename a client that others change at the same time."""
_T = TypeVar("_T")


class RedisStore:
    """A `Store` in a Redis server, made by ``async with RedisStore.open(url, key)``."""

    def __init__(
        self, server: RedisServer, vault: Vault, prefix: str, session_ttl: timedelta
    ) -> None:
        self._server = server
        self._vault = vault
        self._prefix = prefix
        self._session_ttl_ms = session_ttl // timedelta(milliseconds=1)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        key: bytes,
        *,
        password: str | None = None,
        ca_file: Path | None = None,
        prefix: str = default_prefix,
        operation_timeout_s: float = 5.0,
        session_ttl: timedelta = timedelta(days=30),
        read_only: bool = False,
    ) -> AsyncIterator[RedisStore]:
        """Reach the server at `url` and bring what it holds to the newest schema.

        `key` (32 bytes) is what secrets are sealed with: all edges have the same. `password` goes
        before the URL's. Every key in the server begins with `prefix`. A session that is not
        written for `session_ttl` is forgotten, as one that no edge can still have. `read_only`
        takes the server as it is: no schema is brought forward.
        """
        vault = Vault(key)
        address = parse_redis_url(url).with_password(password)
        async with RedisServer.open(
            address, ca_file=ca_file, operation_timeout_s=operation_timeout_s
        ) as server:
            if not read_only:
                await migrate(server, prefix)
            yield cls(server, vault, prefix, session_ttl)

    async def get_edge_identity(self) -> IdentityRecord | None:
        """See `Store`."""
        blob = await self._server.command(b"GET", self._key("edge_identity"))
        return None if blob is None else self._identity(blob, "edge")

    async def add_edge_identity(self, identity: IdentityRecord) -> IdentityRecord:
        """See `Store`."""
        blob = await self._server.run(
            scripts.add_edge_identity, self._keys("edge_identity"), self._sealed(identity, "edge")
        )
        return self._identity(blob, "edge")

    async def put_client(self, client: ClientRecord) -> None:
        """See `Store`."""
        blob = _encode(layout.Client(client.name, client.certificate_der, to_us(client.paired_at)))
        await self._server.run(
            scripts.put_client,
            self._keys("clients", "client_users"),
            client.id,
            blob,
            *_if_any(client.user),
        )

    async def get_client(self, client_id: str) -> ClientRecord | None:
        """See `Store`."""
        blob, user = await self._server.run(
            scripts.get_client, self._keys("clients", "client_users"), client_id
        )
        return None if blob is None else self._client(client_id, blob, user)

    async def list_clients(self) -> tuple[ClientRecord, ...]:
        """See `Store`."""
        blobs, users = await self._both("clients", "client_users")
        clients = [
            self._client(self._text(field), blob, users.get(field)) for field, blob in blobs.items()
        ]
        return tuple(sorted(clients, key=lambda client: (client.paired_at, client.id)))

    async def delete_client(self, client_id: str) -> bool:
        """See `Store`."""
        keys = self._keys(
            "clients",
            "client_users",
            "host_identities",
            f"pairings:{client_id}",
            f"sticky:{client_id}",
        )
        return await self._changed(scripts.delete_client, keys, client_id)

    async def set_client_user(self, client_id: str, user: str | None) -> bool:
        """See `Store`."""
        keys = self._keys("clients", "client_users")
        return await self._changed(scripts.set_client_user, keys, client_id, *_if_any(user))

    async def set_client_name(self, client_id: str, name: str) -> bool:
        """See `Store`."""
        key = self._key("clients")
        for _ in range(max_name_attempts):
            blob = await self._server.command(b"HGET", key, client_id)
            if blob is None:
                return False
            renamed = _encode(replace(self._decoded(blob, layout.Client), name=name))
            if await self._changed(scripts.replace_client, [key], client_id, blob, renamed):
                return True
        raise StoreError("conflict", "The client was changed by others meanwhile. Try again.")

    async def get_host_identity(self, client_id: str) -> IdentityRecord | None:
        """See `Store`."""
        blob = await self._server.command(b"HGET", self._key("host_identities"), client_id)
        return None if blob is None else self._identity(blob, f"host:{client_id}")

    async def add_host_identity(self, client_id: str, identity: IdentityRecord) -> IdentityRecord:
        """See `Store`."""
        context = f"host:{client_id}"
        blob = await self._server.run(
            scripts.add_host_identity,
            self._keys("clients", "host_identities"),
            client_id,
            self._sealed(identity, context),
        )
        if blob is None:
            raise _no_client()
        return self._identity(blob, context)

    async def put_pairing(self, pairing: PairingRecord) -> None:
        """See `Store`."""
        keys = self._keys("clients", f"pairings:{pairing.client_id}")
        blob = _encode(layout.Pairing(pairing.host_certificate_der, to_us(pairing.paired_at)))
        if not await self._changed(
            scripts.put_pairing, keys, pairing.client_id, pairing.backend_id, blob
        ):
            raise _no_client()

    async def get_pairing(self, client_id: str, backend_id: BackendId) -> PairingRecord | None:
        """See `Store`."""
        blob = await self._server.command(b"HGET", self._key(f"pairings:{client_id}"), backend_id)
        if blob is None:
            return None
        pairing = self._decoded(blob, layout.Pairing)
        return PairingRecord(
            client_id, backend_id, pairing.host_certificate_der, self._time(pairing.paired_at)
        )

    async def delete_pairing(self, client_id: str, backend_id: BackendId) -> bool:
        """See `Store`."""
        keys = self._keys(f"pairings:{client_id}")
        return await self._changed(scripts.delete_pairing, keys, backend_id)

    async def app_ids_for(self, titles: Iterable[str]) -> dict[str, int]:
        """See `Store`."""
        wanted = sorted({normalise_title(title) for title in titles} - {""})
        if not wanted:
            return {}
        known = await self._server.command(b"HMGET", self._key("app_ids"), *wanted)
        ids = dict(zip(wanted, known, strict=True))
        attempt = 0
        while missing := [title for title in wanted if ids[title] is None]:
            ids |= await self._choose_app_ids(missing, attempt)
            attempt += proposed_app_ids
        return {title: self._number(ids[title]) for title in wanted}

    async def put_sticky(self, sticky: StickyRecord) -> None:
        """See `Store`."""
        if not await self._changed(
            scripts.put_sticky,
            self._keys("clients", f"sticky:{sticky.client_id}"),
            sticky.client_id,
            sticky.backend_id,
            to_us(sticky.expires_at),
            to_us(sticky.expires_at) // 1000,
        ):
            raise _no_client()

    async def get_sticky(self, client_id: str) -> StickyRecord | None:
        """See `Store`."""
        backend, expires_at = await self._server.command(
            b"HMGET", self._key(f"sticky:{client_id}"), "backend", "expires_at"
        )
        if backend is None:
            return None
        return StickyRecord(client_id, BackendId(self._text(backend)), self._time(expires_at))

    async def delete_sticky(self, client_id: str, backend_id: BackendId) -> bool:
        """See `Store`."""
        keys = self._keys(f"sticky:{client_id}")
        return await self._changed(scripts.delete_sticky, keys, backend_id)

    async def add_session(self, session: SessionRecord) -> None:
        """See `Store`."""
        if not await self._changed(
            scripts.add_session,
            self._keys(f"session:{session.id}", "sessions"),
            session.id,
            to_us(session.updated_at),
            self._session_blob(session),
            self._session_ttl_ms,
        ):
            raise StoreError("conflict", "The store has a session of this id already.")

    async def update_session(self, session: SessionRecord) -> bool:
        """See `Store`."""
        return await self._changed(
            scripts.update_session,
            self._keys(f"session:{session.id}"),
            to_us(session.updated_at),
            self._session_blob(session),
            self._session_ttl_ms,
        )

    async def delete_session(self, session_id: str) -> bool:
        """See `Store`."""
        keys = self._keys(f"session:{session_id}", "sessions")
        return await self._changed(scripts.delete_session, keys, session_id)

    async def list_sessions(self) -> tuple[SessionRecord, ...]:
        """See `Store`."""
        found = await self._server.run(
            scripts.list_sessions, self._keys("sessions"), self._key("session:")
        )
        pairs = zip(found[::2], found[1::2], strict=True)
        sessions = [self._session(self._text(id_), blob) for id_, blob in pairs]
        return tuple(sorted(sessions, key=lambda session: (session.started_at, session.id)))

    async def put_agent_token(self, agent_id: str, token_hash: bytes, created_at: datetime) -> None:
        """See `Store`."""
        keys = self._keys("tokens", "token_times")
        await self._server.run(
            scripts.put_agent_token, keys, token_hash, agent_id, to_us(created_at)
        )

    async def agent_for_token_hash(self, token_hash: bytes) -> str | None:
        """See `Store`."""
        agent = await self._server.command(b"HGET", self._key("tokens"), token_hash)
        return None if agent is None else self._text(agent)

    async def revoke_agent(self, agent_id: str) -> bool:
        """See `Store`."""
        return await self._changed(
            scripts.revoke_agent, self._keys("tokens", "token_times"), agent_id
        )

    async def list_agents(self) -> tuple[AgentRecord, ...]:
        """See `Store`."""
        agents, times = await self._both("tokens", "token_times")
        made_at: dict[bytes, list[int]] = {}
        for token, agent in agents.items():
            made_at.setdefault(agent, []).append(self._number(times.get(token)))
        found = [
            AgentRecord(self._text(agent), self._time(min(made)), len(made))
            for agent, made in made_at.items()
        ]
        return tuple(sorted(found, key=lambda agent: agent.agent_id))

    async def add_api_token(self, token: ApiTokenRecord) -> bool:
        """See `Store`."""
        return await self._changed(
            scripts.add_api_token,
            self._keys("api_tokens", "api_token_names"),
            token.name,
            _encode(layout.ApiToken(token.token_hash, token.scopes, to_us(token.created_at))),
            token.token_hash,
        )

    async def api_token_for_hash(self, token_hash: bytes) -> ApiTokenRecord | None:
        """See `Store`."""
        found = await self._server.run(
            scripts.api_token_for_hash, self._keys("api_tokens", "api_token_names"), token_hash
        )
        return self._api_token(*found) if found else None

    async def get_api_token(self, name: str) -> ApiTokenRecord | None:
        """See `Store`."""
        blob = await self._server.command(b"HGET", self._key("api_tokens"), name)
        return None if blob is None else self._api_token(name, blob)

    async def list_api_tokens(self) -> tuple[ApiTokenRecord, ...]:
        """See `Store`."""
        tokens, _ = await self._both("api_tokens", "api_token_names")
        found = [self._api_token(name, blob) for name, blob in tokens.items()]
        return tuple(sorted(found, key=lambda token: token.name))

    async def delete_api_token(self, name: str) -> bool:
        """See `Store`."""
        keys = self._keys("api_tokens", "api_token_names")
        return await self._changed(scripts.delete_api_token, keys, name)

    async def add_signing_key(self, key: SigningKeyRecord, known: Iterable[str]) -> bool:
        """See `Store`."""
        sealed = self._vault.seal(key.private_key_pem, f"signing:{key.kid}")
        return await self._changed(
            scripts.add_signing_key,
            self._keys("signing_keys"),
            key.kid,
            _encode(layout.SigningKey(sealed, to_us(key.created_at))),
            *known,
        )

    async def list_signing_keys(self) -> tuple[SigningKeyRecord, ...]:
        """See `Store`."""
        keys, _ = await self._both("signing_keys", "signing_keys")
        found = [self._signing_key(self._text(kid), blob) for kid, blob in keys.items()]
        return tuple(sorted(found, key=lambda key: (key.created_at, key.kid)))

    async def delete_signing_key(self, kid: str) -> bool:
        """See `Store`."""
        return bool(await self._server.command(b"HDEL", self._key("signing_keys"), kid))

    async def put_drain(
        self, target: str, since: datetime, deadline: datetime | None = None
    ) -> None:
        """See `Store`."""
        await self._server.run(
            scripts.put_drain,
            self._keys("drains", "drain_deadlines"),
            target,
            to_us(since),
            *_if_any(None if deadline is None else str(to_us(deadline))),
        )

    async def delete_drain(self, target: str) -> bool:
        """See `Store`."""
        keys = self._keys("drains", "drain_deadlines")
        return await self._changed(scripts.delete_drain, keys, target)

    async def list_drains(self) -> tuple[DrainRecord, ...]:
        """See `Store`."""
        drains, deadlines = await self._both("drains", "drain_deadlines")
        found = [
            DrainRecord(
                self._text(target),
                self._time(since),
                self._time(deadlines[target]) if target in deadlines else None,
            )
            for target, since in drains.items()
        ]
        return tuple(sorted(found, key=lambda drain: drain.target))

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _keys(self, *names: str) -> list[str]:
        return [self._prefix + name for name in names]

    async def _changed(
        self, script: scripts.Script, keys: list[str], *arguments: str | bytes | int
    ) -> bool:
        return bool(await self._server.run(script, keys, *arguments))

    async def _both(self, first: str, second: str) -> tuple[dict[bytes, bytes], ...]:
        lists = await self._server.run(scripts.both, self._keys(first, second))
        return tuple(dict(zip(flat[::2], flat[1::2], strict=True)) for flat in lists)

    async def _choose_app_ids(self, titles: list[str], attempt: int) -> Mapping[str, bytes | None]:
        arguments: list[str | bytes | int] = [proposed_app_ids]
        for title in titles:
            arguments.append(title)
            arguments += [app_id(title, attempt + more) for more in range(proposed_app_ids)]
        chosen = await self._server.run(
            scripts.choose_app_ids, self._keys("app_ids", "app_titles"), *arguments
        )
        return dict(zip(titles, chosen, strict=True))

    def _sealed(self, identity: IdentityRecord, context: str) -> bytes:
        sealed_key = self._vault.seal(identity.key_pem, context)
        return _encode(layout.Identity(sealed_key, identity.certificate_pem))

    def _identity(self, blob: Reply, context: str) -> IdentityRecord:
        kept = self._decoded(blob, layout.Identity)
        return IdentityRecord(self._vault.open(kept.sealed_key, context), kept.certificate_pem)

    def _client(self, client_id: str, blob: Reply, user: bytes | None) -> ClientRecord:
        kept = self._decoded(blob, layout.Client)
        return ClientRecord(
            client_id,
            kept.name,
            kept.certificate_der,
            self._time(kept.paired_at),
            None if user is None else self._text(user),
        )

    def _api_token(self, name: str | bytes, blob: Reply) -> ApiTokenRecord:
        kept = self._decoded(blob, layout.ApiToken)
        return ApiTokenRecord(
            name if isinstance(name, str) else self._text(name),
            kept.token_hash,
            kept.scopes,
            self._time(kept.created_at),
        )

    def _signing_key(self, kid: str, blob: Reply) -> SigningKeyRecord:
        kept = self._decoded(blob, layout.SigningKey)
        private_key_pem = self._vault.open(kept.sealed_key, f"signing:{kid}")
        return SigningKeyRecord(kid, private_key_pem, self._time(kept.created_at))

    def _session_blob(self, session: SessionRecord) -> bytes:
        return _encode(
            layout.Session(
                session.client_id,
                session.backend_id,
                session.app_title,
                session.state,
                to_us(session.started_at),
                to_us(session.updated_at),
                self._vault.seal(session.details, f"session:{session.id}"),
            )
        )

    def _session(self, session_id: str, blob: Reply) -> SessionRecord:
        kept = self._decoded(blob, layout.Session)
        return SessionRecord(
            id=session_id,
            client_id=kept.client_id,
            backend_id=BackendId(kept.backend_id),
            app_title=kept.app_title,
            state=kept.state,
            started_at=self._time(kept.started_at),
            updated_at=self._time(kept.updated_at),
            details=self._vault.open(kept.sealed_details, f"session:{session_id}"),
        )

    def _decoded(self, blob: Reply, kind: type[_T]) -> _T:
        decode: Callable[[Any], _T] = partial(msgspec.msgpack.decode, type=kind)
        return self._read("a record", decode, blob)

    def _text(self, value: Reply) -> str:
        return self._read("a text", bytes.decode, value)

    def _number(self, value: Reply) -> int:
        return self._read("a number", int, value)

    def _time(self, microseconds: Reply) -> datetime:
        return self._read("a time", lambda value: from_us(int(value)), microseconds)

    def _read(self, what: str, read: Callable[[Any], _T], value: Reply) -> _T:
        try:
            return read(value)
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError):
            raise self._server.damaged(what) from None


def _encode(record: Any) -> bytes:
    return msgspec.msgpack.encode(record)


def _if_any(text: str | None) -> tuple[str, ...]:
    return () if text is None else (text,)


def _no_client() -> StoreError:
    return StoreError("conflict", "The store has no such client.")
