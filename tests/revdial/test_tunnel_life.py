"""Tunnels come up, answer, give way to newer ones, come back after a loss, and leave nothing."""

from __future__ import annotations

import pytest
import structlog
import trio
import trio.testing
from tunnel_harness import Agent, edge, server_context, text, tunnel, until_raised
from websockets.exceptions import ConnectionClosed

from revdial.backoff import Backoff
from revdial.errors import DialRefused, PickupTimeout, RequestFailed, TunnelClosed
from revdial.limits import DialerLimits, ListenerLimits
from revdial.messages import CloseCode, Dial, Heartbeat, Hello
from revdial.observer import Loss
from revdial.tunnel import AgentTunnel


async def test_the_edge_learns_who_came_and_how_far_it_is() -> None:
    async with tunnel() as (at, home):
        assert home.hello.region == "lab"
        assert home.hello.hosts[0].name == "h1"
        assert home.remote_address.startswith("127.0.0.1:")
        assert at.listener.tunnels["a1"] is home
        with trio.fail_after(5):
            heartbeat = await home.heartbeats.receive()
            while home.rtt_s is None:
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert heartbeat == home.last_heartbeat == Heartbeat(cpu_percent=12.5)
        assert home.last_heartbeat_at is not None
        assert at.counters.ups == {"a1": 1}


async def test_only_the_newest_heartbeat_waits_to_be_read() -> None:
    async with edge() as at, at.websocket() as websocket:
        await websocket.send(text(Hello("a1")))
        for load in (1.0, 2.0, 3.0):
            await websocket.send(text(Heartbeat(cpu_percent=load)))
        home = await at.next_tunnel()
        with trio.fail_after(5):
            while home.last_heartbeat != Heartbeat(cpu_percent=3.0):
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert (await home.heartbeats.receive()).cpu_percent == 3.0
        assert at.counters.losses == {Loss.HEARTBEAT_UNREAD: 2}


async def test_a_request_is_answered() -> None:
    async with tunnel() as (_, home):
        with trio.fail_after(5):
            assert await home.request("hi", {"n": [1]}) == {"method": "hi", "n": [1]}


@pytest.mark.parametrize(
    ("method", "reason"),
    [("fail", "no_such_thing"), ("crash", "internal_error"), ("hang", "timeout")],
)
async def test_a_request_that_fails_says_why(method: str, reason: str) -> None:
    async with tunnel() as (_, home):
        with trio.fail_after(5), pytest.raises(RequestFailed) as caught:
            await home.request(method, {}, timeout_s=0.1 if method == "hang" else 5)
        assert caught.value.reason == reason
        assert len(home._requests) == 0


async def test_an_answer_too_large_is_an_error_and_not_the_end() -> None:
    async with tunnel() as (_, home):
        with trio.fail_after(5), pytest.raises(RequestFailed) as caught:
            await home.request("large", {})
        assert caught.value.reason == "too_large"
        assert await home.request("hi", {}) == {"method": "hi"}


async def test_there_are_only_so_many_requests_and_connections_at_a_time() -> None:
    async with tunnel(limits=ListenerLimits(max_requests=1, max_data_connections=1)) as (_, home):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(home.request, "hang", {})
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RequestFailed) as failed:
                await home.request("hi", {})
            assert failed.value.reason == "too_many_requests"
            nursery.cancel_scope.cancel()
        stream = await home.open_stream("h1", "http", origin="c")
        with pytest.raises(DialRefused) as refused:
            await home.open_stream("h1", "http", origin="c")
        assert refused.value.reason == "too_many_connections"
        await stream.aclose()


async def test_the_agent_takes_only_so_much_at_a_time() -> None:
    agent = Agent()
    limits = DialerLimits(max_requests=1, max_data_connections=1)
    async with edge() as at, trio.open_nursery() as nursery:
        nursery.start_soon(agent.dialer(at.url, limits=limits).run)
        home = await at.next_tunnel()
        nursery.start_soon(home.request, "hang", {})
        await home.open_stream("h1", "http", origin="c")
        with trio.fail_after(5), pytest.raises(DialRefused):
            await home.open_stream("h1", "http", origin="c")
        with trio.fail_after(5), pytest.raises(RequestFailed) as failed:
            await home.request("hi", {})
        assert failed.value.reason == "too_many_requests"
        assert agent.counters.losses == {Loss.REQUEST_REFUSED: 2}
        nursery.cancel_scope.cancel()


async def test_a_dial_nobody_picks_up_times_out() -> None:
    class Slow(Agent):
        async def check(self, dial: Dial) -> None:
            await trio.sleep_forever()

    async with tunnel(Slow(), limits=ListenerLimits(pickup_timeout_s=0.05)) as (at, home):
        with trio.fail_after(5), pytest.raises(PickupTimeout):
            await home.open_stream("h1", "http", origin="c")
        assert at.counters.losses == {Loss.PICKUP_TIMEOUT: 1}
        assert len(at.listener._dials) == home.data_connections == 0


async def test_the_newest_connection_of_an_agent_wins() -> None:
    cancelled = trio.Event()

    async def on_agent(tunnel: AgentTunnel) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if tunnel.serial == 1:
                cancelled.set()

    async with edge(on_agent=on_agent) as at, at.websocket() as older:
        await older.send(text(Hello("a1")))
        await older.recv()
        async with at.websocket() as newer:
            await newer.send(text(Hello("a1")))
            await newer.recv()
            with trio.fail_after(5), pytest.raises(ConnectionClosed):
                await older.recv()
            assert older.close_code == CloseCode.REPLACED
            with trio.fail_after(5):
                await cancelled.wait()
            assert at.listener.tunnels["a1"].serial == 2
            assert at.counters.downs == {"replaced": 1}


async def test_a_replaced_agent_keeps_away_and_says_so_once() -> None:
    slept, naps = trio.open_memory_channel[float](10)

    class Watching(Backoff):
        def next_delay(self, *args: object, **kwargs: object) -> float:
            slept.send_nowait(super().next_delay(*args, **kwargs))  # type: ignore[arg-type]
            return 1000.0

    with structlog.testing.capture_logs() as events:
        async with edge() as at, trio.open_nursery() as nursery:
            await nursery.start(Agent().dialer(at.url, backoff=Watching(lambda: 0.5)).run)
            async with at.websocket() as newer:
                await newer.send(text(Hello("a1")))
                with trio.fail_after(5):
                    assert await naps.receive() == 45
            nursery.cancel_scope.cancel()
    [event] = [e for e in events if e["event"] == "tunnel_not_connected"]
    assert event["why"] == "another agent with this id is connected"


async def test_an_agent_comes_back_after_the_edge_restarts() -> None:
    agent = Agent()
    async with trio.open_nursery() as nursery:
        async with edge() as first:
            dialer = agent.dialer(first.url, backoff=Backoff(lambda: 0.01))
            await nursery.start(dialer.run)
            lost = await first.next_tunnel()
            stream = await lost.open_stream("h1", "http", origin="c")
            assert dialer.connected
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with trio.fail_after(5):
            while agent.live or dialer.connected:
                await trio.testing.wait_all_tasks_blocked(0.001)
        async with edge(port=first.port) as second:
            home = await second.next_tunnel()
            with trio.fail_after(5):
                assert await home.request("hi", {}) == {"method": "hi"}
            nursery.cancel_scope.cancel()
    assert agent.counters.ups == {"a1": 2}
    assert agent.counters.downs["closed_by_peer"] == 1


async def test_a_wrong_token_is_told_once_and_tried_slowly() -> None:
    delays: list[float] = []
    stop = trio.Event()

    class Watching(Backoff):
        def next_delay(self, *args: object, **kwargs: object) -> float:
            delays.append(super().next_delay(*args, **kwargs))  # type: ignore[arg-type]
            if len(delays) == 3:
                stop.set()
            return 0

    agent = Agent(token="not-a-token-of-anybody")
    with structlog.testing.capture_logs() as events:
        async with edge() as at, trio.open_nursery() as nursery:
            nursery.start_soon(agent.dialer(at.url, backoff=Watching(lambda: 0.5)).run)
            with trio.fail_after(5):
                await stop.wait()
            nursery.cancel_scope.cancel()
    assert set(delays) == {22.5}
    told = [e for e in events if e["event"] == "tunnel_not_connected"]
    assert [e["log_level"] for e in told] == ["warning", "debug", "debug"]
    assert told[0]["why"] == "the edge does not take this agent's token (401)"
    assert "not-a-token" not in repr(events)


async def test_a_certificate_that_does_not_verify_is_told_clearly() -> None:
    import ssl

    stop = trio.Event()

    class Watching(Backoff):
        def next_delay(self, *args: object, **kwargs: object) -> float:
            stop.set()
            return 1000

    with structlog.testing.capture_logs() as events:
        async with edge() as at, trio.open_nursery() as nursery:
            dialer = Agent().dialer(
                at.url, backoff=Watching(), context=ssl.create_default_context()
            )
            nursery.start_soon(dialer.run)
            with trio.fail_after(5):
                await stop.wait()
            nursery.cancel_scope.cancel()
    [told] = [e for e in events if e["event"] == "tunnel_not_connected"]
    assert str(told["why"]).startswith("the edge's certificate does not verify: ")


async def test_nobody_there_is_told_without_a_traceback() -> None:
    stop = trio.Event()

    class Watching(Backoff):
        def next_delay(self, *args: object, **kwargs: object) -> float:
            stop.set()
            return 1000

    with structlog.testing.capture_logs() as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Agent().dialer("wss://127.0.0.1:1", backoff=Watching()).run)
            with trio.fail_after(5):
                await stop.wait()
            nursery.cancel_scope.cancel()
    assert str(events[0]["why"]).startswith("cannot connect")


@pytest.mark.parametrize(
    ("url", "token", "tls"),
    [
        ("https://edge", "t", True),
        ("wss://", "t", True),
        ("wss://user@edge", "t", True),
        ("wss://edge", "t", False),
        ("ws://edge", "t", True),
        ("wss://edge", "", True),
        ("wss://edge", "two words", True),
        ("wss://edge", "line\r\nbreak", True),
    ],
)
def test_a_url_or_token_that_cannot_be_one_is_refused(url: str, token: str, tls: bool) -> None:
    from revdial.connector import Connector

    with pytest.raises(ValueError, match=r"URL|TLS|token") as caught:
        Connector(url, token, server_context() if tls else None, DialerLimits())
    assert "two words" not in str(caught.value)


async def test_when_the_owner_returns_the_tunnel_is_closed() -> None:
    async def on_agent(tunnel: AgentTunnel) -> None:
        return

    async with edge(on_agent=on_agent) as at, at.websocket() as websocket:
        await websocket.send(text(Hello("a1")))
        with pytest.raises(ConnectionClosed):
            await until_raised(websocket.recv)
        assert websocket.close_code == CloseCode.DONE


async def test_a_bug_of_the_owner_ends_its_tunnel_only() -> None:
    async def on_agent(tunnel: AgentTunnel) -> None:
        if tunnel.agent_id == "a1":
            raise ZeroDivisionError("secret text")
        await trio.sleep_forever()

    with structlog.testing.capture_logs() as events:
        async with edge(on_agent=on_agent) as at, at.websocket(token="token-of-a2") as other:
            await other.send(text(Hello("a2")))
            await other.recv()
            async with at.websocket() as websocket:
                await websocket.send(text(Hello("a1")))
                with pytest.raises(ConnectionClosed):
                    await until_raised(websocket.recv)
            assert list(at.listener.tunnels) == ["a2"]
    [failed] = [e for e in events if e["event"] == "agent_handler_failed"]
    assert str(failed["error"]).startswith("ZeroDivisionError at ")
    assert "secret" not in repr(events)


async def test_who_waits_for_a_lost_agent_is_told() -> None:
    async with edge() as at, at.websocket() as websocket:
        await websocket.send(text(Hello("a1")))
        home = await at.next_tunnel()

        async def expect_closed(wait: object, *args: object) -> None:
            with pytest.raises(TunnelClosed):
                await wait(*args)  # type: ignore[operator]

        async def open_stream() -> None:
            await home.open_stream("h1", "http", origin="c")

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_closed, home.request, "hi", {})
                nursery.start_soon(expect_closed, open_stream)
                await trio.testing.wait_all_tasks_blocked()
                await trio.aclose_forcefully(websocket.stream)
        assert home.reason == "connection_lost"


async def test_a_silent_peer_is_dropped_after_two_pings_worth_of_time() -> None:
    limits = ListenerLimits(ping_interval_s=0.05, ping_timeout_s=0.1)
    async with edge(limits=limits) as at, at.websocket() as websocket:
        await websocket.send(text(Hello("a1")))
        home = await at.next_tunnel()
        # From here on the peer reads nothing, so it does not answer pings.
        websocket.pause_reading()
        await at.stopped(home)
        assert home.reason == "ping_timeout"
        websocket.resume_reading()


async def test_a_cancelled_request_leaves_nothing_and_breaks_nothing() -> None:
    async with tunnel() as (_, home):
        for _ in range(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(home.request, "hi", {})
                nursery.start_soon(trio.lowlevel.checkpoint)
                nursery.cancel_scope.cancel()
        assert len(home._requests) == 0
        assert await home.request("hi", {}) == {"method": "hi"}


async def test_the_end_of_everything_leaves_no_task() -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    async with tunnel() as (_, home):
        for _ in range(3):
            await home.open_stream("h1", "http", origin="c")
            await home.open_flow("h1", 48100, origin="c", session="s", flow="video")
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_connection_picked_up_in_the_moment_of_cancelling_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[str] = []

    class PickedUp:
        async def abort(self) -> None:
            closed.append("aborted")

    async with tunnel() as (at, home):
        scope = trio.CancelScope()

        async def deliver_and_cancel(dial: Dial) -> None:
            claim = at.listener._dials.claim(dial.id, home.serial)
            assert claim is not None
            assert claim.deliver(PickedUp())  # type: ignore[arg-type]
            scope.cancel()

        monkeypatch.setattr(home._outbox, "put", deliver_and_cancel)
        with scope:
            await home.open_stream("h1", "http", origin="c")
        assert closed == ["aborted"]
        assert home.data_connections == 0
