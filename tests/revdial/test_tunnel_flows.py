"""Flows carry bursts of any sizes both ways, and drop by age rather than fall behind."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from tunnel_harness import Agent, tunnel, until_raised

from revdial.backlog import BacklogLimits, Drop
from revdial.errors import BadMessage, DialRefused, TunnelClosed
from revdial.flow import DatagramChannel
from revdial.framing import FlowKind, Preamble, gather
from revdial.messages import Dial
from revdial.observer import Loss

SIZES = [1088] * 70 + [1400, 1400, 200, 16, 16, 0, 9000, 1]


async def test_mixed_bursts_come_back_whole_and_in_order() -> None:
    agent = Agent()
    async with tunnel(agent) as (_, home):
        flow = await home.open_flow(
            "h1", 48100, origin="c1", session="s1", flow="control", client_address="198.51.100.7"
        )
        sent = [bytes([n]) * size for n, size in enumerate(SIZES)]
        with trio.fail_after(5):
            for _ in range(5):
                flow.send_batch(gather(sent))
                received: list[bytes] = []
                while len(received) < len(sent):
                    received += map(bytes, (await flow.receive_batch()).datagrams())
                assert received == sent
        assert agent.preambles == [Preamble("s1", FlowKind.CONTROL, "198.51.100.7")]
        assert agent.dials[0].port == 48100
        assert flow.dropped.total() == 0
        await flow.aclose()
        with pytest.raises(TunnelClosed):
            flow.send_batch(gather(sent))


@pytest.mark.parametrize(
    ("limits", "why", "loss"),
    [
        (BacklogLimits(limit_ms=1.0, max_bytes=2**30), Drop.STALE, Loss.FLOW_STALE),
        (BacklogLimits(limit_ms=None, max_bytes=2**18), Drop.OVERFULL, Loss.FLOW_OVERFULL),
    ],
)
async def test_a_slow_tunnel_drops_by_its_limits_and_never_waits(
    limits: BacklogLimits, why: Drop, loss: Loss
) -> None:
    release = trio.Event()

    class Slow(Agent):
        async def on_flow(self, dial: Dial, channel: DatagramChannel, preamble: Preamble) -> None:
            await release.wait()
            with pytest.raises(TunnelClosed):
                await until_raised(channel.receive_batch)

    async with tunnel(Slow()) as (at, home):
        flow = await home.open_flow(
            "h1",
            48100,
            origin="c1",
            session="s1",
            flow="video",
            limits=limits,
        )
        burst = list(gather([bytes(1000)] * 60))
        with trio.fail_after(10):
            # Until the kernel takes no more, and what waits is too much or too old.
            while not flow.dropped:
                flow.send_batch(burst)
                await trio.lowlevel.checkpoint()
        release.set()
        await flow.aclose()
        assert set(flow.dropped) == {why}
        assert at.counters.losses[loss] == flow.dropped[why]


async def test_what_waits_when_the_flow_ends_is_counted() -> None:
    class Deaf(Agent):
        async def on_flow(self, dial: Dial, channel: DatagramChannel, preamble: Preamble) -> None:
            await channel.closed.wait()

    async with tunnel(Deaf()) as (at, home):
        flow = await home.open_flow("h1", 1, origin="c", session="s", flow="control")
        with trio.fail_after(10):
            while not flow.dropped:
                flow.send_batch(gather([bytes(1000)] * 60))
                await trio.lowlevel.checkpoint()
            await flow.aclose()
            while not at.counters.losses[Loss.FLOW_CLOSED]:
                await trio.testing.wait_all_tasks_blocked(0.001)


@pytest.mark.parametrize("rubbish", ["text", b"\x00"])
async def test_rubbish_on_a_flow_closes_it(rubbish: str | bytes) -> None:
    class Rubbish(Agent):
        async def on_flow(self, dial: Dial, channel: DatagramChannel, preamble: Preamble) -> None:
            await channel._websocket.send(rubbish)
            with pytest.raises(TunnelClosed):
                await channel.receive_batch()

    async with tunnel(Rubbish()) as (_, home):
        flow = await home.open_flow("h1", 1, origin="c", session="s", flow="audio")
        with trio.fail_after(5):
            with pytest.raises(BadMessage):
                await flow.receive_batch()
            with pytest.raises(TunnelClosed):
                await flow.receive_batch()


async def test_a_flow_the_host_refuses_says_why() -> None:
    class Unlucky(Agent):
        async def on_flow(self, dial: Dial, channel: DatagramChannel, preamble: Preamble) -> None:
            raise DialRefused("no_address", "no source address is free")

    async with tunnel(Unlucky()) as (_, home):
        flow = await home.open_flow("h1", 1, origin="c", session="s", flow="audio")
        with trio.fail_after(5), pytest.raises(TunnelClosed) as caught:
            await flow.receive_batch()
        assert caught.value.reason == "no_address"
        assert isinstance(caught.value.__cause__, DialRefused)


async def test_a_preamble_that_is_not_what_was_asked_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = Agent()
    encode = Preamble.encode
    monkeypatch.setattr(
        Preamble, "encode", lambda p: encode(Preamble("another", p.flow, p.client_address))
    )
    async with tunnel(agent) as (_, home):
        flow = await home.open_flow("h1", 1, origin="c", session="s", flow="audio")
        with trio.fail_after(5), pytest.raises(TunnelClosed):
            await flow.receive_batch()
    assert not agent.preambles


async def test_an_unknown_kind_of_flow_is_a_mistake() -> None:
    async with tunnel() as (_, home):
        with pytest.raises(ValueError, match="smell"):
            await home.open_flow("h1", 1, origin="c", session="s", flow="smell")
