"""Data WebSockets that an agent has opened before anybody needs them.

Opening one costs four round trips: the request, TCP, TLS, the upgrade. A launch needs ten of them
one after the other, so while an agent is in use a few wait here, and a dial costs no round trip at
all: what it is for is said on the connection itself. An agent that nobody has used for a while has
none, so that thousands of idle ones cost little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio
from websockets.exceptions import ConnectionClosed

from revdial.errors import TunnelError
from revdial.messages import CloseCode
from revdial.websocket import TunnelWebSocket

retry_interval_s: Final = 10.0
"""After an agent did not open one."""


@dataclass(eq=False)
class _Spare:
    websocket: TunnelWebSocket
    watch: trio.CancelScope = field(default_factory=trio.CancelScope)
    unwatched: trio.Event = field(default_factory=trio.Event)


class SparePool:
    """The spares of one agent. Its owner runs `run` for as long as they are wanted.

    Args:
        open_one: has the agent open one; raises `TunnelError` where it does not.
        count: how many wait at a time.
        linger_s: how long after the last use they are kept.

    """

    def __init__(
        self, open_one: Callable[[], Awaitable[TunnelWebSocket]], *, count: int, linger_s: float
    ) -> None:
        self._open_one = open_one
        self._count = count
        self._linger_s = linger_s
        self._waiting: deque[_Spare] = deque()
        self._used = trio.Event()
        self._used_at = -linger_s

    def __len__(self) -> int:
        return len(self._waiting)

    async def take(self) -> TunnelWebSocket | None:
        """Give a spare away, or None where none is ready; either way, more are wanted now."""
        self._used_at = trio.current_time()
        self._used.set()
        while self._waiting:
            spare = self._waiting.popleft()
            spare.watch.cancel()
            try:
                await spare.unwatched.wait()
            except BaseException:
                # Nobody else knows of it any more.
                await spare.websocket.abort()
                raise
            if spare.websocket.is_open:
                return spare.websocket
        return None

    async def run(self) -> None:
        """Keep as many as there should be, until cancelled."""
        if not self._count:
            return
        async with trio.open_nursery() as nursery:
            while True:
                self._used = trio.Event()
                if trio.current_time() >= self._used_at + self._linger_s:
                    await self._close_all()
                    await self._used.wait()
                elif len(self._waiting) >= self._count:
                    with trio.move_on_at(self._used_at + self._linger_s):
                        await self._used.wait()
                else:
                    await self._add_one(nursery)

    async def _add_one(self, nursery: trio.Nursery) -> None:
        try:
            spare = _Spare(await self._open_one())
        except TunnelError:
            # Whoever needs a connection hears why there is none.
            await trio.sleep(retry_interval_s)
            return
        self._waiting.append(spare)
        nursery.start_soon(self._watch, spare)

    async def _watch(self, spare: _Spare) -> None:
        """Notice its end, and answer pings; an agent has nothing to say there by itself."""
        try:
            with spare.watch:
                await spare.websocket.recv()
                await spare.websocket.close_politely(CloseCode.PROTOCOL_ERROR, "nothing was asked")
        except ConnectionClosed:
            pass
        finally:
            if spare in self._waiting:
                self._waiting.remove(spare)
                self._used.set()
            spare.unwatched.set()

    async def _close_all(self) -> None:
        while self._waiting:
            spare = self._waiting.popleft()
            spare.watch.cancel()
            await spare.unwatched.wait()
            await spare.websocket.close_politely()
