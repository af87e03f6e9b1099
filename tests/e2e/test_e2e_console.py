"""An operator's evening at the console of a real edge, in a real browser, with real clients."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal

import trio
from playwright.sync_api import Page, expect

from proxy import state_dir
from tests.e2e.browser import BrowserThread, Tab, wait_ms
from tests.e2e.deployment import Deployment, HostPlan, deployed
from tests.e2e.light_player import Player

PAGES: Final = ("Fleet", "Sessions", "Pairings", "Clients", "Events", "Tokens")
SIZES: Final = {"desktop": (1280, 800), "phone": (390, 844)}
THEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
PIN: Final = "4711"
PLAYER: Final = "127.0.0.51"


class Operator:
    """A person before the console of a deployment; each step runs in the browser's thread."""

    def __init__(self, deployment: Deployment, browser: BrowserThread, pictures: Path) -> None:
        self.token = (deployment.config.state_dir / state_dir.admin_token).read_text().strip()
        self.url = f"http://127.0.0.1:{deployment.config.admin.port}"
        self.browser = browser
        self.pictures = pictures
        self.stack = ExitStack()
        self.tab: Tab

    async def does(self, step: Callable[[Page], Any]) -> None:
        await trio.to_thread.run_sync(self.browser.run, lambda: step(self.tab.page))

    async def sits_down(self) -> None:
        def open_tab() -> None:
            expect.set_options(timeout=wait_ms)
            self.tab = self.stack.enter_context(self.browser.tab(base_url=self.url))

        await trio.to_thread.run_sync(self.browser.run, open_tab)

    async def leaves(self) -> None:
        await trio.to_thread.run_sync(self.browser.run, self.stack.close)
        assert self.tab.complaints == []

    async def takes_pictures(self, *titles: str) -> None:
        """Keep how pages look at every size and in every theme."""

        def pose(page: Page) -> None:
            for title in titles:
                if title in PAGES:
                    open_page(page, title)
                for size, (width, height) in SIZES.items():
                    page.set_viewport_size({"width": width, "height": height})
                    for theme in THEMES:
                        page.emulate_media(color_scheme=theme)
                        name = f"{title.lower()}-{size}-{theme}.png"
                        page.screenshot(path=self.pictures / name, animations="disabled")
            page.set_viewport_size({"width": 1280, "height": 800})
            page.emulate_media(color_scheme="light")

        await self.does(pose)


def open_page(page: Page, title: str) -> None:
    page.get_by_role("navigation", name="Pages").get_by_role("link", name=title).click()
    expect(page.get_by_role("heading", level=1, name=title)).to_be_visible()
    expect(page.locator(".skeleton")).to_have_count(0)


def sees_the_fleet(page: Page) -> None:
    expect(page.get_by_role("heading", level=1, name="Fleet")).to_be_visible()
    backend = page.get_by_role("row").filter(has_text="one/host")
    expect(backend).to_contain_text("Healthy")
    expect(backend).to_contain_text("0 / 4")
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()


def confirms_the_pin(page: Page) -> None:
    open_page(page, "Pairings")
    device = page.locator(".pairing")
    expect(device).to_contain_text("127.0.0.1")
    device.get_by_label("PIN").fill(PIN)
    page.keyboard.press("Enter")
    expect(device.get_by_role("status")).to_contain_text("Paired.")


def sees_figures_move(page: Page) -> None:
    open_page(page, "Sessions")
    session = page.locator(".session").filter(has_text=PLAYER)
    expect(session).to_contain_text("Streaming")
    expect(session).to_contain_text("320\N{MULTIPLICATION SIGN}200 at 30")
    bitrate = session.get_by_role("img", name=re.compile("^Bitrate"))
    expect(bitrate).to_have_accessible_name(re.compile(r"^Bitrate: [\d.]+ [kM]bit/s; between"))
    for number in range(2):
        line = session.locator(".spark-line").first
        drawn = line.get_attribute("d") or ""
        assert number == 0 or drawn.startswith("M")
        expect(line).not_to_have_attribute("d", drawn)


def drains_the_backend(page: Page) -> None:
    open_page(page, "Fleet")
    page.get_by_role("button", name="Drain one/host", exact=True).click()
    dialog = page.get_by_role("dialog", name="Drain one/host?")
    expect(dialog).to_contain_text("1 person plays there now")
    dialog.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("row").filter(has_text="one/host")).to_contain_text("Draining")
    open_page(page, "Events")
    expect(page.get_by_text("one/host takes no new sessions: a drain began")).to_be_visible()


def logs_out(page: Page) -> None:
    page.get_by_label(re.compile("^Logged in as")).click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("You are logged out.")).to_be_visible()
    page.reload()
    expect(page.get_by_label("API token")).to_be_visible()


def kept_in(folder: Path) -> Path:
    """Return where screenshots go: the folder of the environment, or one of the test's own."""
    pictures = Path(os.environ.get("MOONHOST_TEST_SCREENSHOTS") or folder / "screenshots")
    pictures.mkdir(parents=True, exist_ok=True)
    return pictures


def names_in(pictures: Path) -> set[str]:
    return {path.name for path in pictures.glob("*.png")}


async def test_an_operator_sees_pairs_watches_drains_and_logs_out(tmp_path: Path) -> None:
    pictures = kept_in(tmp_path)
    with BrowserThread() as browser:
        async with deployed(tmp_path, HostPlan(picture="noise")) as deployment:
            operator = Operator(deployment, browser, pictures)
            await operator.sits_down()

            def logs_in(page: Page) -> None:
                page.get_by_label("API token").fill(operator.token)
                page.keyboard.press("Enter")

            await operator.does(lambda page: page.goto("/"))
            await operator.takes_pictures("login")
            await operator.does(logs_in)
            await operator.does(sees_the_fleet)

            client = deployment.client()
            paired: list[Any] = []

            async def pairs() -> None:
                paired.append(await client.outcome("pair", "--pin", PIN))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(pairs)
                await operator.does(confirms_the_pin)
            assert not isinstance(paired[0], Exception)

            player = await Player.at(deployment, PLAYER)
            async with player.playing():
                await operator.does(sees_figures_move)
                await operator.takes_pictures(*PAGES)
                await operator.does(drains_the_backend)
                await operator.takes_pictures("Fleet")
            await operator.does(logs_out)
            await operator.leaves()
    assert len(names_in(pictures)) == (len(PAGES) + 1) * len(SIZES) * len(THEMES)
