"""Who is woken by a magic packet or a player, by whom, how often, and what is told of it."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from proxy_fakes import (
    BACKEND,
    NOW,
    FakeFlows,
    FakeStore,
    FakeTunnel,
    NoTls,
    launch_query,
    new_play,
    serve_http,
)
from structlog.testing import capture_logs
from webhook_receiver import Receiver, receiving

from backends.apps import app_id
from backends.model import BackendId
from backends.registry import Registry
from moonlight.http import HttpRequest
from moonlight.identity import ClientId
from moonlight.launch import launch_answer
from moonlight.wake import magic_packet
from proxy import waker as waker_module
from proxy.access import Access, everything
from proxy.config import ProxyConfig
from proxy.errors import Refused, StartFailed
from proxy.fleet import Fleet
from proxy.play import Play
from proxy.udp_port import Arrival, Endpoint
from proxy.waker import Waker
from revdial.errors import RequestFailed
from tests.waiting import until

MAC = bytes.fromhex("02005e100001")
PACKET = magic_packet(MAC)
HOME = "192.0.2.1"
PHONE = ClientId("phone")
DESKTOP = app_id("Desktop")
BY_AGENT = {"backend": str(BACKEND), "via_agent": "pi", "neighbour": "gaming-pc"}


def arrival(datagram: bytes = PACKET) -> Arrival:
    return Arrival(datagram, Endpoint(HOME, 50_000), Endpoint("203.0.113.1", 9))


@dataclass
class Edge:
    """A fleet with an agent beside the sleepers, a waker, and what clients may ask."""

    waker: Waker
    fleet: Fleet
    store: FakeStore
    play: Play
    nursery: trio.Nursery
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refusal: Exception | None = None

    async def on_request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((method, params))
        if self.refusal is not None:
            raise self.refusal
        return {}

    def neighbour_agent(self) -> FakeTunnel:
        return FakeTunnel(self.nursery, "pi", hosts=(), on_request=self.on_request)

    async def connect(self, tunnel: FakeTunnel) -> trio.CancelScope:
        """Have an agent connected until the scope is cancelled."""
        scope = trio.CancelScope()

        async def serve() -> None:
            with scope:
                await self.fleet.serve_agent(tunnel.as_tunnel())

        self.nursery.start_soon(serve)
        await until(lambda: self.fleet.has_agent(tunnel.agent_id))
        return scope

    async def has_slept(self) -> None:
        """Have the backend known, and then asleep."""
        scope = await self.connect(FakeTunnel(self.nursery))
        await self.fleet.catalogue()
        scope.cancel()
        await until(lambda: not self.fleet.is_connected(BACKEND))

    async def settled(self, count: int = 1) -> dict[str, int]:
        await until(lambda: self.waker.wakes.total() >= count)
        return dict(self.waker.wakes)

    async def refused(self, access: Access = everything) -> Refused:
        with pytest.raises(Refused) as caught:
            await self.play.launch(PHONE, HOME, launch_query(DESKTOP), access)
        return caught.value


@asynccontextmanager
async def running(*hosts: dict[str, Any], **settings: Any) -> AsyncIterator[Edge]:
    wake = {"hosts": hosts or (BY_AGENT,), "ports": (), **settings}
    config = ProxyConfig.model_validate({"hostname": "h", "wake": wake})
    store = FakeStore()
    store.know(b"", PHONE)
    fleet = Fleet(store, Registry(config.registry_rules()))
    waker = Waker(config, MAC, fleet, config.listen.addresses)
    play = new_play(config, store, fleet, NoTls(), FakeFlows(), waker)
    async with trio.open_nursery() as nursery:
        await nursery.start(waker.run)
        yield Edge(waker, fleet, store, play, nursery)
        nursery.cancel_scope.cancel()


# Magic packets


async def test_a_magic_packet_has_the_neighbour_of_an_agent_woken() -> None:
    async with running() as edge:
        await edge.connect(edge.neighbour_agent())
        with capture_logs() as logs:
            assert edge.waker.take_magic_packet(arrival())
            assert await edge.settled() == {"agent_sent": 1}
    assert edge.asked == [("wake_host", {"neighbour": "gaming-pc"})]
    (event,) = [event for event in edge.fleet.events.newest() if event.kind == "wake"]
    assert event.subject == BACKEND
    assert event.details == {"outcome": "agent_sent", "cause": "magic_packet", "by": HOME}
    assert [log["event"] for log in logs] == ["wake_settled"]


@pytest.mark.parametrize("datagram", [b"", b"PING", PACKET[:-1], magic_packet(bytes(6))])
async def test_other_datagrams_wake_nobody(datagram: bytes) -> None:
    async with running() as edge:
        assert not edge.waker.take_magic_packet(arrival(datagram))
    assert not edge.waker.wakes


async def test_packets_to_all_ports_at_once_are_one_wish(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as edge:
        await edge.connect(edge.neighbour_agent())
        for _ in range(7):
            edge.waker.take_magic_packet(arrival())
        assert await edge.settled(7) == {"agent_sent": 1, "repeated": 6}
        autojump_clock.jump(waker_module.packet_pause_s)
        edge.waker.take_magic_packet(arrival())
        assert (await edge.settled(8))["tried_lately"] == 1
        autojump_clock.jump(60)
        edge.waker.take_magic_packet(arrival())
        assert (await edge.settled(9))["agent_sent"] == 2
    assert len(edge.asked) == 2


async def test_who_is_awake_or_drained_is_left_alone() -> None:
    drained = {**BY_AGENT, "backend": "other/wolf"}
    async with running(BY_AGENT, drained) as edge:
        await edge.connect(edge.neighbour_agent())
        await edge.connect(FakeTunnel(edge.nursery))
        await edge.store.put_drain("other", NOW)
        await edge.fleet.load_drains()
        edge.waker.take_magic_packet(arrival())
        assert await edge.settled() == {"nothing_asleep": 1}
    assert edge.asked == []


async def test_an_agent_that_is_not_there_or_refuses_is_told_once() -> None:
    async with running(min_interval_s=5) as edge:
        with capture_logs() as logs:
            edge.waker.take_magic_packet(arrival())
        assert await edge.settled() == {"agent_offline": 1}
        (log,) = logs
        assert (log["log_level"], log["agent"]) == ("warning", "pi")
    async with running() as edge:
        edge.refusal = RequestFailed("unknown_neighbour", "this agent has no such neighbour")
        await edge.connect(edge.neighbour_agent())
        with capture_logs() as logs:
            edge.waker.take_magic_packet(arrival())
            assert await edge.settled() == {"agent_failed": 1}
        assert [log["why"] for log in logs] == ["this agent has no such neighbour"]


async def test_a_fault_of_ours_ends_no_more_than_one_wake() -> None:
    async with running() as edge:
        edge.refusal = ZeroDivisionError()
        await edge.connect(edge.neighbour_agent())
        with capture_logs():
            edge.waker.take_magic_packet(arrival())
            assert await edge.settled() == {"agent_failed": 1}


# The webhook


def webhook(receiver: Receiver, folder: Path) -> dict[str, Any]:
    return receiver.config(folder).model_dump()


async def test_the_webhook_is_told_all_that_it_shall_wake_at_once(tmp_path: Path) -> None:
    async with receiving() as receiver:
        hosts = ({"backend": "a/wolf"}, {"backend": "b/wolf"})
        async with running(*hosts, webhook=webhook(receiver, tmp_path)) as edge:
            with capture_logs() as logs:
                edge.waker.take_magic_packet(arrival())
                assert await edge.settled() == {"webhook_called": 1}
        (call,) = receiver.calls
    told = json.loads(call.body)
    assert (told["event"], told["backends"]) == ("wake", ["a/wolf", "b/wolf"])
    assert {event.subject for event in edge.fleet.events.newest()} == {"a/wolf", "b/wolf"}
    assert "hunter2" not in str(logs)
    assert "whsec" not in str(logs)


async def test_a_webhook_that_refuses_is_not_called_again_at_once(tmp_path: Path) -> None:
    async with receiving() as receiver:
        receiver.answers = [404]
        hook = webhook(receiver, tmp_path)
        async with running({"backend": "a/wolf"}, webhook=hook) as edge:
            with capture_logs() as logs:
                edge.waker.take_magic_packet(arrival())
                assert await edge.settled() == {"webhook_failed": 1}
                assert not edge.waker.wake(BackendId("a/wolf"), by=PHONE)
        assert len(receiver.calls) == 1
    assert "hunter2" not in str(logs)


# Players


async def test_a_launch_wakes_the_host_that_has_the_app_and_says_so() -> None:
    async with running() as edge:
        await edge.connect(edge.neighbour_agent())
        await edge.has_slept()
        for _ in range(2):
            refusal = await edge.refused()
            assert (refusal.status, refusal.reason) == (503, "host_asleep")
            assert str(refusal) == (
                'The computer that has "Desktop" was asleep and is being woken. '
                "Try again in a minute."
            )
        assert await edge.settled() == {"agent_sent": 1}


async def test_a_launch_of_an_app_that_nobody_has_wakes_who_was_never_here() -> None:
    async with running() as edge:
        await edge.connect(edge.neighbour_agent())
        assert (await edge.refused(Access(regions=frozenset({"home"})))).reason == "no_such_app"
        refusal = await edge.refused()
        assert refusal.reason == "host_asleep"
        assert "had this app" in str(refusal)
        assert await edge.settled() == {"agent_sent": 1}


@pytest.mark.parametrize("regions", [frozenset({"elsewhere"}), frozenset[str]()])
async def test_nobody_wakes_what_they_may_not_use(regions: frozenset[str]) -> None:
    async with running() as edge:
        await edge.connect(edge.neighbour_agent())
        await edge.has_slept()
        await edge.refused(Access(regions=regions))
        assert not edge.waker.wake_for("Desktop", regions, by=PHONE)
        assert edge.waker.wake_for("Desktop", frozenset({"home"}), by=PHONE)


async def test_a_player_is_promised_nothing_that_cannot_be_done() -> None:
    async with running() as edge:
        await edge.has_slept()
        for _ in range(2):
            assert (await edge.refused()).reason == "all_unhealthy"
        assert await edge.settled() == {"agent_offline": 1}


async def test_an_app_that_only_others_have_wakes_nobody() -> None:
    async with running() as edge:
        await edge.connect(edge.neighbour_agent())
        await edge.has_slept()
        assert not edge.waker.wake_for("Solitaire", None, by=PHONE)
    assert edge.asked == []


async def test_a_resume_wakes_the_host_where_the_app_runs() -> None:
    async with running() as edge:
        await edge.connect(edge.neighbour_agent())
        host = await edge.connect(FakeTunnel(edge.nursery, on_stream=launching))
        await edge.play.launch(PHONE, HOME, launch_query(DESKTOP))
        host.cancel()
        await until(lambda: not edge.fleet.is_connected(BACKEND))
        with pytest.raises(Refused, match="was asleep and is being woken") as caught:
            await edge.play.resume(PHONE, HOME, launch_query(DESKTOP))
        assert caught.value.reason == "host_asleep"
        assert await edge.settled() == {"agent_sent": 1}
        assert len(edge.play.keeper.table) == 1


async def launching(host: str, service: str, stream: trio.abc.Stream) -> None:
    async def answer(request: HttpRequest) -> tuple[int, bytes]:
        return 200, launch_answer("rtsp://203.0.113.9:48010").encode()

    await serve_http(stream, answer)


# Ports


async def test_datagrams_at_the_ports_for_it_wake_or_are_counted(own_ports: range) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        port = own_ports[0]
        async with running(ports=(port,)) as edge:
            await edge.connect(edge.neighbour_agent())
            client.sendto(b"hello", ("127.0.0.1", port))
            client.sendto(PACKET, ("127.0.0.1", port))
            assert await edge.settled() == {"agent_sent": 1}
        assert edge.waker.dropped == {"no_magic_packet_of_ours": 1}


async def test_the_ports_are_opened_where_the_edge_listens_and_nowhere_else(
    own_ports: range,
) -> None:
    """Of the default addresses that may be fewer than configured: see `proxy.listening`."""
    port = own_ports[0]
    wake = {"hosts": (BY_AGENT,), "ports": (port,)}
    config = ProxyConfig.model_validate({"hostname": "h", "wake": wake})
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("::", port))
        waker = Waker(config, MAC, Fleet(FakeStore(), Registry()), ("127.0.0.1",))
        async with trio.open_nursery() as nursery:
            await nursery.start(waker.run)
            nursery.cancel_scope.cancel()


async def test_a_port_that_was_asked_for_and_is_taken_stops_the_start() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]
        with pytest.RaisesGroup(pytest.RaisesExc(StartFailed, match=f"UDP port {port} of")):
            async with running(ports=(port,)):
                raise AssertionError("it runs")


async def test_a_port_that_was_not_asked_for_is_skipped_with_a_word() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        with capture_logs() as logs:
            waker = Waker(ProxyConfig(hostname="h"), MAC, Fleet(FakeStore(), Registry()), ())
            assert waker._open("0.0.0.0", taken.getsockname()[1]) is None
    (log,) = logs
    assert log["event"] == "wake_port_skipped"
    assert "wake.ports" in log["remedy"]
