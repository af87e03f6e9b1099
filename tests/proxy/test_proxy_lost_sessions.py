"""Sessions that their hosts have lost end here; nothing else ends one."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import trio
import trio.testing
from proxy_fakes import (
    BACKEND,
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

from moonlight.http import HttpRequest
from moonlight.serverinfo import ServerInfo
from moonlight.xml import Answer
from proxy.config import ProxyConfig
from proxy.fleet import Fleet
from proxy.host_apps import ask_timeout_s
from proxy.lost_sessions import (
    LostSessions,
    Signs,
    is_suspect,
    look_interval_s,
    max_asked,
    paused_interval_s,
    suspect_interval_s,
)
from proxy.media import Media
from proxy.play import Play
from proxy.sessions import Session, SessionId, SessionState
from revdial.messages import Heartbeat, HostReport

FREE = ServerInfo("wolf", "id", paired=True)
BUSY = replace(FREE, busy=True, current_game=1)

STREAMING = Signs(SessionState.STREAMING, since=0, flowing=False, missing=0, asked_at=None)
PAUSED = replace(STREAMING, state=SessionState.PAUSED)
LAUNCHED = replace(STREAMING, state=SessionState.LAUNCHED)


# When to ask


@pytest.mark.parametrize("signs", [STREAMING, PAUSED, LAUNCHED])
def test_a_count_that_is_too_low_makes_a_session_suspect(signs: Signs) -> None:
    assert is_suspect(replace(signs, missing=1), now=1)
    asked = replace(signs, missing=1, asked_at=1)
    assert not is_suspect(asked, now=suspect_interval_s)
    assert is_suspect(asked, now=suspect_interval_s + 1)


@pytest.mark.parametrize("missing", [None, 0, 1])
def test_a_stream_that_flows_is_never_suspect(missing: int | None) -> None:
    signs = replace(STREAMING, flowing=True, missing=missing)
    assert not is_suspect(signs, now=1000)
    assert not is_suspect(replace(signs, asked_at=1), now=1000)


def test_a_stream_that_stands_still_is_asked_about_again_and_again() -> None:
    assert is_suspect(STREAMING, now=2)
    asked = replace(STREAMING, asked_at=2)
    assert not is_suspect(asked, now=suspect_interval_s)
    assert is_suspect(asked, now=suspect_interval_s + 2)


def test_a_pause_is_asked_about_once_where_the_host_counts_its_sessions() -> None:
    assert is_suspect(PAUSED, now=1)
    assert not is_suspect(replace(PAUSED, asked_at=1), now=10_000)
    assert is_suspect(replace(PAUSED, asked_at=1, since=2), now=2)


def test_a_pause_is_asked_about_now_and_then_where_the_host_does_not_count() -> None:
    asked = replace(PAUSED, missing=None, asked_at=1)
    assert not is_suspect(asked, now=paused_interval_s)
    assert is_suspect(asked, now=paused_interval_s + 1)


@pytest.mark.parametrize("missing", [None, 0])
def test_a_client_that_is_about_to_come_is_left_alone(missing: int | None) -> None:
    assert not is_suspect(replace(LAUNCHED, missing=missing), now=20)


# Asking


@dataclass
class Stage:
    lost: LostSessions
    play: Play
    fleet: Fleet
    tunnel: FakeTunnel
    heard: Counter[SessionId] = field(default_factory=Counter)
    says: ServerInfo | None = FREE
    """None for silence."""
    status: int = 200
    asked: list[tuple[str, str]] = field(default_factory=list)

    def heard_from_host(self, session: SessionId) -> int:
        return self.heard[session]

    async def answer(self, request: HttpRequest) -> tuple[int, bytes]:
        self.asked.append((request.path, self.tunnel.dials[-1][2]))
        if self.says is None:
            await trio.sleep_forever()
        assert self.says is not None
        if self.status != 200:
            return self.status, Answer.error(self.status, "no").encode()
        return 200, self.says.to_answer().encode()

    def begin(self, name: str = "s1", state: SessionState = SessionState.STREAMING) -> Session:
        reservation = self.fleet.restore(BACKEND)
        one = replace(
            session(name, state=state, since=trio.current_time()), reservation=reservation
        )
        self.play.keeper.table.add(one)
        return one

    async def count(self, sessions: int | None) -> None:
        report = HostReport("wolf", True, sessions=sessions)
        await self.tunnel.heartbeats_in.send(Heartbeat((report,)))
        await trio.testing.wait_all_tasks_blocked()

    @property
    def sessions(self) -> int:
        return len(self.play.keeper.table)


@pytest.fixture
async def stage(nursery: trio.Nursery) -> AsyncIterator[Stage]:
    store = FakeStore()
    fleet = new_fleet(store)
    play = new_play(ProxyConfig(hostname="h"), store, fleet, NoTls(), FakeFlows())
    tunnel = FakeTunnel(nursery)
    made = Stage(cast("LostSessions", None), play, fleet, tunnel)
    made.lost = LostSessions(fleet, play.keeper.table, play, cast("Media", made))

    async def on_stream(host: str, service: str, stream: trio.abc.Stream) -> None:
        assert service == "http"  # as `NoTls` has it
        await serve_http(stream, made.answer)

    tunnel.on_stream = on_stream
    async with serving(fleet, tunnel):
        yield made


async def test_a_session_that_its_host_has_lost_ends_at_the_next_look_after_a_heartbeat(
    stage: Stage,
) -> None:
    one = stage.begin(state=SessionState.PAUSED)
    stage.says = BUSY
    await stage.count(1)
    await stage.lost.look()
    assert (stage.sessions, len(stage.asked)) == (1, 1), "its pause was asked about"
    await stage.lost.look()
    assert len(stage.asked) == 1
    stage.says = FREE
    await stage.count(0)
    stage.lost._asked_at[one.id] -= suspect_interval_s
    await stage.lost.look()
    assert stage.sessions == 0
    assert stage.asked[-1] == ("/serverinfo", one.id), "asked as the session's client"
    assert "session_lost" in {event.kind for event in stage.fleet.events.newest()}
    assert stage.play.keeper.table.current_app(one.client) == 0


async def test_a_stream_that_flows_outlives_a_wrong_count(stage: Stage) -> None:
    one = stage.begin()
    await stage.count(0)
    for _ in range(3):
        stage.heard[one.id] += 1
        await stage.lost.look()
    assert (stage.sessions, stage.asked) == (1, [])
    await stage.lost.look()
    assert stage.sessions == 0, "it stands still, and its host knows of none"


@pytest.mark.parametrize(
    "says",
    [
        BUSY,
        replace(BUSY, current_game=0),
        replace(FREE, current_game=1),
        replace(FREE, paired=False),
    ],
)
async def test_only_a_clear_word_ends_a_session(stage: Stage, says: ServerInfo) -> None:
    stage.begin()
    stage.says = says
    await stage.count(0)
    for _ in range(3):
        await stage.lost.look()
    assert (stage.sessions, len(stage.asked)) == (1, 1)


@pytest.mark.parametrize("trouble", ["silence", "refusal", "unpaired"])
async def test_a_host_that_does_not_say_costs_no_session(
    stage: Stage, trouble: str, autojump_clock: trio.testing.MockClock
) -> None:
    stage.begin(state=SessionState.PAUSED)
    stage.says = None if trouble == "silence" else FREE
    stage.status = {"refusal": 503, "unpaired": 401}.get(trouble, 200)
    await stage.count(0)
    started = trio.current_time()
    await stage.lost.look()
    assert (stage.sessions, len(stage.asked)) == (1, 1)
    assert trio.current_time() - started <= ask_timeout_s + 1


async def test_nobody_is_asked_while_the_agent_is_away(stage: Stage) -> None:
    one = session("s1", client="tv", state=SessionState.PAUSED)
    stage.play.keeper.table.add(replace(one, backend=type(BACKEND)("away/wolf")))
    await stage.lost.look()
    assert (stage.sessions, stage.asked) == (1, [])


async def test_a_host_that_has_lost_many_is_asked_about_so_many_at_a_time(stage: Stage) -> None:
    stage.says = BUSY
    for number in range(max_asked + 3):
        stage.begin(f"s{number}")
    await stage.count(0)
    await stage.lost.look()
    await stage.lost.look()
    assert len(stage.asked) == max_asked
    await stage.lost.look()
    origins = [origin for _, _, origin, _ in stage.tunnel.dials]
    assert len(set(origins)) == len(origins) == max_asked + 3


async def test_a_client_that_is_being_served_is_asked_about_later(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    one = stage.begin(state=SessionState.PAUSED)
    async with stage.play._client_locks.held(one.client, timeout_s=1):
        await stage.lost.look()
    assert (stage.sessions, stage.asked) == (1, [])


async def test_a_session_that_ends_while_it_is_asked_about_ends_once(
    stage: Stage, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    one = stage.begin(state=SessionState.PAUSED)
    nursery.start_soon(stage.lost.run)
    await trio.sleep(look_interval_s - 1)
    await stage.play.keeper.end(one, "cancelled")
    await trio.sleep(2)
    assert (stage.asked, await stage.play.end_if_gone(one.id)) == ([], False)
