"""Names that peers choose in order to become markup, script or style: they stay text."""

from __future__ import annotations

from typing import Final

import pytest
from playwright.sync_api import Page, expect
from visit import PAGES, imported, log_in, open_page

from tests.console.fake_edge import FakeEdge

HOSTILE: Final = (
    "<img src=x onerror=owned()>",
    "<script>owned()</script>",
    "\"><svg onload=owned()>'",
    "</textarea></title><iframe srcdoc='<script>parent.owned()</script>'>",
    "javascript:owned()",
    "url(//evil.example/x);}*{display:none}",
    "${owned()}{{owned()}}",
    "__proto__",
    "constructor",
    "\u202egnp.exe",
    "a" * 300,
)


def plant(edge: FakeEdge, evil: str) -> None:
    """Have everything that a client, a host or an agent names be named so."""
    for backend in edge.backends:
        backend.update(agent=evil, id=f"{evil}/{backend['id']}", region=evil, trouble=evil)
        backend["apps"] = [evil]
        for gpu in backend["gpus"]:
            gpu.update(name=evil, vendor=evil)
    for session in edge.sessions:
        session.update(
            client_name=evil, app=evil, backend=f"{evil}/wolf", region=evil, mode=evil, codec=evil
        )
    for client in edge.clients:
        client.update(name=evil, user=evil)
    for pairing in edge.pairings:
        pairing.update(device=evil, address=evil)
        pairing["place"].update(located_by="pinned_network", region=evil)
    for drain in edge.drains:
        drain.update(target=evil)
    for number, token in enumerate(edge.tokens):
        token.update(name=f"{evil} {number}")
    for event in edge.events:
        for name in set(event) - {"id", "at", "kind"}:
            event[name] = evil
    edge.regions = [{"name": evil, "latitude": 1.0, "longitude": 2.0}]


@pytest.mark.parametrize("evil", HOSTILE)
def test_what_peers_name_stays_text(page: Page, edge: FakeEdge, evil: str) -> None:
    plant(edge, evil)
    page.add_init_script("globalThis.owned = () => { globalThis.was = true; };")
    log_in(page)
    for title in PAGES:
        open_page(page, title)
        expect(page.locator("main")).to_contain_text(evil.strip()[:20])
        page.eval_on_selector_all(
            "main [aria-expanded=false]", "all => all.forEach((one) => one.click())"
        )
        assert page.locator("main script, main iframe, main img").count() == 0
        for press in page.locator("main button").filter(has_text="Drain").all()[:1]:
            press.click()
            expect(page.get_by_role("dialog")).to_contain_text(evil[:20])
            page.get_by_role("button", name="Cancel").click()
    links = page.eval_on_selector_all("a[href]", "all => all.map((one) => one.protocol)")
    assert set(links) <= {"http:"}
    assert page.evaluate("globalThis.was") is None


@pytest.mark.parametrize("name", ["constructor", "toString", "__proto__"])
def test_words_of_an_object_are_no_words_of_ours(page: Page, edge: FakeEdge, name: str) -> None:
    log_in(page)
    for module, call in (
        ("words.js", "m.stateWord(a[0])"),
        ("words.js", "m.troubleWord(a[0])"),
        ("words.js", "m.scopeWord(a[0])"),
        ("words.js", "m.pairingWords(a[0])"),
    ):
        told = imported(page, module, call, name)
        assert isinstance(told, str)
        assert "native code" not in told
    told = imported(page, "event_words.js", "m.eventWords(a[0])", {"kind": name, "subject": "x"})
    assert "native code" not in told["sentence"]
