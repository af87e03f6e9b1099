"""What is particular to the store in an SQLite file: its modes, locks, crashes and migrations."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from store_values import CLIENT, IDENTITY, KEY, NOW, OTHER, SESSION

from backends import sqlite
from backends.errors import StoreError
from backends.records import DrainRecord
from backends.schema import MIGRATIONS, migrate
from backends.sqlite import SqliteStore
from backends.sqlite_file import SqliteFile


def test_secrets_are_not_in_the_file(tmp_path: Path) -> None:
    async def write() -> None:
        async with SqliteStore.open(tmp_path / "moonhost.db", KEY) as store:
            await store.put_client(CLIENT)
            await store.add_edge_identity(IDENTITY)
            await store.add_host_identity(CLIENT.id, OTHER)
            await store.add_session(SESSION)

    trio.run(write)
    everything = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert CLIENT.name.encode() in everything
    for secret in (IDENTITY.key_pem, OTHER.key_pem, SESSION.details):
        assert secret not in everything


async def test_the_files_are_the_owners_alone(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path / "state" / "moonhost.db", KEY) as store:
        await store.put_client(CLIENT)
        files = list((tmp_path / "state").iterdir())
        assert len(files) == 3  # with its write-ahead log and index
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


_KILLED_WRITER = """
import os, signal, sys, trio
from datetime import UTC, datetime
from pathlib import Path
from backends.sqlite import SqliteStore

async def main():
    async with SqliteStore.open(Path(sys.argv[1]), bytes(range(32))) as store:
        await store.put_drain("alpha", datetime(2026, 1, 1, tzinfo=UTC))
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


async def test_what_was_written_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "moonhost.db"
    finished = await trio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", _KILLED_WRITER, str(path)],
            timeout=20,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    )
    assert finished.returncode == -signal.SIGKILL
    async with SqliteStore.open(path, KEY) as store:
        assert [drain.target for drain in await store.list_drains()] == ["alpha"]


async def test_a_locked_file_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "moonhost.db"
    async with SqliteStore.open(path, KEY, busy_timeout_ms=1) as store:
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(StoreError, match="database is locked") as caught:
                await store.put_drain("alpha", NOW)
            assert caught.value.reason == "busy"
            assert await store.list_drains() == ()  # readers are not held up
        finally:
            blocker.close()
        await store.put_drain("alpha", NOW)


async def test_an_operation_that_hangs_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "moonhost.db"
    blocker = None
    async with SqliteStore.open(
        path, KEY, busy_timeout_ms=60_000, operation_timeout_s=0.05
    ) as store:
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"did not answer within 0\.05 s") as caught:
            await store.put_drain("alpha", NOW)
        assert caught.value.reason == "timeout"
        blocker.close()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, None])
async def test_an_unusable_file_is_a_clear_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "moonhost.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=str(path)) as caught:
        async with SqliteStore.open(path, KEY):
            pytest.fail("opened")
    assert caught.value.reason == "io"


async def test_a_row_that_vanished_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(StoreError, match="did not keep"):
        sqlite._present(None)


# Migrations


def test_released_schemas_are_never_edited() -> None:
    released, current = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    released.executescript(VERSION_1)
    current.executescript(MIGRATIONS[0])
    tables = "SELECT name, sql FROM sqlite_master ORDER BY name"
    assert released.execute(tables).fetchall() == current.execute(tables).fetchall()
    released.close()
    current.close()


async def test_a_file_of_version_1_is_brought_forward(tmp_path: Path) -> None:
    path = tmp_path / "moonhost.db"
    old = sqlite3.connect(path)
    old.executescript(VERSION_1)
    old.close()
    async with SqliteStore.open(path, KEY) as store:
        assert await store.get_client(CLIENT.id) == CLIENT
        assert await store.agent_for_token_hash(bytes(32)) == "alpha"
        assert await store.app_ids_for(["desktop"]) == {"desktop": 77}
        await store.add_session(SESSION)
        assert await store.list_sessions() == (SESSION,)
        assert await store.list_drains() == (DrainRecord("old", NOW),)


def test_a_migration_runs_once_and_keeps_rows(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "moonhost.db", isolation_level=None)
    connection.executescript(VERSION_1)
    scripts = (*MIGRATIONS, "ALTER TABLE drains ADD COLUMN why TEXT; DELETE FROM drains;")
    migrate(connection, scripts)
    connection.execute("INSERT INTO drains VALUES ('beta', 1, NULL, 'fans')")
    migrate(connection, scripts)
    assert connection.execute("SELECT * FROM drains").fetchall() == [("beta", 1, None, "fans")]
    assert connection.execute("SELECT count(*) FROM clients").fetchone() == (1,)
    connection.close()


def test_a_failed_migration_changes_nothing(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "moonhost.db", isolation_level=None)
    migrate(connection)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, (*MIGRATIONS, "DROP TABLE clients; NONSENSE"))
    assert connection.execute("SELECT count(*) FROM clients").fetchone() == (0,)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    connection.close()


async def test_a_file_from_the_future_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "moonhost.db"
    future = sqlite3.connect(path)
    future.execute("PRAGMA user_version = 99")
    future.close()
    with pytest.raises(StoreError, match="newer moonhost"):
        async with SqliteFile.open(path, busy_timeout_ms=100, operation_timeout_s=5):
            pytest.fail("opened")


# The first schema as it was released, and some rows: what an old file holds. Never edit.
VERSION_1 = """
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
PRAGMA user_version = 1;
"""
VERSION_1 += (
    f"INSERT INTO clients VALUES ('{CLIENT.id}', 'Anna''s TV', x'4445522000', 1795420800123456,"
    " 'anna');"
    f"INSERT INTO agent_tokens VALUES (x'{bytes(32).hex()}', 'alpha', 1);"
    "INSERT INTO app_ids VALUES ('desktop', 77);"
    "INSERT INTO drains VALUES ('old', 1795420800123456);"
)
