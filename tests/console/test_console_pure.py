"""What the console works out without asking anybody, run where it runs: in the browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page
from visit import imported

from tests.console.conftest import watched_tab
from tests.console.fake_edge import ServedEdge
from tests.e2e.browser import BrowserThread


@pytest.fixture(scope="module")
def page(browser: BrowserThread, served: ServedEdge) -> Iterator[Page]:
    """One page for all tests: what they ask for keeps nothing."""
    with watched_tab(browser, base_url=served.url) as tab:
        browser.run(lambda: tab.page.goto("/console/favicon.svg"))
        yield tab.page


def reading(sent: int, *, packets: int = 0, missing: int = 0, name: str = "s") -> dict[str, Any]:
    flow = {
        "bytes_to_client": sent,
        "rtp_packets": packets,
        "rtp_missing": missing,
        "backlog_age_ms": 4,
    }
    return {"id": name, "flows": {"video": flow}, "rtt_ms": {"client": 20, "host": None}}


def history(page: Page, *readings: tuple[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    call = "a.reduce((h, [at, read]) => { h.take(read, at); return h; }, new m.History()).of('s')"
    return list(imported(page, "rates.js", call, *readings))


def test_a_rate_is_the_growth_of_a_counter_over_the_time_between(page: Page) -> None:
    samples = history(page, (0, [reading(1_000)]), (2_000, [reading(251_000)]))
    assert [sample["bitrate"] for sample in samples] == [None, 1_000_000]
    assert samples[1]["rttClient"] == 20
    assert samples[1]["rttHost"] is None
    assert samples[1]["backlog"] == 4


def test_a_counter_that_goes_backwards_has_no_rate_rather_than_a_negative_one(page: Page) -> None:
    samples = history(page, (0, [reading(9_000)]), (2_000, [reading(10)]), (4_000, [reading(260)]))
    assert [sample["bitrate"] for sample in samples] == [None, None, 1_000]


def test_readings_far_apart_say_nothing_of_what_was_between(page: Page) -> None:
    samples = history(page, (0, [reading(0)]), (60_000, [reading(1_000_000)]))
    assert [sample["bitrate"] for sample in samples] == [None, None]
    assert imported(page, "rates.js", "m.runs(a[0], 'rttClient')", samples) == [
        [[0, 20]],
        [[60_000, 20]],
    ]


def test_loss_is_the_share_of_packets_that_did_not_come(page: Page) -> None:
    samples = history(
        page,
        (0, [reading(0, packets=100, missing=5)]),
        (2_000, [reading(0, packets=190, missing=15)]),
        (4_000, [reading(0, packets=190, missing=15)]),
    )
    assert [sample["loss"] for sample in samples] == [None, 10, None]


def test_old_samples_and_ended_sessions_are_forgotten(page: Page) -> None:
    steps = [(at, [reading(at)]) for at in range(0, 400_001, 5_000)]
    samples = history(page, *steps)
    assert samples[0]["at"] == 210_000
    assert history(page, (0, [reading(0)]), (2_000, [])) == []


def test_a_chart_reaches_as_far_back_as_it_has_samples_within_bounds(page: Page) -> None:
    call = "a.map((since) => m.windowOf(since === null ? [] : [{ at: since }], 200_000))"
    assert imported(page, "rates.js", call, None, 199_000, 140_000, 10_000) == [
        *(30_000, 30_000, 60_000, 180_000)
    ]


def test_sorting_keeps_what_is_not_known_last_either_way(page: Page) -> None:
    call = "[false, true].map((down) => m.sorted(a, (one) => one, down))"
    assert imported(page, "order.js", call, 3, None, 1, 2) == [[1, 2, 3, None], [3, 2, 1, None]]
    assert imported(page, "order.js", "m.sorted(a, (one) => one, false)", "b10", "B9", "a") == [
        "a",
        "B9",
        "b10",
    ]


def test_a_filter_wants_every_word_in_any_case(page: Page) -> None:
    call = "a[0].map((wanted) => m.matching(a[1], wanted, (text) => [text, null]).length)"
    wanted, texts = ["", "WOLF  frank", "wolf tokyo", "  "], ["x/wolf Frankfurt", "y/wolf", "tokyo"]
    assert imported(page, "order.js", call, wanted, texts) == [3, 1, 0, 3]


@pytest.mark.parametrize(
    ("latitude", "longitude", "x", "y"),
    [(84, -180, 0, 0), (-57, 180, 3600, 1410), (0, 0, 1800, 840), (51.5, 0, 1800, 325)],
)
def test_places_are_projected_flat(
    page: Page, latitude: float, longitude: float, x: float, y: float
) -> None:
    assert imported(page, "geography.js", "m.project(a[0], a[1], 3600)", latitude, longitude) == {
        "x": x,
        "y": pytest.approx(y),
    }


def test_circles_at_one_place_end_beside_each_other_within_the_map(page: Page) -> None:
    circles = [{"x": 10, "y": 10, "r": 12} for _ in range(6)]
    spread = imported(page, "geography.js", "m.spread(a, 800, 300)", *circles)
    for number, one in enumerate(spread):
        assert 12 <= one["x"] <= 788
        assert 12 <= one["y"] <= 288
        assert one["home"] == {"x": 10, "y": 10}
        for other in spread[:number]:
            apart = ((one["x"] - other["x"]) ** 2 + (one["y"] - other["y"]) ** 2) ** 0.5
            assert apart > 23


def test_labels_cover_neither_each_other_nor_circles_and_are_left_out_where_there_is_no_room(
    page: Page,
) -> None:
    circles = [{"x": 100 + 30 * number, "y": 50, "r": 12} for number in range(8)]
    labels = imported(page, "geography.js", "m.placeLabels(a, () => 80, 400, 100)", *circles)
    assert None in labels
    assert sum(label is not None for label in labels) >= 4


def test_a_region_of_several_states_is_mixed_and_says_the_worst(page: Page) -> None:
    call = "a.map((states) => m.stateOf(states.map((state) => ({ state }))))"
    assert imported(
        page, "geography.js", call, ["healthy"], ["healthy", "unhealthy", "draining"], []
    ) == [
        {"state": "healthy", "worst": "healthy"},
        {"state": "mixed", "worst": "unhealthy"},
        {"state": None, "worst": None},
    ]


def test_distances_go_around_the_globe(page: Page) -> None:
    berlin, tokyo = {"latitude": 52.5, "longitude": 13.4}, {"latitude": 35.7, "longitude": 139.7}
    assert imported(
        page, "geography.js", "m.kilometres(a[0], a[1])", berlin, tokyo
    ) == pytest.approx(8_918, rel=0.01)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("bitsPerSecond(18_400_000)", "18.4 Mbit/s"),
        ("bitsPerSecond(null)", "\N{EN DASH}"),
        ("bytes(25769803776)", "24.0 GiB"),
        ("milliseconds(4.25)", "4.3 ms"),
        ("milliseconds(231.4)", "231 ms"),
        ("mode('1920x1080x60')", "1920\N{MULTIPLICATION SIGN}1080 at 60"),
        ("mode('odd')", "odd"),
        ("span(59_999)", "59 s"),
        ("span(8_000_000)", "2 h 13 min"),
        ("span(-5)", "0 s"),
        ("stopwatch(125_000)", "2:05"),
        ("many(1, 'session')", "1 session"),
        ("coordinates({ latitude: -23.5, longitude: -46.6 })", "23.5° S, 46.6° W"),
        ("placeWords({ located_by: 'nothing' }, null)", "Place not known"),
        (
            "placeWords({ located_by: 'pinned_network', region: 'home' }, null)",
            "In home, by its network",
        ),
        (
            "placeWords({ located_by: 'database' }, { name: 'fra', km: 421.6 })",
            "About 422 km from fra",
        ),
        ("troubleWord('tunnel_down')", "its agent is not connected"),
        ("troubleWord('https')", "https does not answer"),
        ("stateWord('half_asleep')", "half asleep"),
    ],
)
def test_figures_are_told_in_words(page: Page, call: str, words: str) -> None:
    assert imported(page, "words.js", f"m.{call}") == words


def test_every_known_kind_of_event_has_a_sentence_and_others_have_a_plain_one(page: Page) -> None:
    known = imported(
        page,
        "event_words.js",
        "m.eventWords(a[0])",
        {
            "id": 1,
            "kind": "launch_failed",
            "subject": "a/b",
            "reason": "host_timeout",
            "extra": "x",
        },
    )
    assert known == {
        "tone": "bad",
        "sentence": "A launch failed on a/b: host timeout",
        "details": "extra x",
    }
    other = imported(
        page,
        "event_words.js",
        "m.eventWords(a[0])",
        {"id": 1, "kind": "constructor", "subject": "a/b", "colour": "blue"},
    )
    assert other == {"tone": "plain", "sentence": "Constructor: a/b", "details": "colour blue"}


def test_events_are_read_from_a_stream_however_it_is_cut(page: Page) -> None:
    stream = (
        ": hello\n\nid: 7\r\nevent: wake\r\ndata: {\ndata: }\r\n\r\ndata:x\n\n"
        "event: none\n\ndata: cut"
    )
    call = (
        "(() => { const r = new m.EventReader(); return a.flatMap((piece) => r.take(piece)); })()"
    )
    whole = imported(page, "sse.js", call, stream)
    assert whole == [
        {"id": "7", "kind": "wake", "data": "{\n}"},
        {"id": None, "kind": "message", "data": "x"},
    ]
    assert imported(page, "sse.js", call, *stream) == whole


def test_retries_come_later_each_time_and_when_the_edge_says(page: Page) -> None:
    call = "[1, 2, 3, 4, 9].map((n) => m.retryMs(n, { retryAfterS: null }))"
    assert imported(page, "poll.js", call) == [2_000, 4_000, 8_000, 15_000, 15_000]
    assert imported(page, "poll.js", "m.retryMs(1, { retryAfterS: 30 })") == 30_000
