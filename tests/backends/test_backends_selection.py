"""Which backend a launch goes to and why, and what the player reads when there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.candidates import Candidates, Exclusion
from backends.errors import InvalidOffer, NoBackend
from backends.geography import ClientPlace, LocatedBy
from backends.model import Backend, BackendId, Health, backend_id
from backends.policies import Offer, PolicyName, policies
from backends.records import StickyRecord
from backends.selection import Decision, LaunchIntent, Reason, Refusal, explain, select
from bench import naive_select
from tests.backends.backends_made import (
    EXPIRES,
    NOW,
    PLACES,
    any_backend,
    backend,
    fleets,
    names,
    sticky_at,
)

AT_FRANKFURT = ClientPlace(LocatedBy.PINNED_NETWORK, "frankfurt", PLACES["frankfurt"])
INTENT = LaunchIntent("client", "Desktop", AT_FRANKFURT)
FULL_HERE = backend("full", sessions=2)
PARIS, OREGON = backend("p", region="paris"), backend("o", region="oregon")


def choose(
    backends: Sequence[Backend],
    intent: LaunchIntent = INTENT,
    *,
    sticky: StickyRecord | None = None,
    running: str | None = None,
    policy: PolicyName = PolicyName.GEO,
) -> Decision:
    return select(
        intent,
        Candidates(backends),
        sticky=sticky,
        running=None if running is None else BackendId(f"{running}/wolf"),
        now=NOW,
        policy=policies[policy],
    )


def refused(backends: Sequence[Backend], intent: LaunchIntent = INTENT) -> NoBackend:
    with pytest.raises(NoBackend) as caught:
        choose(backends, intent)
    return caught.value


def test_the_nearest_region_wins_whatever_its_load() -> None:
    near = backend("z", sessions=1, gpu=0.9)
    decision = choose([PARIS, near, OREGON])
    assert decision == Decision(near, Reason.NEAREST, AT_FRANKFURT, 0.0)


def test_a_region_without_room_spills_to_the_next_and_says_so() -> None:
    full_too = backend("q", region="paris", sessions=2)
    decision = choose([FULL_HERE, full_too, OREGON])
    assert (decision.backend, decision.reason) == (OREGON, Reason.SPILLED)
    assert decision.passed_over == ("frankfurt", "paris")
    assert decision.distance_km == pytest.approx(8_350, abs=100)


def test_a_region_within_fifty_kilometres_is_no_spill() -> None:
    decision = choose([FULL_HERE, backend("m", region="mainz")])
    assert (decision.reason, decision.passed_over) == (Reason.NEAREST, ())


def test_a_region_that_lacks_the_app_is_none_that_was_passed_over() -> None:
    decision = choose([backend("x", apps=()), PARIS])
    assert (decision.backend, decision.reason) == (PARIS, Reason.NEAREST)


def test_a_crowded_host_is_skipped_while_another_region_has_room() -> None:
    crowded = backend("c", gpu=0.91)
    decision = choose([crowded, PARIS])
    assert (decision.backend, decision.passed_over) == (PARIS, ("frankfurt",))
    assert choose([crowded, backend("p", region="paris", gpu=0.92)]).backend == crowded
    assert choose([crowded]).reason is Reason.NEAREST


def test_among_crowded_regions_only_those_without_any_room_were_passed_over() -> None:
    decision = choose([FULL_HERE, backend("p", region="paris", gpu=0.92)])
    assert (decision.reason, decision.passed_over) == (Reason.SPILLED, ("frankfurt",))


def test_unknown_memory_ranks_after_known() -> None:
    assert choose([backend("a", gpu=None), backend("b", gpu=0.9)]).backend.agent_id == "b"
    assert choose([backend("a", gpu=None), backend("b", gpu=0.91)]).backend.agent_id == "a"


@pytest.mark.parametrize(
    ("policy", "name", "reason"),
    [
        (PolicyName.GEO, "f", Reason.NEAREST),
        (PolicyName.RTT, "p", Reason.QUICKEST),
        (PolicyName.LOAD, "o", Reason.LEAST_LOADED),
    ],
)
def test_a_policy_says_what_counts(policy: PolicyName, name: str, reason: Reason) -> None:
    fleet = [
        backend("f", rtt_s=0.03),
        backend("p", region="paris", rtt_s=0.01),
        backend("o", region="oregon", gpu=0.1),
    ]
    decision = choose(fleet, policy=policy)
    assert (decision.backend.agent_id, decision.reason) == (name, reason)
    assert choose([FULL_HERE, *fleet[1:]], policy=policy).reason is (
        Reason.SPILLED if policy is PolicyName.GEO else reason
    )


def test_users_may_be_kept_to_regions() -> None:
    only_oregon = replace(INTENT, regions=frozenset({"oregon"}))
    decision = choose([backend(), PARIS, OREGON], only_oregon)
    assert (decision.backend, decision.passed_over) == (OREGON, ())
    assert choose([backend(), OREGON], only_oregon, sticky=sticky_at("a")).backend == OREGON


def test_a_backend_that_failed_to_start_this_launch_is_not_asked_again() -> None:
    again = replace(INTENT, tried=frozenset({BackendId("a/wolf"), BackendId("b/wolf")}))
    fleet = [backend("a"), backend("b"), backend("c", gpu=0.9)]
    assert choose(fleet, again).backend.agent_id == "c"
    assert choose(fleet, again, sticky=sticky_at("a")).backend.agent_id == "c"
    assert choose(fleet, again, running="a").backend.agent_id == "c"


def test_the_last_backend_is_preferred() -> None:
    decision = choose(
        [backend("a"), backend("o", region="oregon", gpu=0.95)], sticky=sticky_at("o")
    )
    assert (decision.backend.agent_id, decision.reason) == ("o", Reason.STICKY)
    assert decision.distance_km > 8_000


@pytest.mark.parametrize(
    "sticky",
    [
        pytest.param(sticky_at("b", NOW), id="expired"),
        pytest.param(sticky_at("full"), id="full"),
        pytest.param(sticky_at("gone"), id="gone"),
    ],
)
def test_a_last_backend_that_will_not_do_is_passed_over(sticky: StickyRecord) -> None:
    decision = choose([backend("a"), backend("b", gpu=0.9), FULL_HERE], sticky=sticky)
    assert (decision.backend.agent_id, decision.reason) == ("a", Reason.NEAREST)


@pytest.mark.parametrize(
    "there",
    [
        backend("r"),
        backend("r", sessions=2),
        backend("r", draining=True),
        backend("r", gpu=0.99, gpu_after=1.0),
        backend("r", region="oregon"),
        backend("r", health=Health.DEGRADED, gpu=None),
    ],
)
def test_the_running_session_wins(there: Backend) -> None:
    kept_here = replace(INTENT, regions=frozenset({"frankfurt"}))
    decision = choose([backend("a"), there], kept_here, sticky=sticky_at("a"), running="r")
    assert (decision.backend, decision.reason) == (there, Reason.RUNNING)


@pytest.mark.parametrize("there", [backend("r", health=Health.UNHEALTHY), backend("r", apps=())])
def test_a_running_session_that_cannot_go_on_does_not(there: Backend) -> None:
    assert choose([backend("a"), there], running="r").backend.agent_id == "a"
    assert choose([backend("a")], running="r").backend.agent_id == "a"


def test_titles_match_however_they_are_written() -> None:
    assert choose([backend()], replace(INTENT, app_title="  desktop ")).backend == backend()


def test_nobody_knowing_where_anything_is_does_not_stop_a_launch() -> None:
    decision = choose([backend("a"), PARIS], LaunchIntent("client", "Desktop"))
    assert (decision.backend.agent_id, decision.distance_km) == ("a", math.inf)


NO_APP, BROKEN = backend("n", apps=()), backend("u", health=Health.UNHEALTHY)
DRAINING, GPU_FULL = backend("d", draining=True), backend("g", gpu=0.96, gpu_after=0.98)
NOT_ANSWERING = (
    'The computers that have "Desktop" are not answering right now. Please try again later.'
)
IN_USE = 'Every computer that has "Desktop" is in use right now. Please try again later.'


@pytest.mark.parametrize(
    ("backends", "reason", "sentence"),
    [
        ([], Refusal.NO_BACKENDS, "No computer is online right now. Please try again later."),
        ([NO_APP], Refusal.NO_SUCH_APP, 'No computer that has "Desktop" is online right now.'),
        ([PARIS], Refusal.NOT_ALLOWED, 'No computer that you may use has "Desktop".'),
        (
            [BROKEN, NO_APP, PARIS],
            Refusal.ALL_UNHEALTHY,
            NOT_ANSWERING,
        ),
        (
            [DRAINING, BROKEN],
            Refusal.ALL_DRAINING,
            'The computers that have "Desktop" are going into maintenance and start nothing new.',
        ),
        ([FULL_HERE, DRAINING, BROKEN, NO_APP], Refusal.ALL_FULL, IN_USE),
        ([GPU_FULL], Refusal.ALL_FULL, IN_USE),
    ],
)
def test_a_refusal_is_a_sentence(backends: list[Backend], reason: Refusal, sentence: str) -> None:
    error = refused(backends, replace(INTENT, regions=frozenset({"frankfurt"})))
    assert (error.reason, str(error)) == (reason, sentence)


def test_when_all_were_tried_the_player_reads_so() -> None:
    error = refused([backend("a"), BROKEN], replace(INTENT, tried=frozenset({backend("a").id})))
    assert error.reason == Refusal.ALL_TRIED
    assert str(error) == 'No computer could start "Desktop" right now. Please try again later.'


@pytest.mark.parametrize(
    ("title", "named"), [("\n\0", "this app"), ("{0}\x1b[2J", '"{0} [2J"'), ("x" * 999, "x" * 120)]
)
def test_a_strange_title_does_no_harm(title: str, named: str) -> None:
    text = str(refused([NO_APP], LaunchIntent("client", title)))
    assert named in text
    assert len(text) < 200
    assert text.isprintable()


def test_a_policy_is_asked_only_about_regions_with_room() -> None:
    class Last:
        name: ClassVar[PolicyName] = PolicyName.LOAD

        def select(self, offers: Sequence[Offer]) -> Offer:
            assert {offer.backend.region for offer in offers} == {"paris", "oregon"}
            return offers[-1]

    candidates = Candidates([FULL_HERE, PARIS, OREGON, backend("m", region="mainz", gpu=0.95)])
    assert select(INTENT, candidates, now=NOW, policy=Last()).backend == OREGON


def test_an_explanation_has_a_verdict_on_every_backend() -> None:
    fleet = [OREGON, NO_APP, DRAINING, BROKEN, FULL_HERE, GPU_FULL, backend("t"), backend("a")]
    intent = LaunchIntent(
        "client",
        "Desktop",
        AT_FRANKFURT,
        frozenset({"frankfurt", "oregon"}),
        frozenset({fleet[6].id}),
    )
    explanation = explain(intent, Candidates([*fleet, PARIS]), now=NOW)
    assert explanation.outcome == choose(fleet, intent)
    assert [(each.backend.agent_id, each.excluded) for each in explanation.verdicts] == [
        ("a", None),
        ("o", None),
        ("d", Exclusion.DRAINING),
        ("full", Exclusion.FULL),
        ("g", Exclusion.GPU_FULL),
        ("n", Exclusion.NO_SUCH_APP),
        ("t", Exclusion.TRIED),
        ("u", Exclusion.UNHEALTHY),
        ("p", Exclusion.REGION_NOT_ALLOWED),
    ]
    assert explanation.verdicts[0].distance_km == 0.0


def test_a_refusal_can_be_explained_too() -> None:
    explanation = explain(INTENT, Candidates([FULL_HERE]), now=NOW)
    assert isinstance(explanation.outcome, NoBackend)
    assert explanation.outcome.reason == Refusal.ALL_FULL
    assert [each.excluded for each in explanation.verdicts] == [Exclusion.FULL]


@pytest.mark.parametrize(("agent", "host"), [("a/b", "c"), ("a", ""), ("", "a"), ("a", "-x")])
def test_a_backend_id_is_made_of_two_plain_names(agent: str, host: str) -> None:
    with pytest.raises(InvalidOffer):
        backend_id(agent, host)


def test_backend_ids_name_agent_and_host() -> None:
    assert backend_id("frankfurt-1", "wolf.a") == "frankfurt-1/wolf.a"


stickies = st.none() | st.builds(
    sticky_at, names, st.sampled_from([NOW - timedelta(1), NOW, EXPIRES])
)
runnings = st.none() | names
places = st.sampled_from(
    [
        ClientPlace(),
        AT_FRANKFURT,
        ClientPlace(LocatedBy.DATABASE, None, PLACES["paris"]),
        ClientPlace(LocatedBy.EDGE_REGION, "nowhere", None),
    ]
)
intents = st.builds(
    LaunchIntent,
    st.just("client"),
    st.sampled_from(["Desktop", "Desktop", "steam"]),
    places,
    st.none() | st.frozensets(st.sampled_from(sorted(PLACES)), max_size=3),
    st.frozensets(names.map(lambda name: BackendId(f"{name}/wolf")), max_size=2),
)
policy_names = st.sampled_from(PolicyName)


@given(fleets, intents, stickies, runnings, policy_names)
def test_the_answer_is_that_of_a_plain_look_at_every_backend(
    fleet: list[Backend],
    intent: LaunchIntent,
    sticky: StickyRecord | None,
    running: str | None,
    policy: PolicyName,
) -> None:
    expected = naive_select.select(
        intent,
        fleet,
        sticky=sticky,
        running=None if running is None else BackendId(f"{running}/wolf"),
        now=NOW,
        policy=policy,
    )
    if expected is None:
        refused(fleet, intent)
        return
    decision = choose(fleet, intent, sticky=sticky, running=running, policy=policy)
    assert decision.backend == expected
    assert (decision.reason is Reason.RUNNING) <= (expected.agent_id == running)
    if decision.reason is not Reason.RUNNING:
        assert naive_select.is_eligible(expected, intent.app_title.lower(), intent)


@given(fleets.flatmap(lambda f: st.tuples(st.just(f), st.permutations(f))), intents, policy_names)
def test_equal_inputs_give_equal_answers_in_any_order(
    orders: tuple[list[Backend], list[Backend]], intent: LaunchIntent, policy: PolicyName
) -> None:
    answers: list[object] = []
    for backends in orders:
        found = explain(intent, Candidates(backends), now=NOW, policy=policies[policy])
        outcome = found.outcome
        refusal = isinstance(outcome, NoBackend)
        answers.append(((outcome.reason, str(outcome)) if refusal else outcome, found.verdicts))
    assert answers[0] == answers[1]


@given(fleets, intents)
def test_a_spill_passes_over_exactly_the_nearer_regions_that_have_no_room(
    fleet: list[Backend], intent: LaunchIntent
) -> None:
    candidates = Candidates(fleet)
    try:
        decision = select(intent, candidates, now=NOW)
    except NoBackend:
        return
    title = intent.app_title.lower()
    crowded_too = naive_select.load(decision.backend)[0] == 2
    expected = {}
    for region in {each.region for each in fleet if title in each.apps.titles}:
        distance = intent.place.distance_km(region, candidates.place(region))
        if distance < decision.distance_km - 50 and region in (intent.regions or {region}):
            there = [each for each in fleet if each.region == region]
            able = [e for e in there if naive_select.is_eligible(e, title, intent)]
            assert crowded_too <= (not able)
            assert all(naive_select.load(each)[0] == 2 for each in able)
            expected[region] = distance
    assert decision.passed_over == tuple(sorted(expected, key=lambda name: (expected[name], name)))


@given(st.lists(any_backend, max_size=6, unique_by=lambda each: each.id), intents, policy_names)
def test_a_fleet_is_filled_to_the_last_slot_of_every_backend_that_can_take_a_launch(
    fleet: list[Backend], intent: LaunchIntent, policy: PolicyName
) -> None:
    candidates = Candidates(fleet)
    slots = {
        each.id: each.max_sessions - each.sessions
        for each in fleet
        if naive_select.is_eligible(each, intent.app_title.lower(), intent)
    }
    for _ in range(sum(slots.values())):
        chosen = select(intent, candidates, now=NOW, policy=policies[policy]).backend
        slots[chosen.id] -= 1
        candidates.put(replace(chosen, sessions=chosen.sessions + 1))
    assert set(slots.values()) <= {0}
    with pytest.raises(NoBackend):
        select(intent, candidates, now=NOW, policy=policies[policy])
