"""What time brings about: dead hosts' sessions end, streaming ones do not, drains fall due."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

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
    new_fleet,
    new_play,
    serve_http,
    serving,
    session,
)

from backends.model import BackendId, State
from backends.records import StickyRecord
from moonlight.http import HttpRequest
from moonlight.launch import cancel_answer
from proxy.config import ProxyConfig
from proxy.fleet import Fleet, LaunchFailure
from proxy.media import Media
from proxy.play import Play
from proxy.sessions import Session, SessionId, SessionState
from proxy.upkeep import Upkeep, round_s
from revdial.messages import Heartbeat, HostReport


class FakeMedia:
    """Stands for `Media` where only what hosts have sent matters."""

    def __init__(self) -> None:
        self.heard = 0

    def heard_from_host(self, session: SessionId) -> int:
        return self.heard


@dataclass
class Stage:
    upkeep: Upkeep
    fleet: Fleet
    store: FakeStore
    play: Play
    tunnel: FakeTunnel
    media: FakeMedia
    config: ProxyConfig
    cancelled: list[str]

    def begin(self, state: SessionState = SessionState.STREAMING) -> Session:
        one = session("s1", state=state, since=trio.current_time())
        self.play.keeper.table.add(one)
        self.store.know(b"", one.client)
        self.store.sticky[one.client] = StickyRecord(one.client, BACKEND, NOW)
        return one

    async def host_goes_down(self) -> None:
        for _ in range(3):
            await self.tunnel.heartbeats_in.send(Heartbeat((HostReport("wolf", False),)))
            await trio.testing.wait_all_tasks_blocked()

    @property
    def sessions(self) -> int:
        return len(self.play.keeper.table)


@pytest.fixture
async def stage(nursery: trio.Nursery) -> AsyncIterator[Stage]:
    cancelled: list[str] = []

    async def on_stream(host: str, service: str, stream: trio.abc.Stream) -> None:
        async def answer(request: HttpRequest) -> tuple[int, bytes]:
            cancelled.append(request.path)
            return 200, cancel_answer().encode()

        await serve_http(stream, answer)

    store, config, media = FakeStore(), ProxyConfig(hostname="h"), FakeMedia()
    fleet = new_fleet(store)
    play = new_play(config, store, fleet, NoTls(), FakeFlows())
    upkeep = Upkeep(config, fleet, play.keeper, play, cast("Media", media))
    tunnel = FakeTunnel(nursery, on_stream=on_stream)
    async with serving(fleet, tunnel):
        yield Stage(upkeep, fleet, store, play, tunnel, media, config, cancelled)


async def test_the_sessions_of_a_dead_host_end_and_their_clients_are_free_to_go_elsewhere(
    stage: Stage,
) -> None:
    one = stage.begin()
    await stage.upkeep.make_round()
    await stage.upkeep.make_round()
    assert stage.sessions == 1
    await stage.host_goes_down()
    await stage.upkeep.make_round()
    assert stage.sessions == 0
    assert one.client not in stage.store.sticky


async def test_a_host_that_still_streams_is_only_busy(stage: Stage) -> None:
    stage.begin()
    await stage.host_goes_down()
    for _ in range(3):
        stage.media.heard += 1
        await stage.upkeep.make_round()
        assert stage.sessions == 1
    await stage.upkeep.make_round()
    assert stage.sessions == 0


async def test_a_store_that_is_away_keeps_no_dead_session(stage: Stage) -> None:
    stage.begin()
    await stage.upkeep.make_round()
    await stage.host_goes_down()
    stage.store.away = True
    await stage.upkeep.make_round()
    assert stage.sessions == 0


async def test_a_session_waits_for_its_agent_and_not_for_ever(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """As after a restart of the edge, when no agent is there yet."""
    store, config = FakeStore(), ProxyConfig(hostname="h")
    fleet = new_fleet(store)
    play = new_play(config, store, fleet, NoTls(), FakeFlows())
    upkeep = Upkeep(config, fleet, play.keeper, play, cast("Media", FakeMedia()))
    nursery.start_soon(upkeep.run)
    await trio.testing.wait_all_tasks_blocked()
    play.keeper.table.add(session("s1", state=SessionState.PAUSED))
    await trio.sleep(config.selection.absence_s - round_s)
    assert len(play.keeper.table) == 1
    await trio.sleep(4 * round_s)
    assert len(play.keeper.table) == 0


async def test_launches_that_nobody_came_for_are_paused_and_drains_are_read(
    stage: Stage, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    one = stage.begin(SessionState.LAUNCHED)
    await stage.store.put_drain(BACKEND, NOW)
    nursery.start_soon(stage.upkeep.run)
    await trio.sleep(stage.config.sessions.launch_window_s + 2 * round_s)
    assert one.state is SessionState.PAUSED
    assert [drain.target for drain in stage.fleet.drains()] == [BACKEND]


async def test_sessions_are_ended_at_their_host_when_a_drain_is_overdue(stage: Stage) -> None:
    stage.begin()
    now = datetime.now(UTC)
    await stage.store.put_drain(BACKEND, now, now + timedelta(hours=1))
    await stage.fleet.load_drains()
    await stage.upkeep.end_overdue()
    assert (stage.sessions, stage.cancelled) == (1, [])
    await stage.store.put_drain(BACKEND, now, now)
    await stage.fleet.load_drains()
    await stage.upkeep.end_overdue()
    assert (stage.sessions, stage.cancelled) == (0, ["/cancel"])
    assert [e.kind for e in stage.fleet.events.newest()][:2] == ["session_ended", "drain_overdue"]


async def test_a_host_that_cannot_be_told_is_told_in_a_later_round(
    stage: Stage, nursery: trio.Nursery
) -> None:
    away = session("s2", client="tv", backend=BackendId("away/wolf"))
    stage.play.keeper.table.add(away)
    await stage.store.put_drain("away", NOW, NOW)
    await stage.fleet.load_drains()
    await stage.upkeep.end_overdue()
    assert stage.sessions == 1, "its agent is not there"


async def test_failed_launches_end_nobodys_session(stage: Stage) -> None:
    stage.begin()
    for _ in range(5):
        stage.fleet.note_failure(BACKEND, LaunchFailure.UNREACHABLE)
    backend = stage.fleet.backend(BACKEND)
    assert backend is not None
    assert backend.state is State.UNHEALTHY
    for _ in range(3):
        await stage.upkeep.make_round()
    assert stage.sessions == 1


async def test_a_client_that_is_being_served_keeps_its_session_for_this_round(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    one = stage.begin()
    await stage.upkeep.make_round()
    await stage.host_goes_down()
    async with stage.play._client_locks.held(one.client, timeout_s=1):
        await stage.upkeep.make_round()
        assert stage.sessions == 1
    await stage.upkeep.make_round()
    assert stage.sessions == 0


async def test_a_session_whose_client_is_being_served_is_ended_in_a_later_round(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    one = stage.begin()
    await stage.store.put_drain(BACKEND, NOW, NOW)
    await stage.fleet.load_drains()
    async with stage.play._client_locks.held(one.client, timeout_s=1):
        await stage.upkeep.end_overdue()
        assert stage.sessions == 1
    await stage.upkeep.end_overdue()
    assert stage.sessions == 0
