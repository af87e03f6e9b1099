"""Spares wait where they are likely to be needed, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing
from tunnel_harness import Agent, tunnel
from websockets.exceptions import ConnectionClosedError

from revdial.errors import DialRefused, PickupTimeout
from revdial.framing import gather
from revdial.spares import SparePool, retry_interval_s
from revdial.tunnel import AgentTunnel
from revdial.websocket import TunnelWebSocket
from tests.waiting import until


class Idle:
    """A connection whose agent says nothing, unless it is told to."""

    def __init__(self) -> None:
        self.is_open = True
        self.gone = trio.Event()
        self.said = trio.Event()
        self.closed_with: list[int] = []

    async def recv(self) -> str:
        async with trio.open_nursery() as nursery:
            for event in (self.gone, self.said):

                async def wait(event: trio.Event = event) -> None:
                    await event.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(wait)
        if self.gone.is_set():
            raise ConnectionClosedError(None, None, None)
        return "hello?"

    async def close_politely(self, code: int = 1000, reason: str = "") -> None:
        self.closed_with.append(code)
        self.is_open = False

    def lose(self) -> None:
        self.is_open = False
        self.gone.set()


class Opener:
    def __init__(self) -> None:
        self.opened: list[Idle] = []
        self.refusals = 0

    async def open(self) -> TunnelWebSocket:
        await trio.lowlevel.checkpoint()
        if self.refusals:
            self.refusals -= 1
            raise PickupTimeout("pickup_timeout", "nobody came")
        self.opened.append(Idle())
        return cast("TunnelWebSocket", self.opened[-1])


@asynccontextmanager
async def pool(opener: Opener, count: int = 2) -> AsyncIterator[SparePool]:
    made = SparePool(opener.open, count=count, linger_s=300)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        await trio.testing.wait_all_tasks_blocked()
        yield made
        nursery.cancel_scope.cancel()


async def test_an_agent_that_nobody_uses_has_no_spares() -> None:
    opener = Opener()
    async with pool(opener) as spares:
        assert (len(spares), opener.opened) == (0, [])


async def test_the_first_use_makes_some_and_each_use_another() -> None:
    opener = Opener()
    async with pool(opener) as spares:
        assert await spares.take() is None
        await trio.testing.wait_all_tasks_blocked()
        assert len(spares) == 2
        assert await spares.take() is cast("TunnelWebSocket", opener.opened[0])
        await trio.testing.wait_all_tasks_blocked()
        assert (len(spares), len(opener.opened)) == (2, 3)


async def test_they_are_given_up_a_while_after_the_last_use(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = Opener()
    async with pool(opener) as spares:
        await spares.take()
        await trio.sleep(200)
        await spares.take()
        await trio.sleep(299)
        assert len(spares) == 2
        await trio.sleep(2)
        assert len(spares) == 0
        assert [one.closed_with for one in opener.opened] == [[], [1000], [1000]]
        await spares.take()
        await trio.sleep(1)
        assert len(spares) == 2


async def test_one_that_was_lost_is_replaced_and_never_given_away() -> None:
    opener = Opener()
    async with pool(opener) as spares:
        await spares.take()
        await trio.testing.wait_all_tasks_blocked()
        opener.opened[0].lose()
        await trio.testing.wait_all_tasks_blocked()
        assert (len(spares), len(opener.opened)) == (2, 3)
        # Lost, and nobody has noticed yet.
        opener.opened[1].is_open = False
        assert await spares.take() is cast("TunnelWebSocket", opener.opened[2])


async def test_one_whose_agent_speaks_unasked_is_closed() -> None:
    opener = Opener()
    async with pool(opener) as spares:
        await spares.take()
        await trio.testing.wait_all_tasks_blocked()
        opener.opened[0].said.set()
        await trio.testing.wait_all_tasks_blocked()
        assert opener.opened[0].closed_with == [4002]
        assert len(spares) == 2


async def test_an_agent_that_opens_none_is_asked_again_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = Opener()
    opener.refusals = 1
    async with pool(opener) as spares:
        await spares.take()
        await trio.sleep(retry_interval_s - 1)
        assert len(spares) == 0
        await trio.sleep(2)
        assert len(spares) == 2


async def test_none_are_kept_where_none_are_wanted() -> None:
    opener = Opener()
    async with pool(opener, count=0) as spares:
        assert await spares.take() is None
        await trio.testing.wait_all_tasks_blocked()
        assert opener.opened == []


async def test_streams_and_flows_take_the_spares_of_a_real_agent() -> None:
    agent = Agent()
    async with tunnel(agent, spares=2) as (_, home):
        async with await home.open_stream("h1", "http", origin="c") as stream:
            await stream.send_all(b"cold")
            assert await stream.receive_some() == b"cold"
        await until(lambda: len(home._spares) == 2)
        async with await home.open_stream("h1", "https", origin="c") as stream:
            await stream.send_all(b"warm")
            assert await stream.receive_some() == b"warm"
        flow = await home.open_flow("h1", 48100, origin="c", session="s", flow="video")
        flow.send_batch(gather([b"datagram"]))
        [run] = (await flow.receive_batch()).runs
        assert bytes(run.data) == b"datagram"
        assert (home.cold_dials, home.warm_dials) == (1, 2)
        assert [dial.service for dial in agent.dials] == ["http", "https", "udp"]


async def test_an_agent_that_was_never_used_has_no_task_for_spares() -> None:
    def keepers(home: AgentTunnel) -> int:
        assert home._nursery is not None
        return sum("SparePool" in task.name for task in home._nursery.child_tasks)

    async with tunnel(spares=1) as (_, home):
        assert keepers(home) == 0
        for _ in range(2):
            await (await home.open_stream("h1", "http", origin="c")).aclose()
        await until(lambda: len(home._spares) == 1)
        assert keepers(home) == 1


async def test_what_is_not_allowed_is_refused_on_a_spare_with_its_reason() -> None:
    async with tunnel(spares=1) as (_, home):
        await (await home.open_stream("h1", "http", origin="c")).aclose()
        await until(lambda: len(home._spares) == 1)
        stream = await home.open_stream("elsewhere", "http", origin="c")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, DialRefused)
        assert caught.value.__cause__.reason == "not_allowed"
