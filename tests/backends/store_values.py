"""The values that the tests of every store write and read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from backends.model import BackendId
from backends.records import ClientRecord, IdentityRecord, SessionRecord
from backends.store import Store

KEY = bytes(range(32))
NOW = datetime(2026, 11, 23, 8, 0, 0, 123456, tzinfo=UTC)
NEVER = datetime(2200, 1, 1, 0, 0, 0, 654321, tzinfo=UTC)
CLIENT = ClientRecord("ab" * 32, "Anna's TV", b"DER \x00", NOW, "anna")
IDENTITY = IdentityRecord(b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN CERTIFICATE-----")
OTHER = IdentityRecord(b"other key", b"other certificate")
BACKEND = BackendId("alpha/wolf")
SESSION = SessionRecord(
    "s1", CLIENT.id, BACKEND, "Desktop", "streaming", NOW, NOW, b"rikey and payloads"
)

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]
