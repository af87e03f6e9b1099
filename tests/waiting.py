"""Waiting in tests for what other tasks, threads or processes bring about and tell nobody of."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Final

import trio

deadline_s: Final = 10.0
# Asking without a pause would keep the interpreter's lock from threads: an encoder took 50 times
# as long beside such a loop, and tests failed on machines with other work.
_pause_s: Final = 0.001


async def until(
    condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = deadline_s
) -> None:
    """Wait until the condition holds; `trio.TooSlowError` where it does not in time."""
    with trio.fail_after(timeout_s):
        while True:
            holds = condition()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            await trio.sleep(_pause_s)
