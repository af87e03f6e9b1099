"""Which backend a launch goes to, and what the player reads when there is none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import InvalidOffer, NoBackend
from backends.model import AppOffer, Backend, BackendId, backend_id
from backends.records import StickyRecord
from backends.selection import Exclusion, LaunchIntent, Reason, Refusal, select

NOW = datetime(2026, 11, 23, tzinfo=UTC)
DESKTOP = AppOffer("Desktop", 1)
INTENT = LaunchIntent("client", "Desktop")
EXPIRES = NOW + timedelta(days=1)


def backend(
    name: str = "a",
    *,
    apps: tuple[AppOffer, ...] = (DESKTOP,),
    sessions: int = 0,
    max_sessions: int = 2,
    healthy: bool = True,
    draining: bool = False,
) -> Backend:
    return Backend(
        id=BackendId(f"{name}/wolf"),
        agent_id=name,
        host="wolf",
        kind="wolf",
        region="eu",
        latitude=None,
        longitude=None,
        apps=apps,
        sessions=sessions,
        max_sessions=max_sessions,
        healthy=healthy,
        draining=draining,
    )


def sticky_at(name: str, expires_at: datetime = EXPIRES) -> StickyRecord:
    return StickyRecord("client", BackendId(f"{name}/wolf"), expires_at)


def test_the_fewest_sessions_win() -> None:
    decision = select(INTENT, [backend("a", sessions=1), backend("b")], now=NOW)
    assert (decision.backend.agent_id, decision.reason) == ("b", Reason.FEWEST_SESSIONS)
    assert decision.considered == ()


def test_ties_go_to_the_lowest_id() -> None:
    assert select(INTENT, [backend("b"), backend("a")], now=NOW).backend.agent_id == "a"


def test_the_last_backend_is_preferred() -> None:
    backends = [backend("a"), backend("b", sessions=1)]
    decision = select(INTENT, backends, sticky=sticky_at("b"), now=NOW)
    assert (decision.backend.agent_id, decision.reason) == ("b", Reason.STICKY)


@pytest.mark.parametrize(
    "sticky",
    [
        pytest.param(sticky_at("b", NOW), id="expired"),
        pytest.param(sticky_at("full"), id="full"),
        pytest.param(sticky_at("gone"), id="gone"),
    ],
)
def test_a_last_backend_that_will_not_do_is_passed_over(sticky: StickyRecord) -> None:
    backends = [backend("a"), backend("b", sessions=1), backend("full", sessions=2)]
    decision = select(INTENT, backends, sticky=sticky, now=NOW)
    assert (decision.backend.agent_id, decision.reason) == ("a", Reason.FEWEST_SESSIONS)


@pytest.mark.parametrize(
    "there", [backend("r", sessions=2), backend("r", draining=True), backend("r")]
)
def test_the_running_session_wins(there: Backend) -> None:
    decision = select(
        INTENT, [backend("a"), there], sticky=sticky_at("a"), running=there.id, now=NOW
    )
    assert (decision.backend, decision.reason) == (there, Reason.RUNNING)
    assert decision.considered == ()


@pytest.mark.parametrize("there", [backend("r", healthy=False), backend("r", apps=()), None])
def test_a_running_session_that_cannot_go_on_does_not(there: Backend | None) -> None:
    backends = [backend("a"), *([there] if there else [])]
    assert select(INTENT, backends, running=BackendId("r/wolf"), now=NOW).backend.agent_id == "a"


def test_the_others_are_reported_with_what_excluded_them() -> None:
    backends = [
        backend("a"),
        backend("b", apps=(), healthy=False),
        backend("c", healthy=False, draining=True),
        backend("d", draining=True, sessions=2),
        backend("e", sessions=2),
    ]
    assert select(INTENT, backends, now=NOW).considered == (
        (BackendId("b/wolf"), Exclusion.NO_SUCH_APP),
        (BackendId("c/wolf"), Exclusion.UNHEALTHY),
        (BackendId("d/wolf"), Exclusion.DRAINING),
        (BackendId("e/wolf"), Exclusion.FULL),
    )


def test_titles_match_however_they_are_written() -> None:
    intent = LaunchIntent("client", "  desktop ")
    assert select(intent, [backend()], now=NOW).backend == backend()


UNHEALTHY_SENTENCE = (
    'The computers that have "Desktop" are not answering right now. Please try again later.'
)
NO_APP, FULL = backend("n", apps=()), backend("f", sessions=2)
DRAINING, BROKEN = backend("d", draining=True), backend("u", healthy=False)


@pytest.mark.parametrize(
    ("backends", "reason", "sentence"),
    [
        ([], Refusal.NO_BACKENDS, "No computer is online right now. Please try again later."),
        ([NO_APP], Refusal.NO_SUCH_APP, 'No computer that has "Desktop" is online right now.'),
        (
            [BROKEN, NO_APP],
            Refusal.ALL_UNHEALTHY,
            UNHEALTHY_SENTENCE,
        ),
        (
            [DRAINING, BROKEN],
            Refusal.ALL_DRAINING,
            'The computers that have "Desktop" are going into maintenance and start nothing new.',
        ),
        (
            [FULL, DRAINING, BROKEN, NO_APP],
            Refusal.ALL_FULL,
            'Every computer that has "Desktop" is in use right now. Please try again later.',
        ),
    ],
)
def test_a_refusal_is_a_sentence(backends: list[Backend], reason: Refusal, sentence: str) -> None:
    with pytest.raises(NoBackend) as caught:
        select(INTENT, backends, now=NOW)
    assert caught.value.reason == reason
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("title", "named"), [("\n\0", "this app"), ("{0}\x1b[2J", '"{0} [2J"'), ("x" * 999, "x" * 120)]
)
def test_a_strange_title_does_no_harm(title: str, named: str) -> None:
    with pytest.raises(NoBackend) as caught:
        select(LaunchIntent("client", title), [NO_APP], now=NOW)
    assert named in str(caught.value)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_a_policy_chooses_only_among_the_eligible() -> None:
    class Last:
        reason = "last"

        def select(self, pool: Sequence[Backend], request: LaunchIntent) -> Backend:
            assert request == INTENT
            return pool[-1]

    decision = select(INTENT, [backend("a"), backend("b"), FULL], now=NOW, policy=Last())
    assert (decision.backend.agent_id, decision.reason) == ("b", "last")


@pytest.mark.parametrize(("agent", "host"), [("a/b", "c"), ("a", ""), ("", "a"), ("a", "-x")])
def test_a_backend_id_is_made_of_two_plain_names(agent: str, host: str) -> None:
    with pytest.raises(InvalidOffer):
        backend_id(agent, host)


def test_backend_ids_name_agent_and_host() -> None:
    assert backend_id("frankfurt-1", "wolf.a") == "frankfurt-1/wolf.a"


names = st.sampled_from(["a", "b", "c", "d", "e"])
any_backend = st.builds(
    backend,
    names,
    apps=st.sampled_from([(), (DESKTOP,), (AppOffer("Steam", 2),), (AppOffer("DESKTOP", 3),)]),
    sessions=st.integers(0, 3),
    max_sessions=st.integers(0, 3),
    healthy=st.booleans(),
    draining=st.booleans(),
)
pools = st.lists(any_backend, max_size=5, unique_by=lambda each: each.id)
stickies = st.none() | st.builds(
    sticky_at, names, st.sampled_from([NOW - timedelta(1), NOW, EXPIRES])
)
runnings = st.none() | names.map(lambda name: BackendId(f"{name}/wolf"))


@given(pools, stickies, runnings)
def test_never_an_ineligible_backend(
    pool: list[Backend], sticky: StickyRecord | None, running: BackendId | None
) -> None:
    try:
        decision = select(INTENT, pool, sticky=sticky, running=running, now=NOW)
    except NoBackend:
        usable = [
            each
            for each in pool
            if each.healthy and not each.draining and each.sessions < each.max_sessions
        ]
        assert not any(app.title.lower() == "desktop" for each in usable for app in each.apps)
        return
    chosen = decision.backend
    assert chosen in pool
    assert chosen.healthy
    assert any(app.title.lower() == "desktop" for app in chosen.apps)
    if decision.reason != Reason.RUNNING:
        assert not chosen.draining
        assert chosen.sessions < chosen.max_sessions
    else:
        assert chosen.id == running
    assert chosen.id not in dict(decision.considered)


@given(pools.flatmap(lambda p: st.tuples(st.just(p), st.permutations(p))), stickies, runnings)
def test_equal_inputs_give_equal_answers_in_any_order(
    orders: tuple[list[Backend], list[Backend]],
    sticky: StickyRecord | None,
    running: BackendId | None,
) -> None:
    answers: list[object] = []
    for backends in orders:
        try:
            answers.append(select(INTENT, backends, sticky=sticky, running=running, now=NOW))
        except NoBackend as error:
            answers.append((error.reason, str(error)))
    assert answers[0] == answers[1]


@given(pools)
def test_no_eligible_backend_has_fewer_sessions(pool: list[Backend]) -> None:
    try:
        chosen = select(INTENT, pool, now=NOW).backend
    except NoBackend:
        return
    for lighter in (each for each in pool if each.sessions < chosen.sessions):
        with pytest.raises(NoBackend):
            select(INTENT, [lighter], now=NOW)
