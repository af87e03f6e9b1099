from __future__ import annotations

from playwright.sync_api import Page, expect
from visit import enter, row

from tests.console.fake_edge import FakeEdge


def test_a_new_token_is_shown_once(page: Page, edge: FakeEdge) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    enter(page, edge, title="Tokens")
    page.get_by_role("button", name="New token").click()
    dialog = page.get_by_role("dialog", name="New token")
    expect(dialog.get_by_label("Name")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("A name is 1 to 64 letters")
    dialog.get_by_label("Name").fill("carl")
    dialog.get_by_label("pair").check()
    dialog.get_by_role("button", name="Create").click()

    shown = page.get_by_role("dialog", name="Token of carl")
    expect(shown.get_by_role("button", name="Copy")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    token = shown.get_by_label("Token").input_value()
    assert token.startswith("mh_")
    shown.get_by_role("button", name="Copy").click()
    expect(shown.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == token
    shown.get_by_role("button", name="I have kept it").click()
    expect(page.locator("dialog")).to_have_count(0)
    expect(row(page, "carl")).to_contain_text("pair")
    assert token not in page.content()
    assert edge.asked == [
        ("POST", "/tokens", {"kind": "api", "name": "carl", "scopes": ["read", "pair"]})
    ]


def test_an_agents_token_has_no_scopes(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Tokens")
    page.get_by_role("button", name="New token").click()
    dialog = page.get_by_role("dialog", name="New token")
    dialog.get_by_label("For").select_option("agent")
    expect(dialog.get_by_role("group", name="It may")).to_have_count(0)
    dialog.get_by_label("Name").fill("attic")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Token of attic")).to_be_visible()
    assert edge.asked == [("POST", "/tokens", {"kind": "agent", "name": "attic"})]


def test_a_token_is_revoked_after_a_question_that_says_if_it_is_ones_own(
    page: Page, edge: FakeEdge
) -> None:
    enter(page, edge, title="Tokens")
    page.get_by_role("button", name="Revoke admin").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("this logs you out")
    dialog.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Revoke living-room").click()
    expect(dialog).to_contain_text("The agent's tunnel ends at once")
    dialog.get_by_role("button", name="Revoke").click()
    expect(row(page, "living-room")).to_have_count(0)
    assert edge.asked == [("DELETE", "/tokens/agent/living-room", None)]
