from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect
from visit import enter, pass_time

from tests.console.fake_edge import FakeEdge
from tests.console.fake_fleet import session


def card(page: Page, client: str) -> Locator:
    return page.locator(".session").filter(has_text=client)


def chart(page: Page, client: str, title: str) -> Locator:
    return card(page, client).get_by_role("img", name=re.compile(f"^{title}"))


def test_sessions_tell_who_plays_what_where(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Sessions")
    phone = card(page, "Anna's phone")
    for words in (
        "Desktop",
        "Streaming",
        "1920\N{MULTIPLICATION SIGN}1080 at 60 · H264",
        "living-room/wolf",
        "12 min",
    ):
        expect(phone).to_contain_text(words)
    expect(card(page, "Steam Deck")).to_contain_text("Paused")
    expect(card(page, "iPad")).to_contain_text("us-east-gpu-pool/wolf · virginia")


def test_figures_move_and_bear_their_units(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Sessions")
    bitrate = chart(page, "Living room TV", "Bitrate")
    bitrate.wait_for()
    pass_time(page, edge, 2)
    expect(bitrate).to_have_accessible_name(re.compile(r"^Bitrate: \d+\.\d Mbit/s; between"))
    line = card(page, "Living room TV").locator(".spark-line").first
    first = line.get_attribute("d")
    pass_time(page, edge, 2)
    expect(line).not_to_have_attribute("d", first or "")
    expect(chart(page, "Living room TV", "Round trip")).to_have_accessible_name(
        re.compile(r"client \d+ ms, host \d+(\.\d)? ms")
    )
    expect(chart(page, "Living room TV", "Backlog")).to_have_accessible_name(re.compile(" ms"))


def test_what_is_too_high_is_said_in_words_as_well(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Sessions")
    loss = card(page, "iPad").locator(".figure").filter(has_text="Loss")
    loss.wait_for()
    pass_time(page, edge, 2)
    expect(loss.get_by_text("high")).to_be_visible()
    other = card(page, "Living room TV").locator(".figure").filter(has_text="Loss")
    expect(other.get_by_text("high")).to_be_hidden()


def test_what_is_not_known_is_not_shown_as_nought(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Sessions")
    expect(chart(page, "Steam Deck", "Round trip")).to_have_accessible_name(
        "Round trip: client not known, host not known"
    )


def test_a_client_without_a_name_is_told_by_its_id(page: Page, edge: FakeEdge) -> None:
    edge.sessions = [session(5)]
    enter(page, edge, title="Sessions")
    expect(card(page, "Client 0f0f0f0f0f0f")).to_be_visible()


def test_a_session_is_ended_after_a_question(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, "operator", title="Sessions")
    end = page.get_by_role("button", name="End Desktop of Anna's phone")
    end.click()
    dialog = page.get_by_role("dialog", name="End Desktop?")
    expect(dialog).to_contain_text("Anna's phone is thrown out")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(end).to_be_focused()
    assert edge.asked == []
    end.click()
    dialog.get_by_role("button", name="End the session").click()
    expect(card(page, "Anna's phone")).to_have_count(0)
    expect(page.get_by_text("The session of Anna's phone was ended.")).to_be_visible()
    assert edge.asked == [("DELETE", "/sessions/00c0ffee00", None)]


def test_who_may_only_read_is_not_offered_to_end_anything(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, "reader", title="Sessions")
    expect(card(page, "iPad")).to_contain_text("us-east-gpu-pool/wolf")
    expect(page.get_by_role("button", name=re.compile("^End"))).to_have_count(0)


def test_sessions_are_filtered_and_their_absence_is_said(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Sessions")
    page.get_by_label("Filter sessions").fill("witcher")
    expect(page.locator(".session")).to_have_count(1)
    page.get_by_label("Filter sessions").fill("tetris")
    expect(page.get_by_text("No session matches.")).to_be_visible()
    edge.sessions = []
    pass_time(page, edge, 2)
    expect(page.get_by_role("heading", name="Nobody plays")).to_be_visible()


def test_the_first_seconds_of_a_chart_can_be_read(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Sessions")
    trip = chart(page, "Living room TV", "Round trip")
    dot = trip.locator(".spark-dot").first
    expect(dot).to_have_attribute("d", re.compile(r"^M117.0 \d+"))
    pass_time(page, edge, 6)
    line = trip.locator(".spark-line").first
    expect(line).to_have_attribute("d", re.compile("L"))
    expect(trip).to_have_accessible_name(re.compile(" in the last 30 s$"))
    begin = float((line.get_attribute("d") or "").removeprefix("M").split(" ")[0])
    assert begin < 100
