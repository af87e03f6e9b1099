"""One SQLite file behind trio: a single connection, and one thread at a time that uses it.

A second process (the command line) may have the file open too: readers see each other's commits
at once, and writers wait for one another up to `busy_timeout_ms`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from backends.errors import StoreError
from backends.schema import migrate

_T = TypeVar("_T")
Row = tuple[Any, ...]


class SqliteFile:
    """Statements on one file, which only its owner can read; `StoreError` for all that fails.

    What takes longer than `operation_timeout_s` raises, and may still happen later. (Under trio's
    autojumping test clock pass infinity: that clock does not wait for threads.)
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, operation_timeout_s: float
    ) -> None:
        self._connection = connection
        self._path = path
        self._operation_timeout_s = operation_timeout_s
        self._one_at_a_time = trio.CapacityLimiter(1)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path,
        *,
        busy_timeout_ms: int,
        operation_timeout_s: float,
        read_only: bool = False,
    ) -> AsyncIterator[SqliteFile]:
        """Open the file, made and brought to the newest schema as needed; not if `read_only`."""
        connect = _connect_to_read if read_only else _connect
        connection = await trio.to_thread.run_sync(connect, path, busy_timeout_ms)
        file = cls(connection, path, operation_timeout_s)
        try:
            yield file
        finally:
            # Behind whatever was given up but still runs, so that nothing is torn off half-way.
            with trio.move_on_after(operation_timeout_s, shield=True):
                await trio.to_thread.run_sync(connection.close, limiter=file._one_at_a_time)

    async def one(self, sql: str, *values: object) -> Row | None:
        """Run a statement and give its first row."""
        rows = await self.all(sql, *values)
        return rows[0] if rows else None

    async def all(self, sql: str, *values: object) -> list[Row]:
        """Run a statement and give its rows."""
        return await self.run(lambda connection: connection.execute(sql, values).fetchall())

    async def execute(self, sql: str, *values: object) -> int:
        """Run a statement and tell how many rows it changed."""
        return await self.run(lambda connection: connection.execute(sql, values).rowcount)

    async def run(self, function: Callable[[sqlite3.Connection], _T]) -> _T:
        """Call `function` with the connection, in the thread."""
        try:
            with trio.fail_after(self._operation_timeout_s):
                return await trio.to_thread.run_sync(
                    function, self._connection, limiter=self._one_at_a_time, abandon_on_cancel=True
                )
        except trio.TooSlowError:
            raise StoreError(
                "timeout",
                f"The store {self._path} did not answer within {self._operation_timeout_s:g} s.",
            ) from None
        except sqlite3.Error as error:
            raise _store_error(self._path, error) from error


def _connect(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made here, since SQLite would make it readable by all; its WAL files inherit the mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(
            path, timeout=busy_timeout_ms / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise _store_error(path, error) from error
    except OSError as error:
        raise StoreError("io", f"The store {path} cannot be opened: {error.strerror}.") from error
    return connection


def _connect_to_read(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    # Without other processes' log there is nothing to share: SQLite would make one all the same.
    alone = not path.with_name(f"{path.name}-wal").exists()
    try:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}",
            uri=True,
            timeout=busy_timeout_ms / 1000,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise _store_error(path, error) from error


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # Survives a killed process; a power cut can cost the last commits, never the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")
    migrate(connection)


def _store_error(path: Path, error: sqlite3.Error) -> StoreError:
    if isinstance(error, sqlite3.IntegrityError):
        reason = "conflict"
    elif "locked" in str(error):
        reason = "busy"
    else:
        reason = "io"
    # SQLite's messages name tables and causes, never values.
    return StoreError(reason, f"The store {path} cannot be used: {error}.")
