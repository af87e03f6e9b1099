from __future__ import annotations

import re

from playwright.sync_api import Page, expect
from visit import PAGES, enter, log_in, pass_time

from tests.console.fake_edge import FakeEdge


def test_a_wrong_token_is_told_and_a_right_one_leads_to_the_fleet(
    page: Page, edge: FakeEdge
) -> None:
    page.goto("/")
    token = page.get_by_label("API token")
    expect(token).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Paste a token first")
    token.fill("nobody's")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not known here")
    expect(token).to_be_focused()
    token.fill("operator")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Fleet")).to_be_visible()
    expect(page).to_have_title("Fleet · moonhost")
    expect(page.get_by_text("edge-fra-1")).to_be_visible()


def test_the_page_keeps_no_token(page: Page, edge: FakeEdge) -> None:
    log_in(page, "operator")
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert "operator" not in kept
    assert page.locator("input[type=password]").count() == 0


def test_whoever_tries_too_often_is_told_how_long_to_wait(page: Page, edge: FakeEdge) -> None:
    edge.login_wait_s = 2
    page.clock.install()
    page.goto("/console/")
    page.get_by_label("API token").fill("admin")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Too many attempts. Wait 2 s")
    button = page.get_by_role("button", name=re.compile("Log in"))
    expect(button).to_be_disabled()
    pass_time(page, edge, 2)
    expect(button).to_be_enabled()
    button.click()
    expect(page.get_by_role("heading", level=1, name="Fleet")).to_be_visible()


def test_a_login_that_ends_midway_leads_back_to_where_one_was(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Sessions")
    expect(page.get_by_role("button", name="End Desktop of Anna's phone")).to_be_visible()
    edge.logins.clear()
    pass_time(page, edge, 2)
    expect(page.get_by_text("Your login has ended")).to_be_visible()
    page.get_by_label("API token").fill("admin")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Sessions")).to_be_visible()


def test_logging_out_ends_the_login(page: Page, edge: FakeEdge) -> None:
    log_in(page)
    page.get_by_label("Logged in as admin").click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("You are logged out.")).to_be_visible()
    assert edge.logins == set()
    page.reload()
    expect(page.get_by_label("API token")).to_be_visible()


def test_pages_are_offered_as_the_token_allows(page: Page, edge: FakeEdge) -> None:
    offered = {}
    for token, first in (("pairer", "Pairings"), ("reader", "Fleet"), ("admin", "Fleet")):
        enter(page, edge, token, title=first)
        links = page.get_by_role("navigation", name="Pages").get_by_role("link")
        offered[token] = [text.split("\n")[0] for text in links.all_inner_texts()]
    assert offered == {"pairer": ["Pairings"], "reader": list(PAGES[:-1]), "admin": list(PAGES)}


def test_who_may_only_pair_lands_at_the_pairings_and_asks_nothing_else(
    page: Page, edge: FakeEdge
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition("/api/v1")[2]))
    log_in(page, "pairer", at="#/tokens")
    expect(page.get_by_role("heading", level=1, name="Pairings")).to_be_visible()
    expect(page.get_by_role("button", name="Pair Pixel 9")).to_be_visible()
    assert {path.partition("?")[0] for path in asked} - {""} == {"/whoami", "/login", "/pairings"}


def test_the_theme_is_the_systems_until_another_is_chosen_and_that_is_kept(
    page: Page, edge: FakeEdge
) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    enter(page, edge)
    light = ground()
    page.emulate_media(color_scheme="dark")
    dark = ground()
    assert light != dark
    page.get_by_role("button", name="Theme: as the system has it").click()
    assert ground() == light
    page.reload()
    expect(page.get_by_role("heading", level=1, name="Fleet")).to_be_visible()
    assert ground() == light
    page.get_by_role("button", name="Theme: light").click()
    assert ground() == dark
    page.get_by_role("button", name="Theme: dark").click()
    page.emulate_media(color_scheme="light")
    assert ground() == light


def test_an_edge_that_drains_or_has_lost_its_store_says_so(page: Page, edge: FakeEdge) -> None:
    edge.accepting = False
    enter(page, edge)
    expect(page.get_by_text("This edge is draining")).to_be_visible()
    edge.accepting, edge.store_up = True, False
    pass_time(page, edge, 5)
    expect(page.get_by_text("The store does not answer.")).to_be_visible()
