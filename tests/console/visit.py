"""Going about the console as a person does."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page

from tests.console.fake_edge import COOKIE, HOST, FakeEdge

PAGES = ("Fleet", "Sessions", "Pairings", "Clients", "Events", "Tokens")


def log_in(page: Page, token: str = "admin", at: str = "") -> None:
    """Log in from the login page, which is where one is without."""
    page.goto(f"/console/{at}")
    page.get_by_label("API token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("navigation", name="Pages").wait_for()


def enter(page: Page, edge: FakeEdge, token: str = "admin", title: str = "Fleet") -> None:
    """Come to a page as one who has logged in before; `pass_time` works from then on."""
    page.context.add_cookies(
        [{"name": COOKIE, "value": edge.let_in(token), "domain": HOST, "path": "/", "secure": True}]
    )
    page.clock.install()
    # By way of the redirect: from the console to a page of it is no new document.
    page.goto(f"/#/{title.lower()}")
    page.get_by_role("heading", level=1, name=title).wait_for()


def pass_time(page: Page, edge: FakeEdge, seconds: int) -> None:
    """Let time pass at once, for the page's polls and for what the edge counts."""
    edge.ahead_s += seconds
    page.clock.run_for(1000 * seconds)


def open_page(page: Page, title: str) -> None:
    page.get_by_role("navigation", name="Pages").get_by_role("link", name=title).click()
    page.get_by_role("heading", level=1, name=title).wait_for()
    page.locator(".skeleton").wait_for(state="detached")


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
