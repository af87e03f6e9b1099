"""A real browser for tests: Debian's Chromium, driven from a thread of its own.

Playwright's synchronous API belongs to the thread that began it and runs an asyncio loop there, so
neither trio's thread nor one of trio's workers will do.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

CHROMIUM: Final = "/usr/bin/chromium"
wait_ms: Final = 30_000
_run_timeout_s: Final = 120.0

_T = TypeVar("_T")

_VIOLATIONS: Final = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
# A browser says this of every answer of that kind, expected or not.
_ANSWERS: Final = "Failed to load resource"


@dataclass
class Tab:
    """A page of its own browser context; used in the browser's thread only."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Errors on the console, uncaught exceptions, violations of the page's policy."""

    def watch(self) -> None:
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: (
                self.complaints.append(said.text)
                if said.type == "error" and _ANSWERS not in said.text
                else None
            ),
        )


class BrowserThread:
    """Chromium in its thread, for the length of a block."""

    _playwright: Playwright
    _browser: Browser

    def __enter__(self) -> BrowserThread:
        if shutil.which(CHROMIUM) is None:
            pytest.skip(f"{CHROMIUM} is missing, so THE CONSOLE IS NOT TESTED: install chromium")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="browser")
        self.run(self._launch)
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._quit)
        self._thread.shutdown()

    def run(self, act: Callable[..., _T], *arguments: Any) -> _T:
        """Call something in the browser's thread and wait for it; not from a trio task."""
        return self._thread.submit(act, *arguments).result(_run_timeout_s)

    @contextmanager
    def tab(self, **options: Any) -> Iterator[Tab]:
        """Open a page in a context of its own; in the browser's thread."""
        context = self._browser.new_context(
            **{"color_scheme": "light", "locale": "en-GB"} | options
        )
        context.set_default_timeout(wait_ms)
        context.add_init_script(_VIOLATIONS)
        try:
            tab = Tab(context.new_page())
            tab.watch()
            yield tab
        finally:
            context.close()

    def _launch(self) -> None:
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )

    def _quit(self) -> None:
        self._browser.close()
        self._playwright.stop()
