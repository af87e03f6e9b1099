"""The embedded store: one SQLite file, for a single edge and the commands run beside it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

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
from backends.sqlite_file import Row, SqliteFile
from backends.times import from_us, to_us
from backends.vault import Vault


class SqliteStore:
    """A `Store` in one file, made by ``async with SqliteStore.open(path, key)``."""

    def __init__(self, file: SqliteFile, vault: Vault) -> None:
        self._file = file
        self._vault = vault

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path,
        key: bytes,
        *,
        busy_timeout_ms: int = 5_000,
        operation_timeout_s: float = 10.0,
        read_only: bool = False,
    ) -> AsyncIterator[SqliteStore]:
        """Open or make the file at `path`; `key` (32 bytes) is what secrets are sealed with.

        `read_only` takes the file as it is: nothing is made, and no schema brought forward.
        """
        vault = Vault(key)
        async with SqliteFile.open(
            path,
            busy_timeout_ms=busy_timeout_ms,
            operation_timeout_s=operation_timeout_s,
            read_only=read_only,
        ) as file:
            yield cls(file, vault)

    async def get_edge_identity(self) -> IdentityRecord | None:
        """See `Store`."""
        row = await self._file.one("SELECT sealed_key, certificate_pem FROM edge_identity")
        return None if row is None else self._identity(row, "edge")

    async def add_edge_identity(self, identity: IdentityRecord) -> IdentityRecord:
        """See `Store`."""
        row = await self._file.one(
            # The update changes nothing; it makes RETURNING give the row that was there first.
            "INSERT INTO edge_identity VALUES (1, ?, ?) ON CONFLICT DO UPDATE SET one = 1"
            " RETURNING sealed_key, certificate_pem",
            self._vault.seal(identity.key_pem, "edge"),
            identity.certificate_pem,
        )
        return self._identity(_present(row), "edge")

    async def put_client(self, client: ClientRecord) -> None:
        """See `Store`."""
        await self._file.execute(
            "INSERT INTO clients VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " name = excluded.name, certificate_der = excluded.certificate_der,"
            " paired_at = excluded.paired_at, user = excluded.user",
            client.id,
            client.name,
            client.certificate_der,
            to_us(client.paired_at),
            client.user,
        )

    async def get_client(self, client_id: str) -> ClientRecord | None:
        """See `Store`."""
        row = await self._file.one("SELECT * FROM clients WHERE id = ?", client_id)
        return None if row is None else _client(row)

    async def list_clients(self) -> tuple[ClientRecord, ...]:
        """See `Store`."""
        rows = await self._file.all("SELECT * FROM clients ORDER BY paired_at, id")
        return tuple(map(_client, rows))

    async def delete_client(self, client_id: str) -> bool:
        """See `Store`."""
        return await self._file.execute("DELETE FROM clients WHERE id = ?", client_id) > 0

    async def set_client_user(self, client_id: str, user: str | None) -> bool:
        """See `Store`."""
        changed = await self._file.execute(
            "UPDATE clients SET user = ? WHERE id = ?", user, client_id
        )
        return changed > 0

    async def set_client_name(self, client_id: str, name: str) -> bool:
        """See `Store`."""
        changed = await self._file.execute(
            "UPDATE clients SET name = ? WHERE id = ?", name, client_id
        )
        return changed > 0

    async def get_host_identity(self, client_id: str) -> IdentityRecord | None:
        """See `Store`."""
        row = await self._file.one(
            "SELECT sealed_key, certificate_pem FROM host_identities WHERE client_id = ?",
            client_id,
        )
        return None if row is None else self._identity(row, f"host:{client_id}")

    async def add_host_identity(self, client_id: str, identity: IdentityRecord) -> IdentityRecord:
        """See `Store`."""
        context = f"host:{client_id}"
        row = await self._file.one(
            "INSERT INTO host_identities VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET client_id = client_id"
            " RETURNING sealed_key, certificate_pem",
            client_id,
            self._vault.seal(identity.key_pem, context),
            identity.certificate_pem,
        )
        return self._identity(_present(row), context)

    async def put_pairing(self, pairing: PairingRecord) -> None:
        """See `Store`."""
        await self._file.execute(
            "REPLACE INTO pairings VALUES (?, ?, ?, ?)",
            pairing.client_id,
            pairing.backend_id,
            pairing.host_certificate_der,
            to_us(pairing.paired_at),
        )

    async def get_pairing(self, client_id: str, backend_id: BackendId) -> PairingRecord | None:
        """See `Store`."""
        row = await self._file.one(
            "SELECT host_certificate_der, paired_at FROM pairings"
            " WHERE client_id = ? AND backend_id = ?",
            client_id,
            backend_id,
        )
        return (
            None if row is None else PairingRecord(client_id, backend_id, row[0], from_us(row[1]))
        )

    async def delete_pairing(self, client_id: str, backend_id: BackendId) -> bool:
        """See `Store`."""
        deleted = await self._file.execute(
            "DELETE FROM pairings WHERE client_id = ? AND backend_id = ?", client_id, backend_id
        )
        return deleted > 0

    async def app_ids_for(self, titles: Iterable[str]) -> dict[str, int]:
        """See `Store`."""
        wanted = sorted({normalise_title(title) for title in titles} - {""})
        return await self._file.run(lambda file: _app_ids(file, wanted)) if wanted else {}

    async def put_sticky(self, sticky: StickyRecord) -> None:
        """See `Store`."""
        await self._file.execute(
            "REPLACE INTO sticky VALUES (?, ?, ?)",
            sticky.client_id,
            sticky.backend_id,
            to_us(sticky.expires_at),
        )

    async def get_sticky(self, client_id: str) -> StickyRecord | None:
        """See `Store`."""
        row = await self._file.one(
            "SELECT backend_id, expires_at FROM sticky WHERE client_id = ?", client_id
        )
        return None if row is None else StickyRecord(client_id, BackendId(row[0]), from_us(row[1]))

    async def delete_sticky(self, client_id: str, backend_id: BackendId) -> bool:
        """See `Store`."""
        deleted = await self._file.execute(
            "DELETE FROM sticky WHERE client_id = ? AND backend_id = ?", client_id, backend_id
        )
        return deleted > 0

    async def add_session(self, session: SessionRecord) -> None:
        """See `Store`."""
        await self._file.execute(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            session.id,
            session.client_id,
            session.backend_id,
            session.app_title,
            session.state,
            to_us(session.started_at),
            to_us(session.updated_at),
            self._sealed_details(session),
        )

    async def update_session(self, session: SessionRecord) -> bool:
        """See `Store`."""
        updated_at = to_us(session.updated_at)
        changed = await self._file.execute(
            "UPDATE sessions SET client_id = ?, backend_id = ?, app_title = ?, state = ?,"
            " started_at = ?, updated_at = ?, sealed_details = ?"
            " WHERE id = ? AND updated_at <= ?",
            session.client_id,
            session.backend_id,
            session.app_title,
            session.state,
            to_us(session.started_at),
            updated_at,
            self._sealed_details(session),
            session.id,
            updated_at,
        )
        return changed > 0

    async def delete_session(self, session_id: str) -> bool:
        """See `Store`."""
        return await self._file.execute("DELETE FROM sessions WHERE id = ?", session_id) > 0

    async def list_sessions(self) -> tuple[SessionRecord, ...]:
        """See `Store`."""
        rows = await self._file.all(
            "SELECT id, client_id, backend_id, app_title, state, started_at, updated_at,"
            " sealed_details FROM sessions ORDER BY started_at, id"
        )
        return tuple(map(self._session, rows))

    async def put_agent_token(self, agent_id: str, token_hash: bytes, created_at: datetime) -> None:
        """See `Store`."""
        await self._file.execute(
            "REPLACE INTO agent_tokens VALUES (?, ?, ?)", token_hash, agent_id, to_us(created_at)
        )

    async def agent_for_token_hash(self, token_hash: bytes) -> str | None:
        """See `Store`."""
        row = await self._file.one(
            "SELECT agent_id FROM agent_tokens WHERE token_hash = ?", token_hash
        )
        return None if row is None else str(row[0])

    async def revoke_agent(self, agent_id: str) -> bool:
        """See `Store`."""
        return await self._file.execute("DELETE FROM agent_tokens WHERE agent_id = ?", agent_id) > 0

    async def list_agents(self) -> tuple[AgentRecord, ...]:
        """See `Store`."""
        rows = await self._file.all(
            "SELECT agent_id, min(created_at), count(*) FROM agent_tokens"
            " GROUP BY agent_id ORDER BY agent_id"
        )
        return tuple(AgentRecord(row[0], from_us(row[1]), row[2]) for row in rows)

    async def add_api_token(self, token: ApiTokenRecord) -> bool:
        """See `Store`."""
        added = await self._file.execute(
            "INSERT INTO api_tokens VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
            token.name,
            token.token_hash,
            " ".join(token.scopes),
            to_us(token.created_at),
        )
        return added > 0

    async def api_token_for_hash(self, token_hash: bytes) -> ApiTokenRecord | None:
        """See `Store`."""
        row = await self._file.one("SELECT * FROM api_tokens WHERE token_hash = ?", token_hash)
        return None if row is None else _api_token(row)

    async def get_api_token(self, name: str) -> ApiTokenRecord | None:
        """See `Store`."""
        row = await self._file.one("SELECT * FROM api_tokens WHERE name = ?", name)
        return None if row is None else _api_token(row)

    async def list_api_tokens(self) -> tuple[ApiTokenRecord, ...]:
        """See `Store`."""
        return tuple(
            map(_api_token, await self._file.all("SELECT * FROM api_tokens ORDER BY name"))
        )

    async def delete_api_token(self, name: str) -> bool:
        """See `Store`."""
        return await self._file.execute("DELETE FROM api_tokens WHERE name = ?", name) > 0

    async def add_signing_key(self, key: SigningKeyRecord, known: Iterable[str]) -> bool:
        """See `Store`."""
        added = await self._file.execute(
            "INSERT INTO signing_keys SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM signing_keys"
            " WHERE kid NOT IN (SELECT value FROM json_each(?)))"
            " ON CONFLICT DO NOTHING",
            key.kid,
            self._vault.seal(key.private_key_pem, f"signing:{key.kid}"),
            to_us(key.created_at),
            json.dumps(list(known)),
        )
        return added > 0

    async def list_signing_keys(self) -> tuple[SigningKeyRecord, ...]:
        """See `Store`."""
        rows = await self._file.all("SELECT * FROM signing_keys ORDER BY created_at, kid")
        return tuple(
            SigningKeyRecord(kid, self._vault.open(sealed, f"signing:{kid}"), from_us(created_at))
            for kid, sealed, created_at in rows
        )

    async def delete_signing_key(self, kid: str) -> bool:
        """See `Store`."""
        return await self._file.execute("DELETE FROM signing_keys WHERE kid = ?", kid) > 0

    async def put_drain(
        self, target: str, since: datetime, deadline: datetime | None = None
    ) -> None:
        """See `Store`."""
        await self._file.execute(
            "INSERT INTO drains VALUES (?, ?, ?)"
            " ON CONFLICT (target) DO UPDATE SET deadline = excluded.deadline",
            target,
            to_us(since),
            None if deadline is None else to_us(deadline),
        )

    async def delete_drain(self, target: str) -> bool:
        """See `Store`."""
        return await self._file.execute("DELETE FROM drains WHERE target = ?", target) > 0

    async def list_drains(self) -> tuple[DrainRecord, ...]:
        """See `Store`."""
        rows = await self._file.all("SELECT target, since, deadline FROM drains ORDER BY target")
        return tuple(
            DrainRecord(target, from_us(since), None if deadline is None else from_us(deadline))
            for target, since, deadline in rows
        )

    def _identity(self, row: Row, context: str) -> IdentityRecord:
        return IdentityRecord(self._vault.open(row[0], context), row[1])

    def _sealed_details(self, session: SessionRecord) -> bytes:
        return self._vault.seal(session.details, f"session:{session.id}")

    def _session(self, row: Row) -> SessionRecord:
        return SessionRecord(
            id=row[0],
            client_id=row[1],
            backend_id=BackendId(row[2]),
            app_title=row[3],
            state=row[4],
            started_at=from_us(row[5]),
            updated_at=from_us(row[6]),
            details=self._vault.open(row[7], f"session:{row[0]}"),
        )


def _client(row: Row) -> ClientRecord:
    return ClientRecord(row[0], row[1], row[2], from_us(row[3]), row[4])


def _api_token(row: Row) -> ApiTokenRecord:
    return ApiTokenRecord(row[0], row[1], tuple(row[2].split()), from_us(row[3]))


def _app_ids(connection: sqlite3.Connection, titles: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for title in titles:
        row = connection.execute("SELECT id FROM app_ids WHERE title = ?", (title,)).fetchone()
        attempt = 0
        while row is None:
            # Fails to insert both when the id is another title's and when another process has
            # just given this title an id: the second look tells which.
            connection.execute(
                "INSERT OR IGNORE INTO app_ids VALUES (?, ?)", (title, app_id(title, attempt))
            )
            row = connection.execute("SELECT id FROM app_ids WHERE title = ?", (title,)).fetchone()
            attempt += 1
        found[title] = row[0]
    return found


def _present(row: Row | None) -> Row:
    if row is None:
        raise StoreError("damaged", "The store did not keep what was written to it.")
    return row
