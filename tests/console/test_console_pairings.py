from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect
from visit import enter, pass_time

from tests.console.fake_edge import RIGHT_PIN, FakeEdge
from tests.console.fake_fleet import pairing


def card(page: Page, device: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=device))


def test_devices_that_wait_show_where_they_are_and_how_long(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, title="Pairings")
    pixel = card(page, "Pixel 9")
    expect(pixel).to_contain_text("198.51.100.24")
    expect(pixel).to_contain_text("About 422 km from frankfurt")
    expect(card(page, "A device")).to_contain_text("Place not known; counts as frankfurt")
    age = pixel.get_by_text("waits for").inner_text()
    pass_time(page, edge, 1)
    expect(pixel.get_by_text("waits for")).not_to_have_text(age)
    expect(page.get_by_role("link", name="Pairings , 2 waiting devices")).to_be_visible()


def test_a_wrong_pin_is_told_and_the_right_one_at_the_next_attempt(
    page: Page, edge: FakeEdge
) -> None:
    enter(page, edge, "pairer", title="Pairings")
    pixel = card(page, "Pixel 9")
    pin = pixel.get_by_label("PIN")
    pin.fill("12")
    page.keyboard.press("Enter")
    expect(pixel.get_by_role("alert")).to_contain_text("at least 4 digits")
    pin.fill("")
    pin.press_sequentially("00-00")
    expect(pin).to_have_value("0000")
    page.keyboard.press("Enter")
    result = pixel.get_by_role("status")
    expect(result).to_contain_text("That was not the PIN on the device.")
    expect(result.get_by_role("button", name="Done with Pixel 9")).to_be_focused()

    edge.pairings.insert(0, pairing(0) | {"id": "beef0009"})
    pass_time(page, edge, 3)
    expect(pixel.get_by_label("PIN")).to_be_visible()
    expect(pixel).to_have_count(1)
    pixel.get_by_label("PIN").fill(RIGHT_PIN)
    pixel.get_by_label("Whose device?").fill("anna")
    pixel.get_by_role("button", name="Pair Pixel 9").click()
    expect(result).to_contain_text("Paired. The device can play now.")
    assert edge.asked == [
        ("POST", "/pairings/beef0000", {"pin": "0000", "user": None}),
        ("POST", "/pairings/beef0009", {"pin": RIGHT_PIN, "user": "anna"}),
    ]
    result.get_by_role("button", name="Done with Pixel 9").click()
    expect(pixel).to_have_count(0)
    expect(card(page, "A device").get_by_label("PIN")).to_be_focused()


def test_what_was_typed_survives_that_other_devices_come_and_go(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, "pairer", title="Pairings")
    pin = card(page, "A device").get_by_label("PIN")
    pin.fill("471")
    del edge.pairings[0]
    pass_time(page, edge, 3)
    expect(card(page, "Pixel 9")).to_have_count(0)
    edge.pairings.insert(0, pairing(0) | {"id": "beef0008"})
    pass_time(page, edge, 3)
    expect(card(page, "Pixel 9")).to_have_count(1)
    expect(pin).to_have_value("471")
    expect(pin).to_be_focused()


def test_a_device_that_gives_up_while_its_pin_is_typed_says_so(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, "pairer", title="Pairings")
    card(page, "Pixel 9").get_by_label("PIN").focus()
    del edge.pairings[0]
    pass_time(page, edge, 3)
    expect(card(page, "Pixel 9").get_by_role("status")).to_contain_text(
        "The device no longer waits."
    )


def test_an_edge_that_will_not_says_why_and_the_pin_can_be_told_again(
    page: Page, edge: FakeEdge
) -> None:
    enter(page, edge, "pairer", title="Pairings")
    edge.refused["/pairings/beef0000"] = (404, "no_such_user", "[users] has no carl.")
    pixel = card(page, "Pixel 9")
    pixel.get_by_label("PIN").fill(RIGHT_PIN)
    pixel.get_by_label("Whose device?").fill("carl")
    page.keyboard.press("Enter")
    expect(pixel.get_by_role("alert")).to_contain_text("[users] has no carl.")
    edge.refused.clear()
    pixel.get_by_label("Whose device?").fill("")
    page.keyboard.press("Enter")
    expect(pixel.get_by_role("status")).to_contain_text("Paired.")


def test_a_device_is_refused_after_a_question(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, "pairer", title="Pairings")
    page.get_by_role("button", name="Refuse Pixel 9").click()
    page.get_by_role("dialog").get_by_role("button", name="Refuse").click()
    expect(card(page, "Pixel 9")).to_have_count(0)
    assert edge.asked == [("DELETE", "/pairings/beef0000", None)]


def test_who_may_only_read_sees_devices_without_pairing_them(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, "reader", title="Pairings")
    expect(card(page, "Pixel 9")).to_contain_text(
        "Your token may see this device, but not pair it."
    )
    expect(page.get_by_label("PIN")).to_have_count(0)


@pytest.mark.tab(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
def test_on_a_phone_the_pin_brings_up_digits(page: Page, edge: FakeEdge) -> None:
    enter(page, edge, "pairer", title="Pairings")
    pin = card(page, "Pixel 9").get_by_label("PIN")
    expect(pin).to_have_attribute("inputmode", "numeric")
    expect(pin).to_have_attribute("autocomplete", "one-time-code")


def test_that_no_device_waits_is_said(page: Page, edge: FakeEdge) -> None:
    edge.pairings = []
    enter(page, edge, "pairer", title="Pairings")
    expect(page.get_by_role("heading", name="No device waits")).to_be_visible()
    edge.pairings = [pairing(0)]
    pass_time(page, edge, 3)
    expect(card(page, "Pixel 9")).to_be_visible()
    expect(page.get_by_role("heading", name="No device waits")).to_be_hidden()
