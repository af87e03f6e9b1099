"""One UDP flow over one data WebSocket: batches in, batches out, and no queue that grows old.

Whoever reads the UDP socket calls `send_batch`, which never waits. While the tunnel takes what it
is given, that is all there is to it: one message, in one turn of one task. Once it does not, what
comes enters a `Backlog`, and a task of the channel's owner (`run`) sends on as soon as the tunnel
takes more, without what became stale meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import trio
from websockets.exceptions import ConnectionClosed

from revdial.backlog import Backlog, BacklogLimits, Classify, Drop, each_alone
from revdial.errors import BadMessage, TunnelClosed
from revdial.framing import Batch, Run, decode_batch, encode_runs
from revdial.messages import CloseCode, FlowRate, decode_rate, encode_rate
from revdial.observer import Loss, TunnelObserver
from revdial.stream import cause_of
from revdial.websocket import TunnelWebSocket

send_timeout_s = 10.0
bbr_restart_interval_s = 8.0
"""Shorter than the 10 s after which it would stop to measure the path; see `Transport`."""

_LOSSES = {
    Drop.PARITY: Loss.FLOW_PARITY,
    Drop.STALE: Loss.FLOW_STALE,
    Drop.OVERFULL: Loss.FLOW_OVERFULL,
}


class DatagramChannel(trio.abc.AsyncResource):
    """Datagrams of one flow, both ways. Its owner runs `run` for as long as it is used.

    `classify` tells what to drop first; `steady` is for what would feel a pause, as video does.
    """

    def __init__(
        self,
        websocket: TunnelWebSocket,
        limits: BacklogLimits,
        observer: TunnelObserver,
        classify: Classify = each_alone,
        *,
        steady: bool = False,
    ) -> None:
        self._websocket = websocket
        self._backlog = Backlog(limits, classify)
        self._observer = observer
        self._reported: Counter[Drop] = Counter()
        self._stuck = trio.Event()
        self._in_flight = 0
        self._peak_age_s = 0.0
        self._steady = steady
        self._on_rate: Callable[[int], None] = _ignore

    def on_rate(self, take: Callable[[int], None]) -> None:
        """Have `take` called with the kbit/s that the peer tells of this flow."""
        self._on_rate = take

    @property
    def closed(self) -> trio.Event:
        """Set once the data connection is gone, whoever ended it."""
        return self._websocket.stream_closed

    @property
    def dropped(self) -> Counter[Drop]:
        """Datagrams this side dropped before the tunnel, by reason."""
        return self._backlog.dropped

    @property
    def dropped_frames(self) -> int:
        """Frames among them that were dropped whole, or what had come of them."""
        return self._backlog.dropped_frames

    def take_peak_age_s(self) -> float:
        """How long the oldest datagram has waited at most since this was last asked."""
        peak_s = max(self._peak_age_s, self._backlog.age_s(trio.current_time()))
        self._peak_age_s = 0.0
        return peak_s

    def tell_rate(self, kbps: int) -> None:
        """Tell the peer, the agent, how much the host was asked for; `TunnelClosed` at the end."""
        try:
            self._websocket.send_nowait(encode_rate(FlowRate(kbps)))
        except ConnectionClosed as error:
            raise _gone(error) from cause_of(error)

    def send_batch(self, runs: Iterable[Run]) -> None:
        """Send or queue datagrams that arrived now. Never waits; `TunnelClosed` at the end."""
        if not self._websocket.is_open:
            closed = self._websocket.closed_error()
            raise _gone(closed) from cause_of(closed)
        now_s = trio.current_time()
        # Before what is too old makes room.
        self._peak_age_s = max(self._peak_age_s, self._backlog.age_s(now_s))
        self._backlog.push(runs, now_s)
        if self._stuck.is_set():
            self._report()
            return
        try:
            self._send_on(now_s)
        except ConnectionClosed as error:
            raise _gone(error) from cause_of(error)

    async def receive_batch(self) -> Batch:
        """The next batch of the peer; `TunnelClosed` at the end, `BadMessage` for rubbish."""
        try:
            while isinstance(message := await self._websocket.recv(), str):
                self._on_rate(decode_rate(message).kbps)
            return decode_batch(message)
        except ConnectionClosed as error:
            raise _gone(error) from cause_of(error)
        except BadMessage as error:
            await self._websocket.close_politely(CloseCode.PROTOCOL_ERROR, error.message)
            raise

    async def aclose(self) -> None:
        """Close the data connection; what still waits is dropped and counted."""
        await self._websocket.close_politely()

    async def run(self) -> None:
        """Send what the tunnel did not take at once, until the connection ends."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._get_unstuck)
                if self._steady:
                    nursery.start_soon(self._keep_steady)
                await self.closed.wait()
                nursery.cancel_scope.cancel()
        finally:
            if left := self._backlog.datagrams + self._in_flight:
                self._observer.lost(Loss.FLOW_CLOSED, left)

    async def _get_unstuck(self) -> None:
        while True:
            await self._stuck.wait()
            try:
                with trio.fail_after(send_timeout_s):
                    await self._websocket.flush()
                self._stuck = trio.Event()
                self._in_flight = 0
                now_s = trio.current_time()
                self._peak_age_s = max(self._peak_age_s, self._backlog.age_s(now_s))
                self._send_on(now_s)
            except ConnectionClosed:
                return
            except trio.TooSlowError:
                self._observer.lost(Loss.SEND_TIMEOUT)
                await self._websocket.abort()
                return
            except BadMessage:
                # Nothing that fits the limits is too large for a message; but this flow's
                # datagrams come from outside, and the others of its tunnel must not pay.
                await self._websocket.abort()
                return

    async def _keep_steady(self) -> None:
        """Keep BBR from pausing, unless the path is full: there its pause empties a queue."""
        while True:
            dropped = self._backlog.dropped.total()
            await trio.sleep(bbr_restart_interval_s)
            if self._backlog.dropped.total() == dropped:
                self._websocket.restart_bbr()

    def _send_on(self, now_s: float) -> None:
        """Send from the backlog until it is empty or the tunnel is full."""
        while runs := self._backlog.pop(now_s):
            self._in_flight = sum(map(len, runs))
            self._websocket.send_nowait(encode_runs(int(now_s * 1_000_000), runs))
            if self._websocket.unsent_bytes:
                self._stuck.set()
                break
            self._in_flight = 0
        if self._backlog.dropped:
            self._report()

    def _report(self) -> None:
        for drop, total in self._backlog.dropped.items():
            if total != self._reported[drop]:
                self._observer.lost(_LOSSES[drop], total - self._reported[drop])
                self._reported[drop] = total


def _ignore(_: int) -> None:
    """Take no notice of a rate."""


def _gone(error: ConnectionClosed) -> TunnelClosed:
    cause = cause_of(error)
    return TunnelClosed(cause.reason, cause.message)
