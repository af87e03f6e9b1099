"""One lock a key, for as long as somebody holds it or waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import trio

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(slots=True)
class _Entry:
    lock: trio.Lock = field(default_factory=trio.Lock)
    users: int = 0


class KeyedLocks(Generic[_Key]):
    """Lets one task at a time do something about a key; forgets keys that nobody uses."""

    def __init__(self) -> None:
        self._entries: dict[_Key, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @asynccontextmanager
    async def held(self, key: _Key, *, timeout_s: float) -> AsyncIterator[None]:
        """Hold the lock of `key` for a block.

        Raises:
            trio.TooSlowError: others held it for `timeout_s`.

        """
        entry = self._entries.setdefault(key, _Entry())
        entry.users += 1
        try:
            with trio.fail_after(timeout_s):
                await entry.lock.acquire()
            try:
                yield
            finally:
                entry.lock.release()
        finally:
            entry.users -= 1
            if not entry.users:
                del self._entries[key]
