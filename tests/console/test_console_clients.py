from __future__ import annotations

from playwright.sync_api import Page, expect
from visit import enter, row

from tests.console.fake_edge import FakeEdge

PHONE = "0a" * 32


def test_a_client_is_renamed_where_it_stands(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, "operator", title="Clients")
    page.get_by_role("button", name="Rename Anna's phone").click()
    name = page.get_by_role("textbox", name="Rename Anna's phone")
    expect(name).to_be_focused()
    name.fill("x")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Rename Anna's phone")).to_be_focused()
    page.keyboard.press("Enter")
    name.fill("  ")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("at least one character")
    name.fill("Anna's new phone")
    page.keyboard.press("Enter")
    expect(row(page, "Anna's new phone")).to_be_visible()
    expect(page.get_by_role("button", name="Rename Anna's new phone")).to_be_focused()
    assert edge.asked == [("PATCH", f"/clients/{PHONE}", {"name": "Anna's new phone"})]


def test_a_client_is_given_to_a_user_and_taken_away(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, "operator", title="Clients")
    change = page.get_by_role("button", name="Change whose device iPad is")
    field = page.get_by_role("combobox", name="Change whose device iPad is")
    for user in ("ben", ""):
        change.click()
        field.fill(user)
        page.keyboard.press("Enter")
        expect(row(page, "iPad")).to_contain_text(user or "nobody's")
    assert [body for _, _, body in edge.asked] == [{"user": "ben"}, {"user": None}]


def test_a_client_is_unpaired_after_a_question_that_says_what_it_plays(
    page: Page, edge: FakeEdge
) -> None:
    enter(page, edge, "operator", title="Clients")
    page.get_by_role("button", name="Unpair Anna's phone").click()
    dialog = page.get_by_role("dialog", name="Unpair Anna's phone?")
    expect(dialog).to_contain_text("It plays Desktop now; that session is ended.")
    dialog.get_by_role("button", name="Unpair").click()
    expect(row(page, "Anna's phone")).to_have_count(0)
    expect(page.get_by_role("heading", level=1, name="Clients")).to_be_focused()
    assert edge.asked == [("DELETE", f"/clients/{PHONE}", None)]


def test_what_a_client_plays_is_told_by_its_title(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Clients")
    expect(row(page, "Living room TV")).to_contain_text("Steam Big Picture")
    expect(row(page, "moonlight-embedded")).not_to_contain_text("6589")


def test_who_may_only_read_is_not_offered_to_change_clients(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, "reader", title="Clients")
    expect(row(page, "Anna's phone")).to_be_visible()
    expect(page.locator("main").get_by_role("button", name="Rename")).to_have_count(0)
    expect(page.get_by_role("button", name="Unpair")).to_have_count(0)


def test_that_nothing_is_paired_is_said(page: Page, edge: FakeEdge) -> None:
    edge.clients = []
    enter(page, edge, title="Clients")
    expect(page.get_by_role("heading", name="No paired clients")).to_be_visible()
