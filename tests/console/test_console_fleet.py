from __future__ import annotations

import re
import time
from collections.abc import Callable

from playwright.sync_api import Page, Route, expect
from visit import enter, pass_time, row, row_names

from tests.console.fake_edge import FakeEdge
from tests.console.fake_fleet import fleet
from tests.e2e.browser import wait_ms


def holding(held: list[Route], most: int | None = None) -> Callable[[Route], None]:
    """Keep requests waiting, or the first few, where they can be let go on later."""

    def hold(route: Route) -> None:
        if most is not None and len(held) >= most:
            route.continue_()
        else:
            held.append(route)

    return hold


def first_of(held: list[Route], page: Page) -> Route:
    """Hear the browser out until it tells of a request that is held."""
    deadline = time.monotonic() + wait_ms / 1000
    while not held:
        assert time.monotonic() < deadline, "nothing was asked for"
        page.evaluate("null")
    return held[0]


def test_the_fleet_is_on_a_map_and_in_a_table(page: Page, edge: FakeEdge) -> None:
    enter(page, edge)
    virginia = page.get_by_role("button", name=re.compile("Region virginia"))
    expect(virginia).to_have_accessible_name(
        "Region virginia: 8 of 8 sessions, 1 backend, degraded"
    )
    frankfurt = page.get_by_role("button", name=re.compile("Region frankfurt, this edge's own"))
    expect(frankfurt).to_have_accessible_name(re.compile("1 draining, 1 healthy"))
    expect(page.get_by_role("button", name=re.compile("Region garage"))).to_be_visible()
    expect(row(page, "us-east-gpu-pool/wolf")).to_contain_text("Degraded")
    expect(row(page, "us-east-gpu-pool/wolf")).to_contain_text("no telemetry lately")
    assert row_names(page)[0] == "sp-1/wolf"


def test_a_region_of_the_map_is_pressed_to_see_its_backends_only(
    page: Page, edge: FakeEdge
) -> None:
    enter(page, edge)
    tokyo = page.get_by_role("button", name=re.compile("Region tokyo"))
    tokyo.focus()
    page.keyboard.press("Enter")
    expect(tokyo).to_have_attribute("aria-pressed", "true")
    assert row_names(page) == ["tokyo-1/wolf"]
    page.get_by_role("button", name="All regions").click()
    assert len(row_names(page)) == 7
    expect(page.get_by_label("Filter backends")).to_be_focused()


def test_backends_are_sorted_by_any_column(page: Page, edge: FakeEdge) -> None:
    enter(page, edge)
    page.get_by_role("button", name="GPU memory").click()
    header = page.get_by_role("columnheader", name="GPU memory")
    expect(header).to_have_attribute("aria-sort", "ascending")
    rising = row_names(page)
    assert rising[0] == "tokyo-1/wolf"
    assert rising[-1] == "sp-1/wolf"
    page.get_by_role("button", name="GPU memory").click()
    expect(header).to_have_attribute("aria-sort", "descending")
    falling = row_names(page)
    assert falling[0] == "us-east-gpu-pool/wolf"
    assert falling[-1] == "sp-1/wolf"


def test_backends_are_filtered(page: Page, edge: FakeEdge) -> None:
    enter(page, edge)
    page.get_by_label("Filter backends").fill("sunshine amster")
    assert row_names(page) == ["rack-07/wolf"]
    page.get_by_label("Filter backends").fill("nothing like it")
    expect(page.get_by_text("No backend matches.")).to_be_visible()


def test_a_backend_opens_to_show_all_that_is_known(page: Page, edge: FakeEdge) -> None:
    enter(page, edge)
    opener = page.get_by_role("button", name="Details of rack-07/wolf")
    opener.focus()
    page.keyboard.press("Enter")
    expect(opener).to_have_attribute("aria-expanded", "true")
    detail = page.locator(f"#{opener.get_attribute('aria-controls')}")
    expect(detail).to_contain_text("NVIDIA GeForce RTX 4090")
    expect(detail).to_contain_text("17.1 GiB of 24.0 GiB")
    expect(detail).to_contain_text("84.0 Mbit/s")
    expect(detail).to_contain_text("Steam Big Picture · Living room TV")
    expect(opener).to_be_focused()


def test_a_backend_is_drained_with_the_keyboard_alone(page: Page, edge: FakeEdge) -> None:
    enter(page, edge)
    drain = page.get_by_role("button", name="Drain rack-07/wolf", exact=True)
    drain.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Drain rack-07/wolf?")
    expect(dialog).to_contain_text("3 people play there now")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(drain).to_be_focused()
    assert edge.asked == []

    page.keyboard.press("Enter")
    expect(dialog.get_by_role("button", name="Drain")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(dialog.get_by_label("End the sessions that are left")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("rack-07/wolf is draining.")).to_be_visible()
    expect(row(page, "rack-07/wolf")).to_contain_text("Draining")
    assert edge.asked == [("PUT", "/drains/rack-07/wolf", {"deadline_s": 3600})]
    end = page.get_by_role("button", name="End the drain of rack-07/wolf")
    expect(end).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(row(page, "rack-07/wolf")).to_contain_text("Healthy")
    assert edge.asked[1:] == [("DELETE", "/drains/rack-07/wolf", None)]


def test_all_of_an_agent_can_be_drained_at_once(page: Page, edge: FakeEdge) -> None:
    (other,) = fleet(1)
    edge.backends.append(other | {"id": "living-room/sunshine"})
    enter(page, edge)
    page.get_by_role("button", name="Drain living-room/wolf", exact=True).click()
    page.get_by_label("Drain all 2 backends of agent living-room").check()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    expect(row(page, "living-room/sunshine")).to_contain_text("Draining")
    assert edge.asked == [("PUT", "/drains/living-room", {})]
    page.get_by_role("button", name="End the drain of living-room/wolf").click()
    expect(page.get_by_role("dialog")).to_contain_text("All of agent living-room drains")


def test_a_refusal_is_shown_in_the_dialog(page: Page, edge: FakeEdge) -> None:
    enter(page, edge)
    edge.refused["/drains/rack-07/wolf"] = (404, "no_such_backend", "No backend is called that.")
    page.get_by_role("button", name="Drain rack-07/wolf", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Drain").click()
    expect(dialog.get_by_role("alert")).to_contain_text("No backend is called that.")


def test_who_may_only_read_is_not_offered_to_drain(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, "reader")
    expect(row(page, "rack-07/wolf")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^Drain|^End the drain"))).to_have_count(0)


def test_an_edge_without_backends_says_how_to_get_one(page: Page, edge: FakeEdge) -> None:
    edge.backends = []
    enter(page, edge)
    expect(page.get_by_role("heading", name="No backends yet")).to_be_visible()
    edge.backends = fleet(2)
    pass_time(page, edge, 5)
    expect(row(page, "rack-07/wolf")).to_be_visible()


def test_lists_are_read_page_by_page(page: Page, edge: FakeEdge) -> None:
    edge.backends, edge.page = fleet(40), 15
    enter(page, edge)
    expect(page.get_by_role("rowheader")).to_have_count(40)


def test_beyond_a_thousand_the_page_says_that_there_are_more(page: Page, edge: FakeEdge) -> None:
    (one,) = fleet(1)
    edge.backends, edge.page = [one | {"id": f"a{n}/wolf"} for n in range(1_002)], 500
    enter(page, edge)
    expect(page.get_by_text("Only the first 1,000 are shown")).to_be_visible()


def test_names_are_shown_as_they_are_and_never_become_part_of_the_page(
    page: Page, edge: FakeEdge
) -> None:
    evil = "<img src=x onerror=document.title='owned'>"
    edge.backends[0] |= {"id": f"{evil}/wolf", "region": evil, "apps": [evil]}
    enter(page, edge)
    expect(page.get_by_role("rowheader", name=evil)).to_be_visible()
    page.get_by_role("button", name=f"Details of {evil}/wolf").click()
    assert page.locator("main img").count() == 0
    expect(page).to_have_title("Fleet · moonhost")


def test_an_edge_that_cannot_be_reached_leaves_the_last_figures_and_is_asked_again(
    page: Page, edge: FakeEdge
) -> None:
    enter(page, edge)
    expect(row(page, "rack-07/wolf")).to_be_visible()

    def unreachable(route: Route) -> None:
        route.abort("connectionrefused")

    page.route("**/api/**", unreachable)
    pass_time(page, edge, 5)
    banner = page.locator(".banner.bad")
    expect(banner).to_contain_text("The edge does not answer. What you see may be old.")
    expect(banner).to_contain_text(re.compile(r"Trying again in \d+ s"))
    expect(row(page, "rack-07/wolf")).to_be_visible()
    expect(page.locator("main.stale")).to_be_visible()
    page.unroute("**/api/**")
    banner.get_by_role("button", name="Try now").click()
    expect(banner).to_be_hidden()
    expect(page.locator("main.stale")).to_have_count(0)
    expect(page.get_by_role("heading", level=1, name="Fleet")).to_be_focused()


def test_an_edge_that_takes_too_long_is_given_up(page: Page, edge: FakeEdge) -> None:
    enter(page, edge)
    expect(row(page, "rack-07/wolf")).to_be_visible()
    held: list[Route] = []
    page.route("**/api/v1/backends*", holding(held))
    page.clock.run_for(5_500)
    first_of(held, page)
    page.clock.run_for(10_500)
    expect(page.locator(".banner.bad")).to_contain_text("longer than 10 s")


def test_until_the_first_answer_there_is_something_to_look_at(page: Page, edge: FakeEdge) -> None:
    held: list[Route] = []
    page.route("**/api/v1/backends*", holding(held))
    enter(page, edge)
    expect(page.locator(".skeleton")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Loading")).to_have_count(1)
    first_of(held, page).continue_()
    page.unroute("**/api/v1/backends*")
    expect(row(page, "rack-07/wolf")).to_be_visible()


def test_what_a_token_may_not_see_is_said_in_a_sentence(page: Page, edge: FakeEdge) -> None:
    edge.refused["/backends"] = (403, "wrong_scope", "A token with the scope read is needed.")
    enter(page, edge)
    expect(page.get_by_role("heading", name="Your token does not allow this")).to_be_visible()
    expect(page.get_by_text("A token with the scope read is needed.")).to_be_visible()


SET_HIDDEN = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_nothing_is_asked_while_nobody_looks(page: Page, edge: FakeEdge) -> None:
    enter(page, edge)
    expect(row(page, "rack-07/wolf")).to_be_visible()
    page.evaluate(SET_HIDDEN, True)
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(60_000)
    assert asked == []
    with page.expect_request("**/api/v1/backends*"):
        page.evaluate(SET_HIDDEN, False)


def test_an_answer_that_comes_while_nobody_looks_is_the_last(page: Page, edge: FakeEdge) -> None:
    held: list[Route] = []
    page.route("**/api/v1/backends*", holding(held))
    enter(page, edge)
    expect(page.locator(".skeleton")).to_be_visible()
    page.evaluate(SET_HIDDEN, True)
    first_of(held, page).continue_()
    page.unroute("**/api/v1/backends*")
    expect(row(page, "rack-07/wolf")).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(60_000)
    assert asked == []


WATCH_FOR_GHOSTS = """() => new MutationObserver(() => {
  window.haunted ||= document.querySelector("main").textContent.includes("ghost");
}).observe(document.querySelector("main"), { subtree: true, childList: true })"""


def test_an_answer_from_before_a_change_is_not_shown_after_it(page: Page, edge: FakeEdge) -> None:
    enter(page, edge)
    expect(row(page, "rack-07/wolf")).to_contain_text("Healthy")
    page.evaluate(WATCH_FOR_GHOSTS)
    held: list[Route] = []
    page.route("**/api/v1/backends*", holding(held, most=1))
    pass_time(page, edge, 5)
    waiting = first_of(held, page)
    (ghost,) = fleet(1)
    edge.backends.append(ghost | {"id": "ghost/wolf"})
    old = waiting.fetch()
    edge.backends.pop()
    page.get_by_role("button", name="Drain rack-07/wolf", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    expect(page.get_by_text("rack-07/wolf is draining.")).to_be_visible()
    waiting.fulfill(response=old)
    expect(row(page, "rack-07/wolf")).to_contain_text("Draining")
    expect(page.get_by_role("button", name="End the drain of rack-07/wolf")).to_be_visible()
    assert page.evaluate("window.haunted") is False


def test_what_was_asked_for_is_told_of_even_if_its_dialog_was_closed_meanwhile(
    page: Page, edge: FakeEdge
) -> None:
    enter(page, edge)
    held: list[Route] = []
    page.route("**/api/v1/drains/**", holding(held))
    page.get_by_role("button", name="Drain rack-07/wolf", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Drain").click()
    expect(dialog.get_by_role("button", name="Drain")).to_be_disabled()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    first_of(held, page).continue_()
    expect(page.get_by_text("rack-07/wolf is draining.")).to_be_visible()
    expect(row(page, "rack-07/wolf")).to_contain_text("Draining")


def test_a_page_comes_back_when_it_is_no_longer_refused(page: Page, edge: FakeEdge) -> None:
    enter(page, edge)
    expect(row(page, "rack-07/wolf")).to_be_visible()
    edge.refused["/drains"] = (403, "wrong_scope", "A token with the scope read is needed.")
    pass_time(page, edge, 5)
    expect(page.get_by_role("heading", name="Your token does not allow this")).to_be_visible()
    edge.refused.clear()
    page.evaluate(SET_HIDDEN, True)
    page.evaluate(SET_HIDDEN, False)
    expect(row(page, "rack-07/wolf")).to_be_visible()
