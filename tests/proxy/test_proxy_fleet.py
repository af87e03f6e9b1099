from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import structlog.testing
import trio
import trio.testing
from proxy_fakes import BACKEND, NOW, FakeStore, FakeTunnel, new_fleet, serving

from backends.errors import NoBackend, StoreError
from backends.model import BackendId
from backends.records import StickyRecord
from backends.selection import LaunchIntent
from backends.tokens import token_hash
from proxy.errors import HostUnavailable
from proxy.fleet import Fleet, host_name
from revdial.messages import AppOffer, Heartbeat, HostOffer, HostReport


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
    assert fleet.backends() == ()
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
    assert fleet.backends() == ()


async def test_heartbeats_change_health_sessions_and_apps_and_only_changes_are_logged(
    fleet: Fleet, nursery: trio.Nursery
) -> None:
    tunnel = FakeTunnel(nursery)
    async with serving(fleet, tunnel):
        with structlog.testing.capture_logs() as events:
            for reachable in (True, False, False):
                await tunnel.heartbeats_in.send(
                    Heartbeat(
                        hosts=(
                            HostReport("wolf", reachable, sessions=1, apps=(AppOffer("New", 9),)),
                            HostReport("unknown", True),
                        )
                    )
                )
                await trio.testing.wait_all_tasks_blocked()
        backend = fleet.backend(BACKEND)
        assert backend is not None
        assert (backend.healthy, backend.sessions) == (False, 1)
        assert [app.title for app in backend.apps] == ["New"]
        assert backend.rtt_s == tunnel.rtt_s
    assert len(events) == 1


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
            await fleet.choose(LaunchIntent("z", "Desktop"), excluded=[BACKEND])


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
        await store.delete_drain(BACKEND)
        await fleet.load_drains()
        await fleet.choose(LaunchIntent("x", "Desktop"))


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
