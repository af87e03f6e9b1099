from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import structlog.testing
import trio
import trio.testing
from proxy_fakes import BACKEND, NOW, FakeStore, FakeTunnel, new_fleet, serving

from backends.catalogue import AppCatalogue
from backends.errors import NoBackend, StoreError
from backends.model import BackendId, State
from backends.records import StickyRecord
from backends.selection import LaunchIntent
from backends.tokens import token_hash
from proxy.access import Access
from proxy.errors import HostUnavailable
from proxy.fleet import Fleet, host_name
from revdial.messages import AppOffer, GpuReport, Heartbeat, HostOffer, HostReport


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def fleet(store: FakeStore) -> Fleet:
    return new_fleet(store)


async def test_backends_are_there_for_as_long_as_their_agent_is(
    fleet: Fleet, nursery: trio.Nursery
) -> None:
    tunnel = FakeTunnel(nursery)
    async with serving(fleet, tunnel):
        assert [backend.id for backend in fleet.backends()] == [BACKEND]
        assert fleet.backend(BACKEND) is not None
        assert fleet.tunnel(BACKEND) is tunnel.as_tunnel()
    (away,) = fleet.backends()
    assert (away.state, away.trouble) == (State.UNHEALTHY, "tunnel_down")
    assert not fleet.is_down(BACKEND), "its host may well run on"
    with pytest.raises(HostUnavailable, match="not connected"):
        fleet.tunnel(BACKEND)


async def test_an_agent_that_came_back_is_not_taken_out_by_its_former_tunnel(
    fleet: Fleet, nursery: trio.Nursery
) -> None:
    former, newer = FakeTunnel(nursery), FakeTunnel(nursery)
    async with trio.open_nursery() as tunnels:
        tunnels.start_soon(fleet.serve_agent, former.as_tunnel())
        await trio.testing.wait_all_tasks_blocked()
        tunnels.start_soon(fleet.serve_agent, newer.as_tunnel())
        await trio.testing.wait_all_tasks_blocked()
        former.heartbeats_in.close()
        await trio.testing.wait_all_tasks_blocked()
        assert fleet.tunnel(BACKEND) is newer.as_tunnel()
        assert fleet.backend(BACKEND) is not None
        newer.heartbeats_in.close()
    assert fleet.backends()[0].state is State.UNHEALTHY


async def test_heartbeats_change_health_sessions_and_apps_and_only_changes_are_events(
    fleet: Fleet, nursery: trio.Nursery
) -> None:
    tunnel = FakeTunnel(nursery)
    new = (AppOffer("New", 9),)
    async with serving(fleet, tunnel):
        with structlog.testing.capture_logs() as events:
            for answers in (True, False, False, False):
                report = HostReport("wolf", answers, {"http": True, "rtsp": answers}, 1, new)
                heartbeat = Heartbeat(hosts=(report, HostReport("unknown", True)), cpu_percent=5.0)
                await tunnel.heartbeats_in.send(heartbeat)
                await trio.testing.wait_all_tasks_blocked()
        backend = fleet.backend(BACKEND)
        assert backend is not None
        assert (backend.state, backend.trouble, backend.sessions) == (State.UNHEALTHY, "rtsp", 1)
        assert fleet.is_down(BACKEND)
        assert [app.title for app in backend.apps] == ["New"]
        assert backend.rtt_s == tunnel.rtt_s
        assert fleet.last_heartbeat("agent-1") is heartbeat
    assert fleet.last_heartbeat("agent-1") is None
    (event,) = events
    assert (event["event"], event["backend"], event["before"]) == (
        "backend_state",
        BACKEND,
        "healthy",
    )
    assert (event["state"], event["trouble"]) == ("unhealthy", "rtsp")
    assert fleet.events.newest()[0].details["state"] == "unhealthy"
    assert fleet.transitions == {"healthy": 1, "unhealthy": 1}


async def test_what_an_agent_names_is_not_shown_to_operators(
    fleet: Fleet, nursery: trio.Nursery
) -> None:
    tunnel = FakeTunnel(nursery)
    async with serving(fleet, tunnel):
        for _ in range(3):
            report = HostReport("wolf", False, {"tunnel_down": False, "\x1b[31m": False})
            await tunnel.heartbeats_in.send(Heartbeat((report,)))
            await trio.testing.wait_all_tasks_blocked()
        backend = fleet.backend(BACKEND)
        assert backend is not None
        assert backend.trouble == "host"
        assert fleet.is_down(BACKEND)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("gpus", "share"),
    [
        ((), None),
        ((GpuReport("a", "", 4 * GIB, 16 * GIB),), 0.25),
        ((GpuReport("a", "", 4 * GIB, 16 * GIB), GpuReport("b", "", 4 * GIB, 8 * GIB)), 0.5),
        ((GpuReport("stated", "intel", None, 16 * GIB),), None),
        ((GpuReport("broken", "", None, 8 * GIB), GpuReport("a", "", GIB, 16 * GIB)), None),
        ((GpuReport("odd", "", 1, None), GpuReport("a", "", 4 * GIB, 16 * GIB)), 0.25),
        ((GpuReport("borrows the machine's memory", "amd", GIB // 2, GIB // 2),), None),
    ],
)
async def test_a_hosts_gpu_memory_is_that_of_its_fullest_gpu(
    fleet: Fleet, nursery: trio.Nursery, gpus: tuple[GpuReport, ...], share: float | None
) -> None:
    tunnel = FakeTunnel(nursery)
    async with serving(fleet, tunnel):
        await tunnel.heartbeats_in.send(Heartbeat(hosts=(HostReport("wolf", True, gpus=gpus),)))
        await trio.testing.wait_all_tasks_blocked()
        backend = fleet.backend(BACKEND)
        assert backend is not None
        assert backend.gpu_memory_share == share


async def test_an_offer_that_cannot_be_taken_is_refused_and_not_an_error(
    fleet: Fleet, nursery: trio.Nursery
) -> None:
    tunnel = FakeTunnel(nursery, hosts=(HostOffer("no/slash"),))
    with structlog.testing.capture_logs() as events:
        await fleet.serve_agent(tunnel.as_tunnel())
    assert events[0]["reason"] == "bad_name"
    assert fleet.backends() == ()


async def test_tokens_are_looked_up_every_time(fleet: Fleet, store: FakeStore) -> None:
    store.tokens[token_hash("good")] = "agent-1"
    assert await fleet.authenticate("good") == "agent-1"
    assert await fleet.authenticate("bad") is None
    await store.revoke_agent("agent-1")
    assert await fleet.authenticate("good") is None
    store.away = True
    with pytest.raises(StoreError):
        await fleet.authenticate("good")


async def test_a_choice_takes_a_slot_and_the_last_one_is_given_once(
    fleet: Fleet, nursery: trio.Nursery
) -> None:
    async with serving(fleet, FakeTunnel(nursery)):
        _, first = await fleet.choose(LaunchIntent("x", "Desktop"))
        await fleet.choose(LaunchIntent("y", "Desktop"))
        with pytest.raises(NoBackend, match="in use"):
            await fleet.choose(LaunchIntent("z", "Desktop"))
        fleet.release(first)
        fleet.release(first)
        decision, _ = await fleet.choose(LaunchIntent("z", "Desktop"))
        assert decision.backend.id == BACKEND
        with pytest.raises(NoBackend):
            await fleet.choose(LaunchIntent("z", "Desktop", tried=frozenset([BACKEND])))
    assert fleet.decisions == {"nearest": 3}
    assert fleet.refusals == {"all_full": 2}


async def test_a_client_comes_back_to_where_it_played(
    fleet: Fleet, store: FakeStore, nursery: trio.Nursery
) -> None:
    later = FakeTunnel(nursery, "agent-2")
    async with serving(fleet, FakeTunnel(nursery)), serving(fleet, later):
        sticky = StickyRecord("x", BackendId("agent-2/wolf"), NOW + timedelta(days=36_500))
        store.sticky["x"] = sticky
        decision, _ = await fleet.choose(LaunchIntent("x", "Desktop"))
        assert decision.backend.id == "agent-2/wolf"
        store.sticky["x"] = replace(sticky, expires_at=NOW - timedelta(days=3_650))
        decision, _ = await fleet.choose(LaunchIntent("x", "Desktop"))
        assert decision.backend.id == BACKEND


async def test_drains_are_taken_over_from_the_store(
    fleet: Fleet, store: FakeStore, nursery: trio.Nursery
) -> None:
    async with serving(fleet, FakeTunnel(nursery)):
        await store.put_drain(BACKEND, NOW)
        await fleet.load_drains()
        with pytest.raises(NoBackend, match="maintenance"):
            await fleet.choose(LaunchIntent("x", "Desktop"))
        assert not fleet.is_overdue(BACKEND, NOW)
        await store.put_drain(BACKEND, NOW, NOW + timedelta(hours=1))
        await fleet.load_drains()
        assert not fleet.is_overdue(BACKEND, NOW)
        assert fleet.is_overdue(BACKEND, NOW + timedelta(hours=1))
        assert [drain.target for drain in fleet.drains()] == [BACKEND]
        await store.delete_drain(BACKEND)
        await fleet.load_drains()
        assert not fleet.is_overdue(BACKEND, NOW + timedelta(hours=1))
        await fleet.choose(LaunchIntent("x", "Desktop"))


async def test_a_user_sees_the_apps_and_regions_that_are_theirs(
    fleet: Fleet, nursery: trio.Nursery
) -> None:
    def titles(catalogue: AppCatalogue) -> list[str]:
        return [app.title for app in catalogue.apps]

    game = (HostOffer("wolf", apps=(AppOffer("Game", 1),)),)
    there = FakeTunnel(nursery, "agent-2", game, region="there")
    async with serving(fleet, FakeTunnel(nursery)), serving(fleet, there):
        assert titles(await fleet.catalogue(Access())) == ["Desktop", "Game"]
        assert titles(await fleet.catalogue(Access(apps=frozenset({"game"})))) == ["Game"]
        only_there = await fleet.catalogue(Access(regions=frozenset({"there"})))
        assert titles(only_there) == ["Game"]
        assert only_there.apps[0].offers.keys() == {"agent-2/wolf"}


async def test_the_store_is_asked_for_app_ids_only_when_apps_change(
    fleet: Fleet, store: FakeStore, nursery: trio.Nursery
) -> None:
    async with serving(fleet, FakeTunnel(nursery)):
        first = await fleet.catalogue()
        store.failing = {"app_ids_for"}
        assert await fleet.catalogue() is first
        game = (HostOffer("wolf", apps=(AppOffer("New", 1),)),)
        async with serving(fleet, FakeTunnel(nursery, "agent-2", game)):
            with pytest.raises(StoreError):
                await fleet.catalogue()


async def test_who_waits_for_an_agent_gets_its_next_tunnel(
    fleet: Fleet, nursery: trio.Nursery
) -> None:
    found: list[object] = []

    async def wait() -> None:
        found.append(await fleet.wait_for_tunnel(BACKEND))

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    other, wanted = FakeTunnel(nursery, "agent-2"), FakeTunnel(nursery)
    async with serving(fleet, other):
        await trio.testing.wait_all_tasks_blocked()
        assert found == []
        async with serving(fleet, wanted):
            await trio.testing.wait_all_tasks_blocked()
            assert found == [wanted]
            assert await fleet.wait_for_tunnel(BACKEND) is wanted.as_tunnel()


def test_a_backend_is_named_by_agent_and_host() -> None:
    assert host_name(BACKEND) == "wolf"
