"""Where addresses are, looked up in MaxMind-format files that are read anew once they change."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Never

import structlog
import trio

from backends.errors import GeoDatabaseError
from backends.geo_copy import FileVersion, GeoCopy, MalformedCopy, read_copy
from backends.geo_records import names_country, place_in
from backends.geography import Address, Place, without_clothes

_log = structlog.get_logger()

max_database_bytes: Final = 1 << 30
read_timeout_s: Final = 60.0
max_known_addresses: Final = 16_384
"""Whose place is kept until a file changes."""


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """One file, for operators; what was read from it is counted since the edge started.

    `loaded` together with a `problem` means that the file's former content is still in use.
    """

    path: Path
    loaded: bool
    problem: str | None
    database_type: str | None
    built_at: datetime | None
    answered: int
    unknown: int
    """The file has no record, or one without coordinates."""
    failed: int
    """The record, or the file itself, was malformed."""


class GeoDatabase:
    """The configured files, asked in their order; all but the reading happens in trio's thread.

    Files are kept in memory: each costs its size, twice while it is replaced. Nothing is known
    before the first `reload_if_changed`, nor of a file that is missing or malformed: those are
    told of once in the log, and looked at again each time.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        max_database_bytes: int = max_database_bytes,
        read_timeout_s: float = read_timeout_s,
    ) -> None:
        self._max_database_bytes = max_database_bytes
        self._read_timeout_s = read_timeout_s
        self._files: list[_File] = []
        self._files = self._of(paths)
        # Players come again, and reading a record takes longer than choosing a backend.
        self._known = functools.lru_cache(maxsize=max_known_addresses)(self._read)
        self._known_of = 0

    def look_up(self, address: Address) -> Place | None:
        """Return the coordinates from the first file that has some for this address.

        Takes some 50 µs a file for an address that was not asked for lately. Never raises for
        what is in the files.
        """
        changes = sum(file.changes for file in self._files)
        if changes != self._known_of:
            self._known_of = changes
            self._known.cache_clear()
        return self._known(without_clothes(address))

    def _read(self, address: Address) -> Place | None:
        for file in self._files:
            place = file.look_up(address)
            if place is not None:
                return place
        return None

    async def reload_if_changed(self) -> None:
        """Read, in a thread, what was replaced, overwritten or came to be; drop what is gone."""
        await _reload(self._files)

    async def prepare(self, paths: Iterable[Path]) -> Callable[[], None]:
        """Read files that may take the place of these ones; what is returned puts them there."""
        files = self._of(paths)
        await _reload(file for file in files if file not in self._files)
        return lambda: self._use(files)

    def _of(self, paths: Iterable[Path]) -> list[_File]:
        known = {file.path: file for file in self._files}
        return [
            known.get(path) or _File(path, self._max_database_bytes, self._read_timeout_s)
            for path in paths
        ]

    def _use(self, files: list[_File]) -> None:
        self._files = files
        self._known.cache_clear()

    async def watch(
        self, interval_s: float, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> Never:
        """Load the files, report that as started, and look for changes until cancelled."""
        await self.reload_if_changed()
        task_status.started()
        while True:
            await trio.sleep(interval_s)
            await self.reload_if_changed()

    def status(self) -> tuple[DatabaseStatus, ...]:
        """Tell of each file, in the configured order."""
        return tuple(file.status() for file in self._files)


async def _reload(files: Iterable[_File]) -> None:
    async with trio.open_nursery() as nursery:
        for file in files:
            nursery.start_soon(file.reload_if_changed)


class _File:
    def __init__(self, path: Path, max_bytes: int, read_timeout_s: float) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._read_timeout_s = read_timeout_s
        # A read that was given up (a dead network mount) may still hang: no second beside it.
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._copy: GeoCopy | None = None
        self._seen: FileVersion | None = None
        self._problem: str | None = "not read yet"
        self._has_coordinates: bool | None = None
        self._answered = self._unknown = self._failed = 0
        self.changes = 0
        """How often it has come to hold something else."""

    def look_up(self, address: Address) -> Place | None:
        if self._copy is None or not self._copy.knows_version_of(address):
            return None
        try:
            record = self._copy.record(address)
        except GeoDatabaseError as error:
            self._failed += 1
            # Until the file changes: what else is in it can be trusted no more.
            self._copy = None
            self.changes += 1
            self._tell(error)
            return None
        try:
            place = None if record is None else place_in(record)
        except ValueError:
            self._failed += 1
            return None
        if place is None:
            self._unknown += 1
            self._doubt_coordinates(record)
            return None
        self._answered += 1
        self._has_coordinates = True
        return place

    async def reload_if_changed(self) -> None:
        try:
            with trio.fail_after(self._read_timeout_s):
                copy = await trio.to_thread.run_sync(
                    read_copy,
                    self.path,
                    self._seen,
                    self._max_bytes,
                    limiter=self._one_at_a_time,
                    abandon_on_cancel=True,
                )
        except trio.TooSlowError:
            self._tell(
                GeoDatabaseError("timeout", f"reading it took over {self._read_timeout_s:g} s")
            )
        except MalformedCopy as error:
            self._seen = error.version
            self._tell(error)
        except GeoDatabaseError as error:
            if error.reason == "missing":
                self._copy = self._seen = None
                self.changes += 1
            self._tell(error)
        else:
            if copy is not None:
                self._take(copy)
            elif self._copy is not None and self._copy.version == self._seen:
                self._problem = None

    def status(self) -> DatabaseStatus:
        copy = self._copy
        return DatabaseStatus(
            path=self.path,
            loaded=copy is not None,
            problem=self._problem,
            database_type=None if copy is None else copy.database_type,
            built_at=None if copy is None else copy.built_at,
            answered=self._answered,
            unknown=self._unknown,
            failed=self._failed,
        )

    def _take(self, copy: GeoCopy) -> None:
        # The former copy goes with its last reference: lookups are in this thread, none is on.
        self._copy, self._seen = copy, copy.version
        self.changes += 1
        self._problem = self._has_coordinates = None
        _log.info(
            "geo_database_loaded",
            path=str(self.path),
            database_type=copy.database_type,
            built_at=None if copy.built_at is None else copy.built_at.isoformat(),
        )

    def _tell(self, error: GeoDatabaseError) -> None:
        if str(error) != self._problem:
            self._problem = str(error)
            _log.warning(
                "geo_database_unusable",
                path=str(self.path),
                reason=error.reason,
                why=self._problem,
                former_content_in_use=self._copy is not None,
            )

    def _doubt_coordinates(self, record: object) -> None:
        # Even a city database knows no more than the country of some addresses.
        if self._has_coordinates is None and names_country(record):
            self._has_coordinates = False
            _log.warning(
                "geo_database_without_coordinates",
                path=str(self.path),
                why="it told a country but no coordinates: distances need a city database",
            )
