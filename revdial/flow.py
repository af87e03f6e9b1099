"""One UDP flow over one data WebSocket: batches in, batches out, and no queue that grows old.

Whoever reads the UDP socket calls `send_batch`, which never waits: the batch enters a `Backlog`,
and a task of the channel's owner (`run`) sends one message after the other, dropping what became
stale while the tunnel was slow. Receiving is the connection's own queue, a few messages long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import trio
from websockets.exceptions import ConnectionClosed

from revdial.backlog import Backlog, BacklogLimits, Drop
from revdial.errors import BadMessage, TunnelClosed
from revdial.framing import Batch, Run, decode_batch, encode_runs
from revdial.messages import CloseCode
from revdial.observer import Loss, TunnelObserver
from revdial.stream import cause_of
from revdial.websocket import TunnelWebSocket

send_timeout_s = 10.0

_LOSSES = {Drop.STALE: Loss.FLOW_STALE, Drop.OVERFULL: Loss.FLOW_OVERFULL}


class DatagramChannel(trio.abc.AsyncResource):
    """Datagrams of one flow, both ways. Its owner runs `run` for as long as it is used.

    The edge's end gives a `preamble`, which is sent before anything else.
    """

    def __init__(
        self,
        websocket: TunnelWebSocket,
        limits: BacklogLimits,
        observer: TunnelObserver,
        preamble: bytes | None = None,
    ) -> None:
        self._websocket = websocket
        self._backlog: Backlog[tuple[bytes, int]] = Backlog(limits)
        self._observer = observer
        self._reported: Counter[Drop] = Counter()
        self._wake = trio.Event()
        self._preamble = preamble
        self._in_flight = 0

    @property
    def closed(self) -> trio.Event:
        """Set once the data connection is gone, whoever ended it."""
        return self._websocket.stream_closed

    @property
    def dropped(self) -> Counter[Drop]:
        """Datagrams this side dropped before the tunnel, by reason."""
        return self._backlog.dropped

    @property
    def backlog_age_s(self) -> float:
        """How long the oldest waiting batch has waited."""
        return self._backlog.age_s(trio.current_time())

    def send_batch(self, runs: Iterable[Run]) -> None:
        """Queue datagrams that arrived now. Never waits; `TunnelClosed` where nobody sends."""
        if not self._websocket.is_open:
            raise TunnelClosed("data_connection_lost", "the data connection was lost")
        now_s = trio.current_time()
        runs = tuple(runs)
        message = encode_runs(int(now_s * 1_000_000), runs)
        datagrams = sum(map(len, runs))
        self._backlog.push((message, datagrams), len(message), datagrams, now_s)
        self._wake.set()

    async def receive_batch(self) -> Batch:
        """The next batch of the peer; `TunnelClosed` at the end, `BadMessage` for rubbish."""
        try:
            message = await self._websocket.recv()
        except ConnectionClosed as error:
            cause = cause_of(error)
            raise TunnelClosed(cause.reason, cause.message) from cause
        try:
            if isinstance(message, str):
                raise BadMessage("text_on_flow", "a flow carries binary messages only")
            return decode_batch(message)
        except BadMessage as error:
            await self._websocket.close_politely(CloseCode.PROTOCOL_ERROR, error.message)
            raise

    async def aclose(self) -> None:
        """Close the data connection; what still waits is dropped and counted."""
        await self._websocket.close_politely()

    async def run(self) -> None:
        """Send what is queued until the connection ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            await self.closed.wait()
            nursery.cancel_scope.cancel()

    async def _send(self) -> None:
        try:
            if self._preamble is not None and not await self._send_message(self._preamble):
                return
            while await self._send_next():
                pass
        finally:
            if left := self._backlog.datagrams + self._in_flight:
                self._observer.lost(Loss.FLOW_CLOSED, left)

    async def _send_next(self) -> bool:
        """Send one batch, after waiting for it; False when the connection has ended."""
        batch = self._backlog.pop(trio.current_time())
        self._report()
        if batch is None:
            self._wake = trio.Event()
            await self._wake.wait()
            return True
        message, self._in_flight = batch
        if not await self._send_message(message):
            return False
        self._in_flight = 0
        return True

    async def _send_message(self, message: bytes) -> bool:
        try:
            with trio.fail_after(send_timeout_s):
                await self._websocket.send(message)
        except ConnectionClosed:
            return False
        except trio.TooSlowError:
            self._observer.lost(Loss.SEND_TIMEOUT)
            await self._websocket.abort()
            return False
        return True

    def _report(self) -> None:
        for drop, total in self._backlog.dropped.items():
            if total != self._reported[drop]:
                self._observer.lost(_LOSSES[drop], total - self._reported[drop])
                self._reported[drop] = total
