"""The console in a real browser, against an edge that pretends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.console.fake_edge import FakeEdge, ServedEdge, populated
from tests.e2e.browser import BrowserThread, Tab, wait_ms


@pytest.fixture(scope="session")
def browser() -> Iterator[BrowserThread]:
    expect.set_options(timeout=wait_ms)
    with BrowserThread() as browser:
        yield browser


@pytest.fixture(scope="session")
def served() -> Iterator[ServedEdge]:
    with ServedEdge() as served:
        yield served


@pytest.fixture
def edge(served: ServedEdge) -> FakeEdge:
    served.api.edge = populated()
    return served.api.edge


@contextmanager
def watched_tab(browser: BrowserThread, **options: Any) -> Iterator[Tab]:
    """Open a tab in which nothing may go wrong unseen: it ends with a look at its console."""
    stack = ExitStack()
    tab = browser.run(lambda: stack.enter_context(browser.tab(**options)))
    try:
        yield tab
        assert tab.complaints == []
    finally:
        browser.run(stack.close)


@pytest.fixture
def tab(
    request: pytest.FixtureRequest, browser: BrowserThread, served: ServedEdge
) -> Iterator[Tab]:
    marker = request.node.get_closest_marker("tab")
    with watched_tab(browser, base_url=served.url, **(marker.kwargs if marker else {})) as tab:
        yield tab


@pytest.fixture
def page(tab: Tab) -> Page:
    return tab.page


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the tests that want a page in the browser's thread."""
    if "page" not in pyfuncitem.fixturenames:
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    browser: BrowserThread = pyfuncitem.funcargs["browser"]
    browser.run(lambda: pyfuncitem.obj(**arguments))
    return True
