"""A launch whose backend fails goes to the next one, each once, while the client waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from proxy_fakes import (
    FakeFlows,
    FakeStore,
    FakeTunnel,
    NoTls,
    launch_query,
    new_fleet,
    new_play,
    serve_http,
    serving,
)

from backends.apps import app_id
from backends.model import BackendId, State
from moonlight.http import HttpRequest
from moonlight.identity import ClientId
from moonlight.launch import cancel_answer, launch_answer
from moonlight.xml import Answer
from proxy import launching
from proxy.access import Access
from proxy.config import ProxyConfig
from proxy.errors import EdgeError, HostRefused, HostUnavailable, Refused
from proxy.fleet import Fleet, LaunchFailure
from proxy.launching import failure_kind
from proxy.play import Play
from revdial.errors import DialRefused
from revdial.messages import AppOffer, HostOffer

PHONE = ClientId("phone")
DESKTOP = app_id("Desktop")
WELL = launch_answer("rtsp://203.0.113.9:48010")


@dataclass
class Stage:
    """Backends ``a/wolf``, ``b/wolf`` and ``c/wolf``, each answering launches as it is told."""

    play: Play
    fleet: Fleet
    store: FakeStore
    config: ProxyConfig
    tunnels: dict[str, FakeTunnel] = field(default_factory=dict)
    answers: dict[str, Answer | None] = field(default_factory=dict)
    """None for silence."""
    asked: list[str] = field(default_factory=list)

    async def launch(self) -> BackendId:
        await self.play.launch(PHONE, "192.0.2.1", launch_query(DESKTOP))
        (session,) = self.play.keeper.table
        return session.backend

    def taken(self) -> dict[str, int]:
        return {backend.agent_id: backend.sessions for backend in self.fleet.backends()}

    def answer_for(self, agent: str, request: HttpRequest) -> Awaitable[tuple[int, bytes]]:
        async def answer() -> tuple[int, bytes]:
            self.asked.append(f"{agent}{request.path}")
            told = self.answers[agent] if request.path == "/launch" else cancel_answer()
            if told is None:
                await trio.sleep_forever()
            assert told is not None
            return 200, told.encode()

        return answer()


@pytest.fixture
async def stage(nursery: trio.Nursery) -> AsyncIterator[Stage]:
    store, config = FakeStore(), ProxyConfig(hostname="h")
    store.know(b"", PHONE)
    fleet = new_fleet(store)
    stage = Stage(new_play(config, store, fleet, NoTls(), FakeFlows()), fleet, store, config)
    async with AsyncExitStack() as stack:
        for agent in ("a", "b", "c"):
            stage.answers[agent] = WELL

            async def on_stream(
                host: str, service: str, stream: trio.abc.Stream, agent: str = agent
            ) -> None:
                await serve_http(stream, lambda request: stage.answer_for(agent, request))

            offer = HostOffer("wolf", max_sessions=1, apps=(AppOffer("Desktop", 1),))
            stage.tunnels[agent] = FakeTunnel(
                nursery, agent, (offer,), on_stream=on_stream, region=f"region-{agent}"
            )
            await stack.enter_async_context(serving(fleet, stage.tunnels[agent]))
        yield stage


async def refusal(stage: Stage) -> Refused:
    with pytest.raises(Refused) as caught:
        await stage.launch()
    return caught.value


async def test_the_next_backend_is_tried_when_the_first_says_no(stage: Stage) -> None:
    stage.answers["a"] = Answer.error(503, "no", "/launch")
    assert await stage.launch() == "b/wolf"
    assert stage.taken() == {"a": 0, "b": 1, "c": 0}
    assert stage.fleet.failovers == {"refused": 1}
    assert stage.store.sticky[PHONE].backend_id == "b/wolf"


async def test_an_unreachable_host_costs_a_launch_nothing_and_soon_counts_as_down(
    stage: Stage,
) -> None:
    stage.tunnels["a"].refuse = DialRefused("host_down", "connection refused")
    for _ in range(3):
        assert await stage.launch() == "b/wolf"
        (session,) = stage.play.keeper.table
        await stage.play.keeper.end(session, "test")
        stage.store.sticky.clear()
    backend = stage.fleet.backend(BackendId("a/wolf"))
    assert backend is not None
    assert backend.state is State.UNHEALTHY


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HostRefused(400, "host_refused", "x"), LaunchFailure.REFUSED),
        (HostUnavailable("host_pairing_timeout", "x"), LaunchFailure.OTHER),
        (HostUnavailable("agent_offline", "x"), LaunchFailure.UNREACHABLE),
    ],
)
def test_only_a_host_that_cannot_be_dialled_is_a_missed_probe(
    error: EdgeError, kind: LaunchFailure
) -> None:
    assert failure_kind(error) is kind


async def test_one_launch_does_not_reach_every_host_there_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "max_attempts", 2)
    for agent in stage.answers:
        stage.answers[agent] = Answer.error(400, "no", "/launch")
    assert "2 computers" in str(await refusal(stage))
    assert stage.asked == ["a/launch", "b/launch"]


async def test_a_refusal_is_no_missed_probe(stage: Stage) -> None:
    stage.answers["a"] = Answer.error(503, "no", "/launch")
    for _ in range(4):
        await stage.launch()
        (session,) = stage.play.keeper.table
        await stage.play.keeper.end(session, "test")
        stage.store.sticky.clear()
    backend = stage.fleet.backend(BackendId("a/wolf"))
    assert backend is not None
    assert backend.state is State.HEALTHY


async def test_each_backend_is_tried_once_and_then_the_player_is_told(stage: Stage) -> None:
    for agent in stage.answers:
        stage.answers[agent] = Answer.error(503, "no", "/launch")
    error = await refusal(stage)
    assert (error.status, error.reason) == (503, "host_refused")
    assert "3 computers" in str(error)
    assert stage.asked == ["a/launch", "b/launch", "c/launch"]
    assert stage.taken() == {"a": 0, "b": 0, "c": 0}
    assert len(stage.play.keeper.table) == 0


async def test_where_the_others_are_full_that_is_what_the_player_reads(stage: Stage) -> None:
    for backend in ("b/wolf", "c/wolf"):
        stage.fleet.restore(BackendId(backend))
    stage.answers["a"] = Answer.error(503, "no", "/launch")
    error = await refusal(stage)
    assert error.reason == "all_full"
    assert stage.asked == ["a/launch"]


async def test_a_silent_host_leaves_time_for_the_next(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    stage.answers["a"] = None
    began = trio.current_time()
    assert await stage.launch() == "b/wolf"
    waited = trio.current_time() - began
    assert waited == pytest.approx(stage.config.sessions.launch_attempt_timeout_s, abs=1)
    assert stage.asked == ["a/launch", "a/cancel", "b/launch"], "it may have started after all"


async def test_the_only_host_left_gets_all_the_patience_there_is(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    for backend in ("b/wolf", "c/wolf"):
        stage.fleet.restore(BackendId(backend))
    stage.answers["a"] = None
    began = trio.current_time()
    assert (await refusal(stage)).reason == "host_timeout"
    assert trio.current_time() - began >= stage.config.sessions.launch_timeout_s


async def test_nobody_is_tried_once_the_patience_is_used_up(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    for agent in stage.answers:
        stage.answers[agent] = None
    began = trio.current_time()
    assert (await refusal(stage)).reason == "host_timeout"
    # Undoing what may have started comes on top.
    assert trio.current_time() - began <= stage.config.sessions.launch_timeout_s + 20
    assert stage.taken() == {"a": 0, "b": 0, "c": 0}


async def test_a_launch_that_is_given_up_tries_nobody_else(stage: Stage) -> None:
    stage.answers["a"] = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.launch)
        await trio.testing.wait_all_tasks_blocked()
        assert stage.asked == ["a/launch"]
        nursery.cancel_scope.cancel()
    assert stage.asked == ["a/launch", "a/cancel"]
    assert stage.taken() == {"a": 0, "b": 0, "c": 0}


async def test_what_a_user_may_not_use_is_neither_found_nor_chosen(stage: Stage) -> None:
    query = launch_query(DESKTOP)
    with pytest.raises(Refused) as caught:
        await stage.play.launch(PHONE, "192.0.2.1", query, Access(apps=frozenset({"game"})))
    assert caught.value.reason == "no_such_app"
    access = Access(regions=frozenset({"region-c"}))
    await stage.play.launch(PHONE, "192.0.2.1", query, access)
    assert stage.asked == ["c/launch"]
