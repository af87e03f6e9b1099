"""At hosts that cannot tell sessions apart nobody gets into another one's session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from proxy_fakes import (
    BACKEND,
    FakeFlows,
    FakeStore,
    FakeTunnel,
    NoTls,
    launch_query,
    new_fleet,
    new_play,
    serve_http,
    serving,
    session,
)

from backends.apps import app_id
from backends.errors import StoreError
from backends.telling_apart import Telling
from moonlight.flows import Flow
from moonlight.http import HttpRequest
from moonlight.identity import ClientId
from moonlight.launch import cancel_answer, launch_answer, resume_answer
from proxy.config import ProxyConfig
from proxy.errors import HostUnavailable, Refused
from proxy.fleet import Fleet
from proxy.play import Play
from proxy.sessions import FlowTerms, Session
from proxy.turns import max_turn_s
from revdial.messages import AppOffer, HostOffer

PHONE, TV, TABLET = (ClientId(name) for name in ("phone", "tv", "tablet"))
DESKTOP = app_id("Desktop")
HOME = "192.0.2.1"


@dataclass
class Stage:
    """A host that sees all sessions at one address."""

    play: Play
    fleet: Fleet
    store: FakeStore
    labels: list[str] = field(default_factory=list)
    """What it calls the sessions, in the order of launches and resumes."""
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: HttpRequest) -> tuple[int, bytes]:
        self.asked.append(request.path)
        if request.path == "/cancel":
            return 200, cancel_answer().encode()
        build = launch_answer if request.path == "/launch" else resume_answer
        return 200, build(f"rtsp://{self.labels.pop(0)}:48010").encode()

    async def launch(self, client: ClientId) -> Session:
        await self.play.launch(client, HOME, launch_query(DESKTOP))
        return self.session_of(client)

    def session_of(self, client: ClientId) -> Session:
        found = self.play.keeper.table.of_client(client)
        assert found is not None
        return found

    async def shake_hands(self, one: Session, *, secret: bool) -> None:
        """Go through a handshake as the edge's RTSP does."""
        apart, keeper = self.play.keeper.apart, self.play.keeper
        apart.check(one)
        apart.set_up(one, secret=secret)
        terms = FlowTerms(48100, "E" * 16, "H" * 16 if secret else None)
        await keeper.note_flow(one, Flow.VIDEO, terms)
        await keeper.note_streaming(one)

    @property
    def telling(self) -> Telling:
        return self.fleet.telling(BACKEND)


@pytest.fixture
async def stage(nursery: trio.Nursery) -> AsyncIterator[Stage]:
    store = FakeStore()
    for client in (PHONE, TV, TABLET):
        store.know(b"", client)
    fleet = new_fleet(store)
    stage = Stage(
        new_play(ProxyConfig(hostname="h"), store, fleet, NoTls(), FakeFlows()),
        fleet,
        store,
    )

    async def on_stream(host: str, service: str, stream: trio.abc.Stream) -> None:
        await serve_http(stream, stage.answer)

    offer = HostOffer("wolf", max_sessions=4, apps=(AppOffer("Desktop", 1),), own_addresses=False)
    async with serving(fleet, FakeTunnel(nursery, hosts=(offer,), on_stream=on_stream)):
        yield stage


async def reason(doing: Any) -> str:
    with pytest.raises(Refused) as caught:
        await doing
    return caught.value.reason


async def test_a_second_launch_waits_until_the_first_has_played(
    stage: Stage, nursery: trio.Nursery
) -> None:
    stage.labels = ["7.7.7.7", "9.9.9.9"]
    first = await stage.launch(PHONE)
    nursery.start_soon(stage.launch, TV)
    await trio.testing.wait_all_tasks_blocked()
    assert stage.asked == ["/launch"]
    await stage.shake_hands(first, secret=True)
    await trio.testing.wait_all_tasks_blocked()
    assert stage.asked == ["/launch", "/launch"]
    await stage.shake_hands(stage.session_of(TV), secret=True)
    assert stage.telling is Telling.APART


async def test_a_host_that_has_shown_names_and_secrets_takes_launches_side_by_side(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    stage.labels = ["7.7.7.7", "9.9.9.9", "5.5.5.5"]
    await stage.shake_hands(await stage.launch(PHONE), secret=True)
    await stage.launch(TV)
    started = trio.current_time()
    tablet = await stage.launch(TABLET)
    assert trio.current_time() == started
    await stage.shake_hands(stage.session_of(TV), secret=True)
    await stage.shake_hands(tablet, secret=True)


async def test_a_client_that_never_comes_holds_the_next_up_for_one_turn(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    stage.labels = ["7.7.7.7", "9.9.9.9"]
    late = await stage.launch(PHONE)
    started = trio.current_time()
    await stage.launch(TV)
    assert trio.current_time() - started == pytest.approx(max_turn_s)
    with pytest.raises(HostUnavailable) as caught:
        stage.play.keeper.apart.check(late)
    assert caught.value.reason == "handshake_out_of_turn"


@pytest.mark.parametrize("how", ["cancel", "pause"])
async def test_a_client_that_gives_up_ends_its_turn(
    stage: Stage, how: str, autojump_clock: trio.testing.MockClock
) -> None:
    stage.labels = ["7.7.7.7", "9.9.9.9"]
    first = await stage.launch(PHONE)
    if how == "cancel":
        await stage.play.cancel(PHONE, launch_query())
    else:
        await stage.play.keeper.pause(first.id, "client_left")
    started = trio.current_time()
    await stage.launch(TV)
    assert trio.current_time() == started


async def test_a_launch_that_becomes_no_session_ends_its_turn(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    stage.labels = ["7.7.7.7", "9.9.9.9"]
    stage.store.failing = {"add_session"}
    with pytest.raises(StoreError):
        await stage.launch(PHONE)
    stage.store.failing = set()
    started = trio.current_time()
    await stage.launch(TV)
    assert trio.current_time() == started


async def test_who_waits_in_vain_is_refused_within_the_launch_timeout(
    stage: Stage, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stage.labels = ["7.7.7.7"]
    first = await stage.launch(PHONE)
    apart, patience_s = stage.play.keeper.apart, ProxyConfig(hostname="h").sessions.launch_timeout_s

    async def keep_taking_turns() -> None:
        while True:
            apart._turns.take(BACKEND, first.id, trio.current_time())
            await trio.sleep(max_turn_s / 2)

    nursery.start_soon(keep_taking_turns)
    started = trio.current_time()
    assert await reason(stage.launch(TV)) == "no_turn_at_host"
    assert trio.current_time() - started == pytest.approx(patience_s)
    assert stage.asked == ["/launch"]
    assert apart.refused == {"no_turn_at_host": 1}


async def test_a_host_without_secrets_has_one_session_and_the_next_is_told_it_is_full(
    stage: Stage,
) -> None:
    stage.labels = ["10.0.0.5"]
    first = await stage.launch(PHONE)
    await stage.shake_hands(first, secret=False)
    assert stage.telling is Telling.ALONE
    (told,) = [e for e in stage.fleet.events.newest() if e.kind == "host_tells_sessions_apart"]
    assert (told.subject, told.details) == (BACKEND, {"how": "alone"})
    assert await reason(stage.launch(TV)) == "all_full"
    await stage.play.keeper.pause(first.id, "client_left")
    assert await reason(stage.launch(TV)) == "all_full", "a paused one is mistaken as well"
    assert stage.asked == ["/launch"]


async def test_one_that_waited_is_refused_once_the_host_has_shown_that_it_has_no_secrets(
    stage: Stage, nursery: trio.Nursery
) -> None:
    stage.labels = ["10.0.0.5"]
    first = await stage.launch(PHONE)
    reasons: list[str] = []

    async def launch() -> None:
        reasons.append(await reason(stage.launch(TV)))

    nursery.start_soon(launch)
    await trio.testing.wait_all_tasks_blocked()
    await stage.shake_hands(first, secret=False)
    await trio.testing.wait_all_tasks_blocked()
    assert (reasons, stage.asked) == (["all_full"], ["/launch"])


async def test_a_host_that_gives_two_sessions_one_name_has_the_second_undone(stage: Stage) -> None:
    stage.labels = ["10.0.0.5", "10.0.0.5"]
    await stage.shake_hands(await stage.launch(PHONE), secret=True)
    assert await reason(stage.launch(TV)) == "all_full"
    assert stage.asked == ["/launch", "/launch", "/cancel"]
    assert len(stage.play.keeper.table) == 1


async def test_a_handshake_that_shows_the_want_of_secrets_beside_another_session_is_refused(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """The first client never came: nothing was known of the host when the second launched."""
    stage.labels = ["7.7.7.7", "9.9.9.9"]
    await stage.launch(PHONE)
    second = await stage.launch(TV)
    apart = stage.play.keeper.apart
    apart.check(second)
    with pytest.raises(HostUnavailable) as caught:
        apart.set_up(second, secret=False)
    assert caught.value.reason == "sessions_not_told_apart"
    with pytest.raises(HostUnavailable):
        apart.check(second)
    assert apart.refused == {"sessions_not_told_apart": 2}


async def test_a_resume_takes_its_turn(stage: Stage, nursery: trio.Nursery) -> None:
    stage.labels = ["7.7.7.7", "9.9.9.9", "5.5.5.5"]
    first = await stage.launch(PHONE)
    await stage.play.keeper.pause(first.id, "no_handshake")
    second = await stage.launch(TV)
    nursery.start_soon(stage.play.resume, PHONE, HOME, launch_query())
    await trio.testing.wait_all_tasks_blocked()
    assert stage.asked == ["/launch", "/launch"]
    await stage.shake_hands(second, secret=True)
    await trio.testing.wait_all_tasks_blocked()
    assert stage.asked == ["/launch", "/launch", "/resume"]
    await stage.shake_hands(first, secret=True)


async def test_a_resume_beside_another_session_is_refused_at_a_host_without_secrets(
    stage: Stage,
) -> None:
    stage.labels = ["10.0.0.5"]
    first = await stage.launch(PHONE)
    await stage.shake_hands(first, secret=False)
    await stage.play.keeper.pause(first.id, "client_left")
    stage.play.keeper.table.add(session("other", client=TV))
    assert await reason(stage.play.resume(PHONE, HOME, launch_query())) == "sessions_not_told_apart"
    assert stage.asked == ["/launch"]


async def test_after_a_restart_the_edge_knows_from_its_sessions_what_a_host_lacks(
    stage: Stage,
) -> None:
    restored = session("old", client=PHONE)
    restored.flows[Flow.AUDIO] = FlowTerms(48200, "E" * 16, None)
    stage.play.keeper.table.add(restored)
    assert stage.telling is Telling.IN_TURN
    assert await reason(stage.launch(TV)) == "sessions_not_told_apart"
    assert stage.telling is Telling.ALONE
    assert stage.asked == []
