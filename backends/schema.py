"""The SQLite store's tables, and how older files are brought forward."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from backends.errors import StoreError

# One script per version, never edited once released: a change is a new script at the end.
# Times are integer microseconds since 1970 UTC; columns named sealed_… hold vault ciphertext.
_VERSION_1 = """
CREATE TABLE edge_identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sealed_key BLOB NOT NULL,
    certificate_pem BLOB NOT NULL
) STRICT;
CREATE TABLE clients (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    certificate_der BLOB NOT NULL,
    paired_at INTEGER NOT NULL,
    user TEXT
) STRICT;
CREATE TABLE host_identities (
    client_id TEXT PRIMARY KEY REFERENCES clients (id) ON DELETE CASCADE,
    sealed_key BLOB NOT NULL,
    certificate_pem BLOB NOT NULL
) STRICT;
CREATE TABLE pairings (
    client_id TEXT NOT NULL REFERENCES clients (id) ON DELETE CASCADE,
    backend_id TEXT NOT NULL,
    host_certificate_der BLOB NOT NULL,
    paired_at INTEGER NOT NULL,
    PRIMARY KEY (client_id, backend_id)
) STRICT;
CREATE TABLE app_ids (
    title TEXT PRIMARY KEY,
    id INTEGER NOT NULL UNIQUE
) STRICT;
CREATE TABLE sticky (
    client_id TEXT PRIMARY KEY REFERENCES clients (id) ON DELETE CASCADE,
    backend_id TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    client_id TEXT NOT NULL,
    backend_id TEXT NOT NULL,
    app_title TEXT NOT NULL,
    state TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    sealed_details BLOB NOT NULL
) STRICT;
CREATE TABLE agent_tokens (
    token_hash BLOB PRIMARY KEY,
    agent_id TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX agent_tokens_by_agent ON agent_tokens (agent_id);
CREATE TABLE drains (
    target TEXT PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT;
"""

_VERSION_2 = """
ALTER TABLE drains ADD COLUMN deadline INTEGER;
"""

_VERSION_3 = """
CREATE TABLE api_tokens (
    name TEXT PRIMARY KEY,
    token_hash BLOB NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE signing_keys (
    kid TEXT PRIMARY KEY,
    sealed_key BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1, _VERSION_2, _VERSION_3)


def migrate(connection: sqlite3.Connection, scripts: Sequence[str] = MIGRATIONS) -> None:
    """Bring the file to the newest version, whole or not at all; another process may race us."""
    if _version(connection) == len(scripts):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again: another process may have migrated while we waited for the lock.
        version = _version(connection)
        if version > len(scripts):
            raise StoreError(
                "newer_schema",
                f"The store was written by a newer moonhost (schema {version}; "
                f"this one knows {len(scripts)}).",
            )
        for script in scripts[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(scripts)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _statements(script: str) -> list[str]:
    # Not executescript(): that would commit the transaction first.
    return [statement for statement in script.split(";") if statement.strip()]
