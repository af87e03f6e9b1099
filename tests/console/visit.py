"""Going about the console as a person does."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page, expect

PAGES = ("Fleet", "Sessions", "Pairings", "Clients", "Events", "Tokens")


def log_in(page: Page, token: str = "admin", at: str = "") -> None:
    """Log in from the login page, which is where one is without."""
    page.goto(f"/console/{at}")
    page.get_by_label("API token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("navigation", name="Pages")).to_be_visible()


def open_page(page: Page, title: str) -> None:
    page.get_by_role("navigation", name="Pages").get_by_role("link", name=title).click()
    expect(page.get_by_role("heading", level=1, name=title)).to_be_visible()
    expect(page.locator(".skeleton")).to_have_count(0)


def row(page: Page, name: str) -> Locator:
    """The row of a table that is headed so."""
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name))


def row_names(page: Page) -> list[str]:
    return [text.split("\n")[0] for text in page.get_by_role("rowheader").all_inner_texts()]


def imported(page: Page, module: str, call: str, *arguments: Any) -> Any:
    """Evaluate an expression over one of the console's modules, as `m`, and arguments, as `a`."""
    return page.evaluate(
        f"async (a) => {{ const m = await import('/console/{module}'); return {call}; }}",
        list(arguments),
    )
