"""A MaxMind-format database, copied whole from its file into memory.

Copied, since updaters overwrite the file in place: under a memory map that would be nonsense at
best, and SIGBUS where the file gets shorter. Read in Python, since the C reader (maxminddb 3.2.0)
crashes on damaged records, as on a map with a map for a key; the difference is 50 µs a launch.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import maxminddb

from backends.errors import GeoDatabaseError
from backends.geography import Address

_max_type_characters: Final = 64


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What differs once a file was replaced or overwritten."""

    inode: int
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileVersion:
        """Take the version out of what ``stat`` told."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


class MalformedCopy(GeoDatabaseError):
    """One version of the file is of no use; another may be."""

    def __init__(self, reason: str, message: str, version: FileVersion) -> None:
        super().__init__(reason, message)
        self.version = version


@dataclass(frozen=True, slots=True)
class GeoCopy:
    """One version of a database; `built_at` is None where the file gives no such time."""

    version: FileVersion
    ip_version: int
    database_type: str
    built_at: datetime | None
    _reader: maxminddb.Reader = field(repr=False)

    def knows_version_of(self, address: Address) -> bool:
        """Tell whether such addresses can be looked up: IPv4 in any file, IPv6 in some."""
        return address.version == 4 or self.ip_version == 6

    def record(self, address: Address) -> object:
        """Return what the database has for an address, None for nothing.

        Raises:
            GeoDatabaseError: the database is damaged at this place.

        """
        try:
            return self._reader.get(address)
        except Exception as error:
            # InvalidDatabaseError for most damage; also TypeError, UnicodeDecodeError and others.
            raise GeoDatabaseError(
                "malformed", f"it is damaged: {type(error).__name__} in a lookup"
            ) from error


def read_copy(path: Path, known: FileVersion | None, max_bytes: int) -> GeoCopy | None:
    """Copy a database from its file; None if that is still the `known` version. Blocks.

    Raises:
        MalformedCopy: there is no use in trying again before the file changes.
        GeoDatabaseError: the file is missing, unreadable, or was written to meanwhile.

    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise GeoDatabaseError("unreadable", "it is no regular file")
        if FileVersion.of(status) == known:
            return None
        with path.open("rb") as file:
            version = FileVersion.of(os.fstat(file.fileno()))
            if version.size_bytes > max_bytes:
                raise MalformedCopy("too_large", f"it has more than {max_bytes} bytes", version)
            content = file.read(version.size_bytes)
            after = FileVersion.of(os.fstat(file.fileno()))
    except FileNotFoundError:
        raise GeoDatabaseError("missing", "there is no such file") from None
    except OSError as error:
        raise GeoDatabaseError("unreadable", f"it cannot be read: {error.strerror}") from error
    if after != version or len(content) != version.size_bytes:
        raise GeoDatabaseError("changing", "it is being written; it is read again later")
    return _parse(content, version)


def _parse(content: bytes, version: FileVersion) -> GeoCopy:
    try:
        reader = maxminddb.Reader(io.BytesIO(content), maxminddb.MODE_FD)
        metadata = reader.metadata()
        ip_version, database_type = metadata.ip_version, metadata.database_type
        if ip_version not in (4, 6) or not isinstance(database_type, str):
            raise ValueError("the metadata are of wrong types")
    except Exception as error:
        # As in `record`: the reader takes metadata as they come.
        raise MalformedCopy(
            "malformed", "it is no database in MaxMind's format, or a damaged one", version
        ) from error
    shown_type = database_type[:_max_type_characters]
    return GeoCopy(version, ip_version, shown_type, _time(metadata.build_epoch), reader)


def _time(epoch_s: object) -> datetime | None:
    try:
        return datetime.fromtimestamp(epoch_s, UTC) if isinstance(epoch_s, int) else None
    except (OverflowError, OSError, ValueError):
        return None
