from __future__ import annotations

import re

from playwright.sync_api import Page, expect
from visit import enter, pass_time

from tests.console.fake_edge import FakeEdge


def newest(page: Page) -> str:
    return page.locator(".event p").first.inner_text()


def test_events_are_told_in_sentences_newest_first(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Events")
    expect(page.locator(".event")).to_have_count(9)
    assert newest(page) == "A device wants to be paired: Pixel 9"
    expect(page.locator(".events")).to_contain_text(
        "sp-1/wolf is unhealthy: its agent is not connected"
    )
    expect(page.locator(".events")).to_contain_text("Something new: office/wolf")


def test_what_happens_appears_at_once_whatever_its_kind(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Events")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    edge.note("drain_began", "rack-07/wolf")
    expect(page.get_by_text("rack-07/wolf takes no new sessions: a drain began")).to_be_visible()
    edge.note("never_heard_of", "rack-07/wolf")
    expect(page.get_by_text("Never heard of: rack-07/wolf")).to_be_visible()
    expect(page.locator(".event")).to_have_count(11)


def test_a_pause_holds_events_back_and_counts_them(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Events")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    edge.note("drain_ended", "rack-07/wolf")
    expect(page.get_by_text("Paused, 1 new event")).to_be_visible()
    expect(page.locator(".event")).to_have_count(9)
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(".event")).to_have_count(10)


def test_a_stream_that_breaks_is_opened_again_and_nothing_is_missed(
    page: Page, edge: FakeEdge
) -> None:
    edge.streams_break = 1
    enter(page, edge, title="Events")
    expect(
        page.get_by_text(re.compile(r"Connection lost\. Connecting again in \d s"))
    ).to_be_visible()
    edge.note("drain_began", "rack-07/wolf")
    with page.expect_request("**/events/stream") as asked:
        pass_time(page, edge, 2)
    assert asked.value.headers["last-event-id"] == "9"
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.locator(".event")).to_have_count(10)


def test_events_are_filtered(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Events")
    page.get_by_label("Filter events").fill("launch")
    expect(page.locator(".event")).to_have_count(2)
    edge.note("launch_failed", "rack-07/wolf", reason="host_refused")
    expect(page.locator(".event")).to_have_count(3)
    page.get_by_label("Filter events").fill("launch nowhere")
    expect(page.get_by_text("No event matches.")).to_be_visible()


def test_that_nothing_has_happened_is_said(page: Page, edge: FakeEdge) -> None:
    edge.events = []
    enter(page, edge, title="Events")
    expect(page.get_by_role("heading", name="Nothing has happened yet")).to_be_visible()
    edge.note("drain_began", "rack-07/wolf")
    expect(page.locator(".event")).to_have_count(1)


def test_a_long_pause_holds_back_no_more_than_the_page_keeps(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Events")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    for number in range(510):
        edge.note("drain_began", f"a{number}/wolf")
    expect(page.get_by_text("Paused, 500 new events or more")).to_be_visible()
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(".event")).to_have_count(500)
    assert newest(page) == "a509/wolf takes no new sessions: a drain began"
