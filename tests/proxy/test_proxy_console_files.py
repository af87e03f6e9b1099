"""The console's files as the edge serves them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from proxy.admin import console_files

FOLDER = Path(console_files.__file__).parent / "console"
NAMES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS_AND_STYLES = [name for name in NAMES if name.endswith((".js", ".css", ".html"))]


@pytest.fixture
async def console() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Starlette(routes=console_files.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/console"])
async def test_whoever_comes_without_a_path_is_sent_to_the_console(
    console: httpx.AsyncClient, path: str
) -> None:
    answer = await console.get(path)
    assert answer.status_code == 307
    assert answer.headers["location"] == "/console/"


@pytest.mark.parametrize(
    ("path", "media_type", "beginning"),
    [
        ("/console/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/console/index.html", "text/html; charset=utf-8", "<!doctype html>"),
        ("/console/app.js", "text/javascript; charset=utf-8", "// Starts the console"),
        ("/console/base.css", "text/css; charset=utf-8", "/* Colours"),
        ("/console/favicon.svg", "image/svg+xml", "<svg "),
    ],
)
async def test_files_are_served_with_their_types(
    console: httpx.AsyncClient, path: str, media_type: str, beginning: str
) -> None:
    answer = await console.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert answer.text.startswith(beginning)


@pytest.mark.parametrize("path", ["/", "/console/", "/console/app.js", "/console/nothing"])
async def test_every_answer_forbids_what_the_console_does_not_need(
    console: httpx.AsyncClient, path: str
) -> None:
    headers = (await console.get(path)).headers
    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "geolocation=()" in headers["permissions-policy"]
    assert headers["cache-control"] == "no-cache"


def test_the_page_asks_for_all_modules_at_once() -> None:
    preloaded = re.findall('rel="modulepreload" href="(.*?)"', (FOLDER / "index.html").read_text())
    scripts = {name for name in NAMES if name.endswith(".js")}
    assert sorted(preloaded) == sorted(scripts - {"app.js", "theme_first.js"})


async def test_a_file_that_the_browser_has_is_not_sent_again(console: httpx.AsyncClient) -> None:
    etag = (await console.get("/console/app.js")).headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = await console.get("/console/app.js", headers={"If-None-Match": known})
        assert answer.status_code == 304
        assert answer.content == b""
        assert answer.headers["etag"] == etag
    for other in ('"other"', etag.strip('"'), ""):
        answer = await console.get("/console/app.js", headers={"If-None-Match": other})
        assert answer.status_code == 200


async def test_etags_differ_with_the_content(console: httpx.AsyncClient) -> None:
    etags = {(await console.get(f"/console/{name}")).headers["etag"] for name in NAMES}
    assert len(etags) == len(NAMES)


async def test_head_tells_of_a_file_without_sending_it(console: httpx.AsyncClient) -> None:
    told = await console.head("/console/app.js")
    sent = await console.get("/console/app.js")
    assert told.content == b""
    assert told.headers["content-length"] == str(len(sent.content))
    assert told.headers["etag"] == sent.headers["etag"]
    assert told.headers["content-type"] == sent.headers["content-type"]


@pytest.mark.parametrize(
    "path",
    [
        "/console/nothing.js",
        "/console/../api.py",
        "/console/%2e%2e/api.py",
        "/console/..%2fapi.py",
        "/console/%2e%2e%2f%2e%2e%2f%2e%2e%2fpyproject.toml",
        "/console//etc/passwd",
        "/console/%2fetc%2fpasswd",
        "/console/..%5capi.py",
        "/console/app.js%00",
        "/console/app.js/",
        "/console/APP.JS",
        "/console/./app.js%2f..",
    ],
)
async def test_nothing_but_the_consoles_files_can_be_read(
    console: httpx.AsyncClient, path: str
) -> None:
    request = console.build_request("GET", "/console/")
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = await console.send(request)
    assert answer.status_code == 404
    if not path.startswith("/console/../"):
        assert answer.json()["type"] == "urn:moonhost:no_such_page"
        assert answer.headers["content-type"] == "application/problem+json"


async def test_files_can_only_be_read(console: httpx.AsyncClient) -> None:
    assert (await console.post("/console/app.js")).status_code == 405


@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_another_origin(name: str) -> None:
    text = (FOLDER / name).read_text()
    without_comments = re.sub(r"^\s*(//|/\*|\*).*$", "", text, flags=re.MULTILINE)
    # The namespace of SVG is a name that nobody fetches.
    addresses = without_comments.replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?:|(?<=[\"'(])//|url\(|@import", addresses) == []


@pytest.mark.parametrize("name", SCRIPTS_AND_STYLES)
def test_nothing_is_inline_and_no_text_becomes_markup(name: str) -> None:
    text = (FOLDER / name).read_text()
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc"
        r"|createContextualFragment|setHTML|\beval\(|new Function|javascript:"
    )
    assert re.findall(forbidden, text) == []
    if name.endswith(".html"):
        assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".js")])
def test_a_script_says_what_it_is_for_and_can_be_read_in_one_sitting(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert text.startswith("// ")
    assert len(text.splitlines()) < 500


def test_every_import_of_a_script_is_a_file_that_is_there() -> None:
    for name in NAMES:
        for imported in re.findall(r'from "(.+?)"', (FOLDER / name).read_text()):
            assert imported.startswith("./")
            assert imported.removeprefix("./") in NAMES
