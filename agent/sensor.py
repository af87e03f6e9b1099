"""A blocking reader, asked in a thread with a deadline: failing or hanging, it delays nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog
import trio

from revdial.errors import printable, where

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What a reader found; `faults` are sentences about what it should have found and did not."""

    value: T
    faults: tuple[str, ...] = ()


class Sensor(Generic[T]):
    """One reader: never asked twice at a time, its failures told once and its recovery once."""

    def __init__(self, name: str, read: Callable[[], Reading[T]], *, timeout_s: float) -> None:
        self._read = read
        self._timeout_s = timeout_s
        # A thread that hangs cannot be ended. It keeps its place here, so there is one at most.
        self._limiter = trio.CapacityLimiter(1)
        self._late = False
        self._failed = False
        self._log = structlog.get_logger().bind(reader=name)

    async def read(self) -> Reading[T] | None:
        """Give what the reader says, or None where it fails, or is not back within its time."""
        if self._hangs():
            return None
        self._late = False
        try:
            with trio.fail_after(self._timeout_s):
                reading = await trio.to_thread.run_sync(
                    self._read, abandon_on_cancel=True, limiter=self._limiter
                )
        except trio.TooSlowError:
            self._late = True
            self._tell((f"it was not back within {self._timeout_s:g} s",))
            return None
        except Exception as error:
            # Whatever a driver or a library comes up with, it must not cost a heartbeat.
            self._tell((where(error),))
            return None
        self._tell(reading.faults)
        return reading

    async def close(self, close: Callable[[], None]) -> None:
        """Call the reader's `close` within its time; one that hangs is left behind."""
        if self._hangs():
            return
        with trio.move_on_after(self._timeout_s, shield=True):
            await trio.to_thread.run_sync(close, abandon_on_cancel=True, limiter=self._limiter)

    def _hangs(self) -> bool:
        return self._late and not self._limiter.available_tokens

    def _tell(self, faults: tuple[str, ...]) -> None:
        if faults and not self._failed:
            self._log.warning("reading_failed", why=printable(faults[0]), faults=len(faults))
        elif self._failed and not faults:
            self._log.info("reading_works_again")
        self._failed = bool(faults)
