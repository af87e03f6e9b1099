"""UDP flows between tunnel and host, and the sockets that outlive a broken data WebSocket."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from agent.addresses import SourceAddresses
from agent.config import HostConfig, LimitsConfig
from agent.flows import FlowRelay
from agent.targets import Target
from revdial.backlog import Drop
from revdial.errors import DialRefused, TunnelClosed
from revdial.framing import Batch, Run, gather
from revdial.messages import FlowReport
from revdial.observer import AgentLoss


class Channel:
    """The tunnel's end of a flow, in memory: `to_host` goes in, `from_host` comes out."""

    def __init__(self) -> None:
        self.to_host, self._incoming = trio.open_memory_channel[list[bytes]](16)
        self._outgoing, self.from_host = trio.open_memory_channel[list[bytes]](64)
        self.dropped: Counter[Drop] = Counter()
        self.dropped_frames = 0
        self.peak_age_s = 0.0

    def take_peak_age_s(self) -> float:
        return self.peak_age_s

    def send_batch(self, runs: Iterable[Run]) -> None:
        try:
            self._outgoing.send_nowait([bytes(each) for run in runs for each in run.datagrams()])
        except trio.BrokenResourceError:
            raise TunnelClosed from None

    async def receive_batch(self) -> Batch:
        try:
            return Batch(0, tuple(gather(await self._incoming.receive())))
        except trio.EndOfChannel:
            raise TunnelClosed from None

    def on_rate(self, take: Callable[[int], None]) -> None:
        self.take_rate = take

    def break_off(self) -> None:
        self.to_host.close()
        self.from_host.close()


@asynccontextmanager
async def host() -> AsyncIterator[tuple[trio.socket.SocketType, Target]]:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        yield sock, Target(HostConfig.model_validate({"name": "wolf"}), sock.getsockname()[1])


@asynccontextmanager
async def relay(**limits: float) -> AsyncIterator[FlowRelay]:
    async with FlowRelay.open(SourceAddresses(), LimitsConfig.model_validate(limits)) as flows:
        yield flows


async def ping(channel: Channel, sock: trio.socket.SocketType, text: bytes = b"ping") -> object:
    """Send through the flow; gives the address that the host sees."""
    await channel.to_host.send([text])
    with trio.fail_after(5):
        received, address = await sock.recvfrom(2000)
    assert received == text
    return address


async def test_datagrams_go_both_ways() -> None:
    async with host() as (sock, target), relay() as flows, trio.open_nursery() as nursery:
        channel = Channel()
        nursery.start_soon(flows.serve, target, "origin", "s", "video", channel)
        address = await ping(channel, sock)
        await sock.sendto(b"picture", address)
        assert await channel.from_host.receive() == [b"picture"]
        await channel.to_host.send([b"a", b"b"])
        assert [(await sock.recvfrom(9))[0] for _ in range(2)] == [b"a", b"b"]
        channel.break_off()


async def test_the_flows_of_an_origin_share_its_address_and_others_have_theirs() -> None:
    async with host() as (sock, target), relay() as flows, trio.open_nursery() as nursery:
        seen = []
        for origin, kind in (("a", "video"), ("a", "audio"), ("b", "video")):
            channel = Channel()
            nursery.start_soon(flows.serve, target, origin, f"of {origin}", kind, channel)
            seen.append(await ping(channel, sock))
        nursery.cancel_scope.cancel()
    (video, video_port), (audio, audio_port), (other, _) = seen
    assert video == audio != other
    assert video_port != audio_port


async def test_a_flow_dialled_again_keeps_its_socket() -> None:
    async with host() as (sock, target), relay() as flows, trio.open_nursery() as nursery:
        first, second = Channel(), Channel()
        nursery.start_soon(flows.serve, target, "origin", "s", "video", first)
        address = await ping(first, sock)
        first.break_off()
        await trio.testing.wait_all_tasks_blocked()
        await sock.sendto(b"too late", address)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(flows.serve, target, "origin", "s", "video", second)
        assert await ping(second, sock) == address
        await sock.sendto(b"fresh", address)
        assert await second.from_host.receive() == [b"fresh"]
        assert (flows.counters.opened, flows.counters.resumed) == (1, 1)
        assert flows.counters.discarded_datagrams == 1
        second.break_off()


async def test_a_cancelled_tunnel_leaves_the_socket_for_the_next() -> None:
    async with host() as (sock, target), relay() as flows:
        channel = Channel()
        async with trio.open_nursery() as tunnel:
            tunnel.start_soon(flows.serve, target, "origin", "s", "control", channel)
            address = await ping(channel, sock)
            tunnel.cancel_scope.cancel()
        async with trio.open_nursery() as tunnel:
            channel = Channel()
            tunnel.start_soon(flows.serve, target, "origin", "s", "control", channel)
            assert await ping(channel, sock) == address
            tunnel.cancel_scope.cancel()
        assert len(flows) == 1
    assert len(flows) == 0


async def test_the_newer_of_two_dials_has_the_flow() -> None:
    async with (
        host() as (sock, target),
        relay(max_flows=1) as flows,
        trio.open_nursery() as nursery,
    ):
        older, newer = Channel(), Channel()
        older_ended = trio.Event()

        async def serve_older() -> None:
            await flows.serve(target, "origin", "s", "video", older)
            older_ended.set()

        nursery.start_soon(serve_older)
        address = await ping(older, sock)
        nursery.start_soon(flows.serve, target, "origin", "s", "video", newer)
        with trio.fail_after(5):
            await older_ended.wait()
        assert await ping(newer, sock) == address
        with pytest.raises(DialRefused):  # the flow is carried, not held: it makes no room
            await flows.serve(target, "origin", "other", "video", Channel())
        newer.break_off()


async def test_a_flow_that_ended_tells_what_was_dropped_before_the_tunnel() -> None:
    async with host() as (_, target), relay() as flows:
        broken, cancelled = Channel(), Channel()
        broken.dropped.update({Drop.PARITY: 7, Drop.STALE: 2})
        broken.dropped_frames = 1
        broken.break_off()
        with capture_logs() as logs:
            await flows.serve(target, "origin", "s", "video", broken)
            async with trio.open_nursery() as tunnel:
                tunnel.start_soon(flows.serve, target, "origin", "s", "audio", cancelled)
                await trio.testing.wait_all_tasks_blocked()
                tunnel.cancel_scope.cancel()
    told = {"event": "flow_ended", "log_level": "info", "session": "s"}
    assert logs == [
        {**told, "flow": "video", "dropped": {"parity": 7, "stale": 2}, "frames_dropped": 1},
        {**told, "flow": "audio", "dropped": {}, "frames_dropped": 0},
    ]


async def test_a_flow_nobody_dials_again_is_given_up(autojump_clock: object) -> None:
    async with host() as (sock, target), relay(flow_grace_s=30) as flows:
        channel = Channel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flows.serve, target, "origin", "s", "video", channel)
            await ping(channel, sock)
            channel.break_off()
        await trio.sleep(29)
        assert (len(flows), flows.counters.expired) == (1, 0)
        await trio.sleep(2)
        assert (len(flows), flows.counters.expired) == (0, 1)


async def test_a_flow_that_ended_gives_its_address_back(autojump_clock: object) -> None:
    addresses = SourceAddresses(max_origins=1)
    async with host() as (_, target), FlowRelay.open(addresses, LimitsConfig()) as flows:
        channel = Channel()
        channel.break_off()
        await flows.serve(target, "origin", "s", "video", channel)
        with pytest.raises(DialRefused), addresses.lease("other"):
            pytest.fail("the flow is held, and its address with it")
        await trio.sleep(31)
        with addresses.lease("other"):
            assert len(flows) == 0


async def test_the_grace_time_begins_anew_with_each_break(autojump_clock: object) -> None:
    async with host() as (sock, target), relay(flow_grace_s=30) as flows:
        for _ in range(3):
            channel = Channel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flows.serve, target, "origin", "s", "video", channel)
                await ping(channel, sock)
                channel.break_off()
            await trio.sleep(20)
        assert len(flows) == 1


@pytest.mark.parametrize("change", ["port", "origin"])
async def test_a_flow_to_elsewhere_is_a_new_one(change: str) -> None:
    async with (
        host() as (sock, target),
        host() as (other_sock, other_target),
        relay() as flows,
        trio.open_nursery() as nursery,
    ):
        first, second = Channel(), Channel()
        nursery.start_soon(flows.serve, target, "origin", "s", "video", first)
        address = await ping(first, sock)
        if change == "port":
            nursery.start_soon(flows.serve, other_target, "origin", "s", "video", second)
            assert await ping(second, other_sock) != address
        else:
            nursery.start_soon(flows.serve, target, "other", "s", "video", second)
            assert await ping(second, sock) != address
        assert (len(flows), flows.counters.opened) == (1, 2)
        second.break_off()


async def test_flows_are_bounded_and_held_ones_make_room() -> None:
    async with (
        host() as (sock, target),
        relay(max_flows=2) as flows,
        trio.open_nursery() as nursery,
    ):
        held, live, third = Channel(), Channel(), Channel()
        nursery.start_soon(flows.serve, target, "origin", "held", "video", held)
        await ping(held, sock)
        nursery.start_soon(flows.serve, target, "origin", "live", "video", live)
        await ping(live, sock)
        with pytest.raises(DialRefused) as caught:
            await flows.serve(target, "origin", "third", "video", Channel())
        assert caught.value.reason == "too_many_flows"
        held.break_off()
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(flows.serve, target, "origin", "third", "video", third)
        await ping(third, sock)
        await ping(live, sock)
        assert (len(flows), flows.counters.evicted) == (2, 1)
        nursery.cancel_scope.cancel()


async def test_no_socket_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("revdial.udp.DatagramSocket.open", full)
    async with host() as (_, target), relay() as flows:
        with pytest.raises(DialRefused, match="Too many open files") as caught:
            await flows.serve(target, "origin", "s", "video", Channel())
        assert caught.value.reason == "no_socket"
        assert len(flows) == 0


async def test_a_host_elsewhere_is_reached_without_an_address_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def note(*addresses: object) -> None:
        asked.append(addresses)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("revdial.udp.DatagramSocket.open", note)
    elsewhere = Target(HostConfig.model_validate({"name": "w", "address": "192.0.2.7"}), 47998)
    async with relay() as flows:
        with pytest.raises(DialRefused):
            await flows.serve(elsewhere, "origin", "s", "video", Channel())
    assert asked == [(None, ("192.0.2.7", 47998))]


async def test_an_unreadable_socket_is_held_until_the_grace_time_is_over(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async def down(*_args: object) -> list[Run]:
        raise OSError(100, "Network is down")

    async with host() as (_, target), relay(flow_grace_s=5) as flows:
        monkeypatch.setattr("revdial.udp.DatagramSocket.receive_batch", down)
        await flows.serve(target, "origin", "s", "video", Channel())
        await trio.sleep(4)
        assert len(flows) == 1
        await trio.sleep(2)
        assert len(flows) == 0


async def test_a_dial_that_comes_before_the_hold_begins_keeps_the_flow() -> None:
    async with host() as (sock, target), relay() as flows, trio.open_nursery() as nursery:
        first, second = Channel(), Channel()
        scope = trio.CancelScope()

        async def serve_first() -> None:
            with scope:
                await flows.serve(target, "origin", "s", "video", first)
            # The task that would hold the flow has been started and has not run yet.
            nursery.start_soon(flows.serve, target, "origin", "s", "video", second)

        nursery.start_soon(serve_first)
        address = await ping(first, sock)
        scope.cancel()
        assert await ping(second, sock) == address
        await trio.testing.wait_all_tasks_blocked()
        assert await ping(second, sock) == address
        second.break_off()


async def test_a_held_socket_that_is_closed_between_readable_and_read_ends_quietly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def closed(*_args: object) -> list[Run]:
        raise trio.ClosedResourceError

    async with host() as (_, target), relay() as flows:
        monkeypatch.setattr("revdial.udp.DatagramSocket.receive_batch", closed)
        await flows.serve(target, "origin", "s", "video", Channel())
        await trio.testing.wait_all_tasks_blocked()
        assert len(flows) == 0


async def test_what_was_dropped_of_a_flow_is_told_over_all_its_data_connections() -> None:
    async with host() as (sock, target), relay() as flows, trio.open_nursery() as nursery:
        assert flows.reports() == []
        first, second = Channel(), Channel()
        nursery.start_soon(flows.serve, target, "origin", "s", "video", first)
        await ping(first, sock)
        assert flows.reports() == []  # nothing lost, nothing waits: nothing to tell
        first.dropped[Drop.STALE], first.dropped_frames = 3, 1
        first.break_off()
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(flows.serve, target, "origin", "s", "video", second)
        await ping(second, sock)
        second.dropped[Drop.STALE], second.dropped_frames, second.peak_age_s = 2, 1, 0.04
        assert flows.reports() == [FlowReport("s", "video", {"stale": 5}, 2, 40)]
        second.break_off()


async def test_what_makes_most_wait_is_told_first() -> None:
    async with host() as (sock, target), relay() as flows, trio.open_nursery() as nursery:
        for kind, age_s in (("audio", 0.01), ("video", 0.05)):
            channel = Channel()
            channel.peak_age_s = age_s
            nursery.start_soon(flows.serve, target, "origin", "s", kind, channel)
            await ping(channel, sock)
        assert [report.flow for report in flows.reports()] == ["video", "audio"]
        nursery.cancel_scope.cancel()


async def test_what_hosts_do_not_take_and_what_nobody_fetched_is_counted() -> None:
    async with (
        host() as (sock, target),
        relay() as flows,
        trio.open_nursery() as nursery,
    ):
        channel = Channel()
        nursery.start_soon(flows.serve, target, "origin", "s", "video", channel)
        await ping(channel, sock)
        counters = flows._flows["s", "video"].socket.counters
        counters.send_would_block, counters.send_refused, counters.send_too_large = 3, 2, 1
        flows.counters.discarded_datagrams = 4
        lost = {
            AgentLoss.HOST_SOCKET_FULL: 3,
            AgentLoss.HOST_REFUSED: 2,
            AgentLoss.HOST_UNREACHABLE: 1,
            AgentLoss.HELD: 4,
        }
        assert flows.losses() == lost
        flows._close(("s", "video"))
        assert flows.losses() == lost
        nursery.cancel_scope.cancel()
