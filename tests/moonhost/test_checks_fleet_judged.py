"""What the doctor says of agents, hosts, drains, wakes, places, and UDP from outside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backends.registry import launches_fail
from moonhost.checks.finding import Mark
from moonhost.checks.judging_fleet import (
    GeoFile,
    Place,
    ProbeFacts,
    WakeWish,
    is_near,
    judge_agents,
    judge_backends,
    judge_drains,
    judge_place,
    judge_probe,
    judge_wakes,
    no_probe,
)

NOW = datetime(2026, 11, 30, tzinfo=UTC)
FILE = Path("/var/lib/geo/city.mmdb")


def agent(name: str = "living-room", **changed: Any) -> dict[str, Any]:
    told = {"id": name, "connected": True, "rtt_ms": 12.5, "version": "moonhost 0.1.0"}
    return {**told, "connected_at": "2026-11-30T00:00:00+00:00", **changed}


def test_a_deployment_without_agents_is_told_how_to_get_one() -> None:
    (found,) = judge_agents([])
    assert (found.mark, "moonhost token agent NAME" in found.remedy) == (Mark.WARNING, True)


def test_agents_are_told_one_by_one() -> None:
    here, gone, slow = judge_agents(
        [agent(), agent("garage", connected=False, rtt_ms=None), agent("far", rtt_ms=180.0)]
    )
    assert (here.mark, "moonhost 0.1.0" in here.seen) == (Mark.OK, True)
    assert (gone.mark, "moonhost doctor agent" in gone.remedy) == (Mark.WARNING, True)
    assert (slow.mark, "180 ms" in slow.seen) == (Mark.WARNING, True)
    assert judge_agents([agent(rtt_ms=None), agent(rtt_ms=150)])[1].mark is Mark.OK


def backend(name: str, trouble: str | None = None, **changed: Any) -> dict[str, Any]:
    return {"id": name, "trouble": trouble, "draining": False, "apps": ["Desktop"], **changed}


def test_hosts_that_nobody_can_begin_at_are_told_apart() -> None:
    drains, bare = judge_backends([backend("a/x", draining=True), backend("a/y", apps=[])], set())
    assert (drains.mark, "`moonhost undrain`" in drains.seen) == (Mark.OK, True)
    assert (bare.mark, "no apps" in bare.seen) == (Mark.WARNING, True)


def test_hosts_that_are_down_are_told_with_the_port_that_does_not_answer() -> None:
    fine, silent, down, asleep = judge_backends(
        [
            backend("a/one"),
            backend("a/two"),
            backend("a/silent", "telemetry_stale"),
            backend("a/down", "https"),
            backend("a/asleep", "http"),
            backend("gone/x", "tunnel_down"),
        ],
        {"a/asleep"},
    )
    assert (fine.mark, fine.seen) == (Mark.OK, "a/one, a/two can be played on")
    assert silent.mark is Mark.WARNING
    assert (down.mark, "its https port" in down.seen) == (Mark.PROBLEM, True)
    assert asleep.mark is Mark.OK
    assert judge_backends([], set()) == []
    launch, host = judge_backends([backend("a/x", launches_fail), backend("a/y", "host")], set())
    assert "for a launch" in launch.seen
    assert host.seen == "a/y is down: it does not answer its agent"


def test_a_drain_is_told_once_its_deadline_is_over() -> None:
    since = (NOW - timedelta(hours=2)).isoformat()

    def drain(target: str, deadline: timedelta | None) -> dict[str, Any]:
        at = None if deadline is None else (NOW + deadline).isoformat()
        return {"target": target, "since": since, "deadline": at}

    over = judge_drains(
        [
            drain("a/over", -timedelta(minutes=1)),
            drain("a/later", timedelta(minutes=1)),
            drain("a/open", None),
        ],
        NOW,
    )
    assert [found.remedy.split("`")[1] for found in over] == ["moonhost undrain a/over"]


def test_sleepers_that_nobody_can_wake_are_problems() -> None:
    known = {"bedroom", "living-room"}
    (fine,) = judge_wakes(
        [WakeWish("bedroom/pc", "living-room"), WakeWish("bedroom/tv", None)], known
    )
    assert fine.mark is Mark.OK
    nobody, stranger = judge_wakes(
        [WakeWish("bedroom/pc", "nobody"), WakeWish("attic/pc", None)], known
    )
    assert (nobody.mark, "no agent nobody holds" in nobody.seen) == (Mark.PROBLEM, True)
    assert "no agent attic holds" in stranger.seen
    assert judge_wakes([], known) == []


def test_places_that_are_known_are_fine() -> None:
    (nothing,) = judge_place(Place(None, has_regions=False, databases=()), NOW)
    (whole,) = judge_place(
        Place("home", has_regions=True, databases=(GeoFile(FILE, None, NOW),)), NOW
    )
    (undated,) = judge_place(
        Place("home", has_regions=True, databases=(GeoFile(FILE, None, None),)), NOW
    )
    assert {nothing.mark, whole.mark, undated.mark} == {Mark.OK}


def test_what_keeps_players_from_the_nearest_host_is_told() -> None:
    missing, old, region = judge_place(
        Place(
            None,
            has_regions=True,
            databases=(
                GeoFile(FILE, "no such file", None),
                GeoFile(FILE, None, NOW - timedelta(days=61)),
            ),
        ),
        NOW,
    )
    assert (missing.mark, "no such file" in missing.seen) == (Mark.PROBLEM, True)
    assert (old.mark, "2026-09-30" in old.seen) == (Mark.WARNING, True)
    assert (region.mark, "edge_region" in region.seen) == (Mark.WARNING, True)


def probe(
    *, video: bool, control: bool, sent_to: str = "Play.example.org.", near: bool = False
) -> ProbeFacts:
    ports = {"video": (47998, video), "control": (47999, control)}
    return ProbeFacts("a", sent_to, "play.example.org", ports, is_near=near)


def test_udp_ports_are_told_by_number() -> None:
    (fine,) = judge_probe(probe(video=True, control=True))
    assert (fine.mark, fine.seen) == (Mark.OK, "a reaches video 47998, control 47999")
    reached, closed = judge_probe(probe(video=True, control=False))
    assert (reached.mark, closed.mark) == (Mark.OK, Mark.PROBLEM)
    assert "does not reach control 47999 at Play.example.org." in closed.seen
    assert "firewalls" in closed.remedy


def test_an_agent_beside_the_edge_proves_less() -> None:
    (found,) = judge_probe(probe(video=True, control=True, near=True))
    assert "a firewall before both is not seen" in found.seen


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("127.0.0.1:5000", True),
        ("10.1.2.3:5000", True),
        ("[fe80::1%eth0]:5000", True),
        ("8.8.8.8:5000", False),
        ("[2606:4700::1]:5000", False),
    ],
)
def test_who_is_near_is_told_by_the_address(address: str, near: bool) -> None:
    assert is_near(address) is near


def test_an_agent_that_dials_another_name_proves_less() -> None:
    (found,) = judge_probe(probe(video=False, control=False, sent_to="agents.example.org"))
    assert found.mark is Mark.WARNING
    assert "instead of play.example.org" in found.seen


def test_what_no_agent_was_asked_for_is_not_checked() -> None:
    assert no_probe("no edge runs").mark is Mark.NOT_CHECKED
