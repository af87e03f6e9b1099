"""What the edge waits for: dials until somebody picks them up, requests until they are answered.

A dial's id is the only thing that joins a data connection to whoever asked for it. So ids are 192
random bits, are good once, only for the tunnel that was asked, and only as long as someone waits.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import trio

T = TypeVar("T")

id_bytes = 24


def new_id() -> str:
    """An id nobody can guess."""
    return secrets.token_urlsafe(id_bytes)


class Pending(Generic[T]):
    """One result, or one error, that one task waits for; `tunnel` is whose agent was asked."""

    def __init__(self, tunnel: int) -> None:
        self.tunnel = tunnel
        self._event = trio.Event()
        self._result: T | None = None
        self._error: Exception | None = None
        self._abandoned = False

    def deliver(self, result: T) -> bool:
        """Hand the result over; False where nobody waits any more."""
        if self._abandoned or self._event.is_set():
            return False
        self._result = result
        self._event.set()
        return True

    def fail(self, error: Exception) -> bool:
        """Hand an error over; False where nobody waits any more."""
        if self._abandoned or self._event.is_set():
            return False
        self._error = error
        self._event.set()
        return True

    def abandon(self) -> T | None:
        """Stop waiting; returns a result that had come and that nobody took."""
        self._abandoned = True
        return self._result

    async def wait(self) -> T:
        """The result, or its error raised."""
        await self._event.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None  # noqa: S101 - set before the event
        return self._result


class PendingTable(Generic[T]):
    """Everything waited for, by id."""

    def __init__(self, make_id: Callable[[], str] = new_id) -> None:
        self._make_id = make_id
        self._by_id: dict[str, Pending[T]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    @contextmanager
    def waiting(self, tunnel: int) -> Iterator[tuple[str, Pending[T]]]:
        """An id to send through that tunnel, known while the block runs or until claimed."""
        pending: Pending[T] = Pending(tunnel)
        pending_id = self._make_id()
        self._by_id[pending_id] = pending
        try:
            yield pending_id, pending
        finally:
            self._by_id.pop(pending_id, None)

    def __contains__(self, pending_id: str) -> bool:
        return pending_id in self._by_id

    def claim(self, pending_id: str, tunnel: int) -> Pending[T] | None:
        """Use up an id; None where it is unknown, used, or another tunnel's (then it stays)."""
        pending = self._by_id.get(pending_id)
        if pending is None or pending.tunnel != tunnel:
            return None
        return self._by_id.pop(pending_id)

    def fail_all(self, tunnel: int, error: Exception) -> None:
        """The tunnel is gone: nothing it was asked for will come."""
        for pending in self._by_id.values():
            if pending.tunnel == tunnel:
                pending.fail(error)
