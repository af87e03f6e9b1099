"""A store, timed: how long its operations take, and whether it answers."""

from __future__ import annotations

import inspect
from typing import Any, Final, cast

import trio

from backends.errors import StoreError
from backends.store import Store
from proxy.tallies import Histogram

_bounds_s: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_reading: Final = ("get_", "list_", "agent_for_", "api_token_for_")
READ: Final = "read"
WRITE: Final = "write"


class StoreFigures:
    """What was seen of a store."""

    def __init__(self) -> None:
        self.seconds = {READ: Histogram(_bounds_s), WRITE: Histogram(_bounds_s)}
        """Of all operations, those that failed included."""
        self.failures = {READ: 0, WRITE: 0}
        self.up = True
        """Whether the last operation succeeded; the edge asks for the drains every 5 s."""


def measured(store: Store, figures: StoreFigures) -> Store:
    """Return the same store, each of whose operations is measured."""
    return cast("Store", _Measured(store, figures))


class _Measured:
    def __init__(self, store: Store, figures: StoreFigures) -> None:
        self._store = store
        self._figures = figures

    def __getattr__(self, name: str) -> Any:
        """Give an operation of the store; it is asked for here but once."""
        operation = getattr(self._store, name)
        if not inspect.iscoroutinefunction(operation):
            return operation
        figures, kind = self._figures, READ if name.startswith(_reading) else WRITE

        async def timed(*arguments: Any, **named: Any) -> Any:
            began_at = trio.current_time()
            try:
                result = await operation(*arguments, **named)
            except StoreError:
                figures.failures[kind] += 1
                figures.up = False
                raise
            else:
                figures.up = True
                return result
            finally:
                figures.seconds[kind].observe(trio.current_time() - began_at)

        setattr(self, name, timed)
        return timed
