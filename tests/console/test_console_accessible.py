"""Everybody can use every page: measured in what the browser has computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect
from visit import PAGES, enter, open_page, pass_time

from tests.console.fake_edge import FakeEdge

AUDIT: Final = Path(__file__).with_name("audit.js").read_text()
PHONE: Final[dict[str, Any]] = {
    "viewport": {"width": 360, "height": 740},
    "has_touch": True,
    "is_mobile": True,
}


def wrong(page: Page, *checks: str) -> list[str]:
    return list(page.evaluate(AUDIT, list(checks)))


def opened(page: Page, edge: FakeEdge, title: str) -> None:
    """Open a page, with everything on it that can be opened."""
    open_page(page, title)
    if title == "Fleet":
        page.get_by_role("button", name="Details of rack-07/wolf").click()
    if title == "Clients":
        page.get_by_role("button", name="Rename iPad").click()
    if title == "Sessions":
        page.get_by_role("button", name="End Desktop of Anna's phone").wait_for()
        pass_time(page, edge, 2)
        expect(page.locator(".figure-high:visible").first).to_be_visible()
    if title == "Events":
        expect(page.get_by_text("Live", exact=True)).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_in_every_page_and_theme(page: Page, edge: FakeEdge, theme: Any) -> None:
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    edge.accepting = False
    page.goto("/console/")
    page.get_by_role("button", name="Log in").click()
    assert wrong(page, "contrast") == []
    enter(page, edge)
    for title in PAGES:
        opened(page, edge, title)
        assert wrong(page, "contrast") == [], title


def test_every_control_of_every_page_has_a_name_and_its_place(page: Page, edge: FakeEdge) -> None:
    page.goto("/console/")
    expect(page.get_by_label("API token")).to_be_visible()
    assert wrong(page, "names", "structure") == []
    enter(page, edge)
    for title in PAGES:
        opened(page, edge, title)
        assert wrong(page, "names", "structure") == [], title


@pytest.mark.tab(**PHONE)
def test_a_phone_shows_every_page_without_scrolling_aside_and_with_room_for_fingers(
    page: Page, edge: FakeEdge
) -> None:
    page.goto("/console/")
    expect(page.get_by_label("API token")).to_be_visible()
    assert wrong(page, "width", "touch") == []
    enter(page, edge)
    for title in PAGES:
        opened(page, edge, title)
        assert wrong(page, "width", "touch") == [], title


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_dialogs_are_as_good_as_pages(page: Page, edge: FakeEdge, theme: Any) -> None:
    page.emulate_media(color_scheme=theme)
    enter(page, edge)
    page.get_by_role("button", name="Drain rack-07/wolf", exact=True).click()
    assert wrong(page, "contrast", "names") == []
    page.keyboard.press("Escape")
    open_page(page, "Tokens")
    page.get_by_role("button", name="New token").click()
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    assert wrong(page, "contrast", "names") == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Revoke anna").click()
    assert wrong(page, "contrast", "names") == []


@pytest.mark.tab(viewport={"width": 1600, "height": 900})
def test_one_key_leads_past_the_navigation_and_the_focus_can_be_seen(
    page: Page, edge: FakeEdge
) -> None:
    enter(page, edge, title="Sessions")
    expect(page.get_by_role("button", name="End Desktop of Anna's phone")).to_be_visible()
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Filter sessions")).to_be_focused()
    open_page(page, "Fleet")
    expect(page.get_by_role("button", name="Details of rack-07/wolf")).to_be_visible()
    assert wrong(page, "focus") == []


def test_a_page_is_announced_by_its_heading_and_its_title(page: Page, edge: FakeEdge) -> None:
    enter(page, edge)
    open_page(page, "Clients")
    expect(page.get_by_role("heading", level=1, name="Clients")).to_be_focused()
    expect(page).to_have_title("Clients · moonhost")
    page.go_back()
    expect(page.get_by_role("heading", level=1, name="Fleet")).to_be_visible()


def test_nothing_moves_for_those_who_want_it_still(page: Page, edge: FakeEdge) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.route("**/api/v1/backends*", lambda route: None)
    enter(page, edge)
    row = page.locator(".skeleton-row").first
    expect(row).to_be_visible()
    assert row.evaluate("(one) => getComputedStyle(one).animationName") == "none"
