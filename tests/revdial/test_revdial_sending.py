"""Who sends never waits for ever: a peer that takes nothing is given up after a deadline."""

from __future__ import annotations

from typing import Any, cast

import pytest
import structlog
import trio
import trio.testing
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from revdial.backlog import BacklogLimits, Drop
from revdial.errors import BadMessage, TunnelClosed
from revdial.flow import DatagramChannel, bbr_restart_interval_s
from revdial.framing import decode_batch, encode_batch, gather
from revdial.messages import Dial, FlowRate, Heartbeat, encode_rate
from revdial.observer import Counters, Loss
from revdial.outbox import Outbox, max_queued_control_messages
from revdial.websocket import TunnelWebSocket, library_log


class Clogged:
    """A WebSocket whose peer takes the first few messages and then no more."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.sent: list[Any] = []
        self.stream_closed = trio.Event()
        self.unclogged = trio.Event()
        self.unsent_bytes = 0
        self.restarts = 0
        self.to_come: list[Any] = []
        self.closed_with: list[int] = []

    @property
    def is_open(self) -> bool:
        return not self.stream_closed.is_set()

    def send_nowait(self, message: Any) -> None:
        self.sent.append(message)
        self.unsent_bytes = max(0, len(self.sent) - self.room)

    async def flush(self) -> None:
        if self.unsent_bytes:
            await self.unclogged.wait()
            self.unsent_bytes = 0

    async def recv(self) -> Any:
        await trio.lowlevel.checkpoint()
        return self.to_come.pop(0)

    async def close_politely(self, code: int, _: str) -> None:
        self.closed_with.append(code)

    async def send(self, message: Any) -> None:
        if len(self.sent) >= self.room:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    async def abort(self) -> None:
        self.stream_closed.set()

    def closed_error(self) -> ConnectionClosed:
        return ConnectionClosedError(None, None, None)

    def restart_bbr(self) -> None:
        self.restarts += 1

    def as_websocket(self) -> TunnelWebSocket:
        return cast("TunnelWebSocket", self)


async def test_a_flow_whose_peer_takes_nothing_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    peer, counters = Clogged(), Counters()
    flow = DatagramChannel(peer.as_websocket(), BacklogLimits(50, 2**20), counters)
    flow.send_batch(gather([b"one"] * 5))
    with trio.fail_after(11):
        await flow.run()
    assert counters.losses == {Loss.SEND_TIMEOUT: 1, Loss.FLOW_CLOSED: 5}
    with pytest.raises(TunnelClosed):
        flow.send_batch(gather([b"two"]))


async def test_what_was_not_sent_at_the_end_is_counted() -> None:
    peer, counters = Clogged(), Counters()
    flow = DatagramChannel(peer.as_websocket(), BacklogLimits(50, 2**20), counters)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flow.run)
        flow.send_batch(gather([b"in flight"] * 2))
        await trio.testing.wait_all_tasks_blocked()
        flow.send_batch(gather([b"waiting"] * 7))
        nursery.cancel_scope.cancel()
    assert counters.losses == {Loss.FLOW_CLOSED: 9}


async def test_a_flow_that_was_slow_sends_only_what_is_fresh(
    autojump_clock: trio.testing.MockClock,
) -> None:
    peer, counters = Clogged(), Counters()
    flow = DatagramChannel(peer.as_websocket(), BacklogLimits(50, 2**20), counters)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flow.run)
        flow.send_batch(gather([b"begun"]))
        flow.send_batch(gather([b"stale"] * 7))
        await trio.sleep(0.06)
        flow.send_batch(gather([b"fresh"]))
        peer.room = 9
        peer.unclogged.set()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    sent = [[bytes(d) for d in decode_batch(message).datagrams()] for message in peer.sent]
    assert sent == [[b"begun"], [b"fresh"]]
    assert counters.losses == {Loss.FLOW_STALE: 7}
    assert flow.dropped == {Drop.STALE: 7}
    # What was dropped has waited, too.
    assert flow.take_peak_age_s() == pytest.approx(0.06)


async def test_a_flow_sends_at_once_what_its_peer_takes() -> None:
    peer = Clogged(room=9)
    flow = DatagramChannel(peer.as_websocket(), BacklogLimits(50, 2**20), Counters())
    flow.send_batch(gather([b"one"]))
    flow.send_batch(gather([b"two"]))
    assert len(peer.sent) == 2
    assert not flow.dropped


async def test_a_steady_flow_is_not_stopped_to_measure_its_path_unless_that_is_full(
    autojump_clock: trio.testing.MockClock,
) -> None:
    peer = Clogged(room=99)
    flow = DatagramChannel(peer.as_websocket(), BacklogLimits(50, 2**20), Counters(), steady=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flow.run)
        await trio.sleep(bbr_restart_interval_s * 2 + 1)
        assert peer.restarts == 2
        peer.room = 0
        flow.send_batch(gather([b"stuck"]))
        flow.send_batch(gather([b"stale"]))
        await trio.sleep(1)
        flow.send_batch(gather([b"stale too"]))
        assert flow.dropped == {Drop.STALE: 1}
        await trio.sleep(bbr_restart_interval_s)
        assert peer.restarts == 2
        nursery.cancel_scope.cancel()


async def test_an_agent_hears_the_rate_of_a_flow_between_its_batches() -> None:
    peer, rates = Clogged(), list[int]()
    peer.to_come = [encode_rate(FlowRate(20_000)), encode_batch(7, [b"batch"])]
    flow = DatagramChannel(peer.as_websocket(), BacklogLimits(50, 2**20), Counters())
    flow.on_rate(rates.append)
    assert [bytes(one) for one in (await flow.receive_batch()).datagrams()] == [b"batch"]
    assert rates == [20_000]
    peer.to_come = [encode_rate(FlowRate(1)), encode_batch(7, [b"nobody listens"])]
    flow = DatagramChannel(peer.as_websocket(), BacklogLimits(50, 2**20), Counters())
    assert (await flow.receive_batch()).microseconds == 7


@pytest.mark.parametrize("text", ["hello", '{"type":"flowrate","kbps":0}', '{"type":"dial"}'])
async def test_other_text_on_a_flow_is_refused(text: str) -> None:
    peer = Clogged()
    peer.to_come = [text]
    flow = DatagramChannel(peer.as_websocket(), BacklogLimits(50, 2**20), Counters())
    with pytest.raises(BadMessage):
        await flow.receive_batch()
    assert peer.closed_with == [4002]


async def test_a_flow_ends_with_its_connection() -> None:
    peer = Clogged()
    flow = DatagramChannel(peer.as_websocket(), BacklogLimits(50, 2**20), Counters())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flow.run)
        await trio.testing.wait_all_tasks_blocked()
        peer.stream_closed.set()
        with trio.fail_after(5):
            while nursery.child_tasks:
                await trio.testing.wait_all_tasks_blocked()


async def test_a_control_peer_that_takes_nothing_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    peer, counters = Clogged(room=1), Counters()
    outbox = Outbox(peer.as_websocket(), counters)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        for _ in range(3):
            await outbox.put(Heartbeat())
        with trio.fail_after(11):
            await peer.stream_closed.wait()
    assert len(peer.sent) == 1
    assert counters.losses == {Loss.SEND_TIMEOUT: 1}
    with pytest.raises(TunnelClosed):
        await outbox.put(Heartbeat())


async def test_an_outbox_holds_only_so_much_and_nothing_unsendable() -> None:
    outbox = Outbox(Clogged().as_websocket(), Counters())
    for _ in range(max_queued_control_messages):
        await outbox.put(Heartbeat())
    with trio.move_on_after(0) as scope:
        await outbox.put(Heartbeat())
    assert scope.cancelled_caught
    with pytest.raises(BadMessage):
        await outbox.put(Dial("id", "stream", "", "http"))


def test_the_librarys_log_is_errors_only_on_one_line_without_their_text() -> None:
    log = library_log()
    with structlog.testing.capture_logs() as events:
        log.debug("> Authorization: Bearer secret")
        log.info("connection open")
        try:
            raise ValueError("secret")
        except ValueError:
            log.error("unexpected internal error", exc_info=True)  # noqa: G201
    [event] = events
    assert (event["what"], event["error"]) == ("unexpected internal error", "ValueError")
    assert "secret" not in repr(events)
