"""What every store must do, whichever engine is behind it; and what is particular to SQLite."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from backends import apps, sqlite
from backends.errors import StoreError
from backends.model import BackendId
from backends.records import (
    AgentRecord,
    ClientRecord,
    DrainRecord,
    IdentityRecord,
    PairingRecord,
    SessionRecord,
    StickyRecord,
)
from backends.schema import MIGRATIONS, migrate
from backends.sqlite import SqliteStore
from backends.sqlite_file import SqliteFile
from backends.store import Store
from backends.tokens import new_agent_token, token_hash

KEY = bytes(range(32))
NOW = datetime(2026, 11, 23, 8, 0, 0, 123456, tzinfo=UTC)
CLIENT = ClientRecord("ab" * 32, "Anna's TV", b"DER \x00", NOW, "anna")
IDENTITY = IdentityRecord(b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN CERTIFICATE-----")
OTHER = IdentityRecord(b"other key", b"other certificate")
BACKEND = BackendId("alpha/wolf")
SESSION = SessionRecord(
    "s1", CLIENT.id, BACKEND, "Desktop", "streaming", NOW, NOW, b"rikey and payloads"
)

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=["sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Open the same store each time; another engine joins by another parameter."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Store]:
        async with SqliteStore.open(tmp_path / "moonhost.db", KEY) as store:
            yield store

    assert request.param == "sqlite"
    return opened


# Conformance


async def test_an_empty_store_has_nothing(open_store: OpenStore) -> None:
    async with open_store() as store:
        assert await store.get_edge_identity() is None
        assert await store.get_client(CLIENT.id) is None
        assert await store.get_host_identity(CLIENT.id) is None
        assert await store.get_pairing(CLIENT.id, BACKEND) is None
        assert await store.get_sticky(CLIENT.id) is None
        assert await store.agent_for_token_hash(b"x" * 32) is None
        assert await store.app_ids_for([]) == {}
        lists = (
            await store.list_clients(),
            await store.list_sessions(),
            await store.list_agents(),
            await store.list_drains(),
        )
        assert lists == ((), (), (), ())
        assert not await store.delete_client(CLIENT.id)
        assert not await store.delete_pairing(CLIENT.id, BACKEND)
        assert not await store.delete_sticky(CLIENT.id, BACKEND)
        assert not await store.set_client_user(CLIENT.id, "anna")
        assert not await store.delete_session("s1")
        assert not await store.revoke_agent("alpha")
        assert not await store.delete_drain("alpha")


async def test_everything_is_there_after_reopening(open_store: OpenStore) -> None:
    pairing = PairingRecord(CLIENT.id, BACKEND, b"host DER", NOW)
    sticky = StickyRecord(CLIENT.id, BACKEND, NOW + timedelta(days=7))
    async with open_store() as store:
        await store.add_edge_identity(IDENTITY)
        await store.put_client(CLIENT)
        await store.add_host_identity(CLIENT.id, OTHER)
        await store.put_pairing(pairing)
        await store.put_sticky(sticky)
        await store.add_session(SESSION)
        await store.put_agent_token("alpha", b"h" * 32, NOW)
        await store.put_drain("alpha", NOW)
        await store.put_drain(BACKEND, NOW, NOW + timedelta(hours=2))
        ids = await store.app_ids_for(["Desktop"])
    async with open_store() as store:
        assert await store.get_edge_identity() == IDENTITY
        assert await store.get_client(CLIENT.id) == CLIENT
        assert await store.get_host_identity(CLIENT.id) == OTHER
        assert await store.get_pairing(CLIENT.id, BACKEND) == pairing
        assert await store.get_sticky(CLIENT.id) == sticky
        assert await store.list_sessions() == (SESSION,)
        assert await store.list_agents() == (AgentRecord("alpha", NOW, 1),)
        assert await store.list_drains() == (
            DrainRecord("alpha", NOW),
            DrainRecord(BACKEND, NOW, NOW + timedelta(hours=2)),
        )
        assert await store.app_ids_for(["Desktop"]) == ids


async def test_the_first_identity_is_kept(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.put_client(CLIENT)
        assert await store.add_edge_identity(IDENTITY) == IDENTITY
        assert await store.add_edge_identity(OTHER) == IDENTITY
        assert await store.add_host_identity(CLIENT.id, OTHER) == OTHER
        assert await store.add_host_identity(CLIENT.id, IDENTITY) == OTHER


async def test_a_host_identity_needs_its_client(open_store: OpenStore) -> None:
    async with open_store() as store:
        with pytest.raises(StoreError) as caught:
            await store.add_host_identity(CLIENT.id, OTHER)
        assert caught.value.reason == "conflict"


async def test_pairing_anew_keeps_what_belongs_to_the_client(open_store: OpenStore) -> None:
    again = ClientRecord(CLIENT.id, "Living room", b"DER2", NOW + timedelta(days=1))
    async with open_store() as store:
        await store.put_client(CLIENT)
        await store.add_host_identity(CLIENT.id, OTHER)
        await store.put_client(again)
        assert await store.list_clients() == (again,)
        assert await store.get_host_identity(CLIENT.id) == OTHER


async def test_a_deleted_client_leaves_nothing_behind(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.put_client(CLIENT)
        await store.add_host_identity(CLIENT.id, OTHER)
        await store.put_pairing(PairingRecord(CLIENT.id, BACKEND, b"der", NOW))
        await store.put_sticky(StickyRecord(CLIENT.id, BACKEND, NOW))
        assert await store.delete_client(CLIENT.id)
        assert await store.get_host_identity(CLIENT.id) is None
        assert await store.get_pairing(CLIENT.id, BACKEND) is None
        assert await store.get_sticky(CLIENT.id) is None


async def test_clients_are_listed_longest_paired_first(open_store: OpenStore) -> None:
    older = ClientRecord("ff" * 32, "Phone", b"", NOW - timedelta(hours=1))
    async with open_store() as store:
        await store.put_client(CLIENT)
        await store.put_client(older)
        assert await store.list_clients() == (older, CLIENT)


async def test_put_replaces_and_delete_tells(open_store: OpenStore) -> None:
    moved = BackendId("beta/wolf")
    async with open_store() as store:
        await store.put_client(CLIENT)
        for backend in (BACKEND, moved):
            await store.put_sticky(StickyRecord(CLIENT.id, backend, NOW))
        assert await store.get_sticky(CLIENT.id) == StickyRecord(CLIENT.id, moved, NOW)
        assert not await store.delete_sticky(CLIENT.id, BACKEND)
        assert await store.delete_sticky(CLIENT.id, moved)
        for der in (b"1", b"2"):
            await store.put_pairing(PairingRecord(CLIENT.id, BACKEND, der, NOW))
        assert await store.get_pairing(CLIENT.id, moved) is None
        pairing = await store.get_pairing(CLIENT.id, BACKEND)
        assert pairing is not None
        assert pairing.host_certificate_der == b"2"
        assert await store.delete_pairing(CLIENT.id, BACKEND)


async def test_a_session_follows_its_states(open_store: OpenStore) -> None:
    paused = SessionRecord(
        "s1", CLIENT.id, BACKEND, "Desktop", "paused", NOW, NOW + timedelta(seconds=5), b"new"
    )
    async with open_store() as store:
        await store.add_session(SESSION)
        assert await store.update_session(paused)
        assert not await store.update_session(SESSION), "a late write must not undo a later state"
        assert await store.list_sessions() == (paused,)
        assert await store.delete_session("s1")
        assert not await store.update_session(paused), "what has ended stays ended"
        assert await store.list_sessions() == ()


async def test_a_session_is_added_once(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.add_session(SESSION)
        with pytest.raises(StoreError) as caught:
            await store.add_session(SESSION)
        assert caught.value.reason == "conflict"


async def test_a_client_can_be_given_to_another_user(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.put_client(CLIENT)
        for user in ("ben", None):
            assert await store.set_client_user(CLIENT.id, user)
            assert await store.get_client(CLIENT.id) == replace(CLIENT, user=user)


async def test_tokens_rotate_and_are_revoked_together(open_store: OpenStore) -> None:
    old, new = token_hash(new_agent_token()), token_hash(new_agent_token())
    async with open_store() as store:
        await store.put_agent_token("alpha", old, NOW)
        await store.put_agent_token("alpha", new, NOW + timedelta(days=1))
        await store.put_agent_token("beta", b"b" * 32, NOW)
        assert await store.agent_for_token_hash(old) == "alpha"
        assert await store.agent_for_token_hash(new) == "alpha"
        assert await store.list_agents() == (
            AgentRecord("alpha", NOW, 2),
            AgentRecord("beta", NOW, 1),
        )
        assert await store.revoke_agent("alpha")
        assert await store.agent_for_token_hash(new) is None
        assert await store.agent_for_token_hash(b"b" * 32) == "beta"


async def test_another_process_token_is_seen_at_once(open_store: OpenStore) -> None:
    async with open_store() as edge, open_store() as command_line:
        assert await edge.agent_for_token_hash(b"h" * 32) is None
        await command_line.put_agent_token("alpha", b"h" * 32, NOW)
        assert await edge.agent_for_token_hash(b"h" * 32) == "alpha"
        await command_line.revoke_agent("alpha")
        assert await edge.agent_for_token_hash(b"h" * 32) is None


async def test_a_drain_keeps_its_first_time_and_its_last_deadline(open_store: OpenStore) -> None:
    deadline = NOW + timedelta(hours=3)
    async with open_store() as store:
        await store.put_drain("alpha", NOW)
        await store.put_drain("alpha", NOW, deadline)
        assert await store.list_drains() == (DrainRecord("alpha", NOW, deadline),)
        await store.put_drain("alpha", NOW + timedelta(hours=1))
        await store.put_drain(BACKEND, NOW)
        assert await store.list_drains() == (DrainRecord("alpha", NOW), DrainRecord(BACKEND, NOW))
        assert await store.delete_drain("alpha")
        assert await store.list_drains() == (DrainRecord(BACKEND, NOW),)


async def test_app_ids_are_by_normalised_title(open_store: OpenStore) -> None:
    async with open_store() as store:
        ids = await store.app_ids_for(["Desktop", "  DESKTOP ", "Steam", "\n"])
        assert ids == {"desktop": apps.app_id("Desktop"), "steam": apps.app_id("Steam")}


async def test_colliding_titles_get_ids_of_their_own(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "app_id", lambda _title, attempt: 7 + attempt)
    async with open_store() as store:
        assert await store.app_ids_for(["Aa"]) == {"aa": 7}
        assert await store.app_ids_for(["Bb", "Aa", "Cc"]) == {"aa": 7, "bb": 8, "cc": 9}
    async with open_store() as store:
        assert await store.app_ids_for(["Cc"]) == {"cc": 9}


async def test_many_tasks_at_once(open_store: OpenStore) -> None:
    async with open_store() as store:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(store.put_drain, f"agent-{number:02}", NOW)
        assert len(await store.list_drains()) == 20


# SQLite in particular


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


async def test_another_key_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path / "moonhost.db", KEY) as store:
        await store.add_edge_identity(IDENTITY)
    async with SqliteStore.open(tmp_path / "moonhost.db", bytes(32)) as store:
        with pytest.raises(StoreError, match="is this the key it was written with"):
            await store.get_edge_identity()


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
