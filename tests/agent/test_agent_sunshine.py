"""Sunshine's API over real TLS: PINs, apps, and what strange answers and strangers do."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from fake_sunshine import FakeSunshine, fake_sunshine, identity
from structlog.testing import capture_logs

from agent import sunshine_pairing, sunshine_pins
from agent.errors import HostApiError
from agent.host_http import max_answer_bytes
from agent.sunshine import SunshineApi
from moonlight.applist import App, applist
from moonlight.serverinfo import ServerInfo
from moonlight.xml import Answer, text_element
from revdial.messages import AppOffer
from simulator.config import HostConfig as SimulatedHost
from simulator.config import Traps
from simulator.host import HostHandle, run_host

PIN = "0042"
TAKEN = {"status": True}
NOT_YET = {"status": False}
NOT_PAIRED = Answer.error(401, "The client is not authorized.", "")


@asynccontextmanager
async def sunshine_and_api(
    folder: Path, *, timeout_s: float = 3.0, **changes: Any
) -> AsyncIterator[tuple[FakeSunshine, SunshineApi]]:
    async with fake_sunshine(changes.pop("shown", None)) as sunshine:
        config = sunshine.config(folder, **changes)
        yield sunshine, await SunshineApi.open(config, timeout_s=timeout_s)


async def confirm(api: SunshineApi, *, under_way: bool = True, timeout_s: float = 5.0) -> None:
    await api.pins.confirm(PIN, "pair-1", is_under_way=lambda: under_way, timeout_s=timeout_s)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sunshine_pins, "poll_interval_s", 0.01)


async def test_a_pin_is_told_until_a_pairing_takes_it(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/api/pin"] = [NOT_YET, {"status": "false"}, TAKEN]
        await confirm(api)
        assert sunshine.asked("/api/pin") == [{"pin": PIN, "name": "moonhost pair-1"}] * 3
        headers = sunshine.requests[0][1]
        assert headers["content-type"] == "application/json"
        credentials = headers["authorization"].removeprefix("Basic ")
        assert base64.b64decode(credentials) == b"me:secret-word"
        # Either would make Sunshine look for a browser, and for its token.
        assert not {"origin", "referer"} & set(headers)


async def test_older_versions_say_true_in_words(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/api/pin"] = [{"status": "true"}]
        await confirm(api)


async def test_no_pin_is_told_before_its_pairing_is_under_way(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        with pytest.raises(HostApiError, match=r"within 0\.1 s") as caught:
            await confirm(api, under_way=False, timeout_s=0.1)
        assert caught.value.reason == "no_pending_pairing"
        assert sunshine.requests == []


async def test_a_pairing_that_never_comes(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/api/pin"] = [NOT_YET]
        with pytest.raises(HostApiError) as caught:
            await confirm(api, timeout_s=0.3)
        assert caught.value.reason == "no_pending_pairing"
        assert len(sunshine.requests) > 1


async def test_only_a_pin_that_sunshine_knows_is_told(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        with pytest.raises(HostApiError, match="4 digits") as caught:
            await api.pins.confirm("12345", "x", is_under_way=lambda: True, timeout_s=1)
        assert "12345" not in str(caught.value)
        assert sunshine.requests == []


@pytest.mark.parametrize("as_file", [True, False])
async def test_the_password_goes_to_the_pinned_host_alone(tmp_path: Path, as_file: bool) -> None:
    pinned = identity().certificate.id
    if as_file:
        path = tmp_path / "sunshine.pem"
        path.write_bytes(identity().certificate.pem)
        pinned = str(path)
    stranger = identity("stranger")
    async with sunshine_and_api(tmp_path, api_certificate=pinned) as (sunshine, api):
        sunshine.script["/api/pin"] = [TAKEN]
        await confirm(api)
    async with sunshine_and_api(tmp_path, api_certificate=pinned, shown=stranger) as (
        sunshine,
        api,
    ):
        sunshine.script["/api/pin"] = [TAKEN]
        with pytest.raises(HostApiError, match=stranger.certificate.id) as caught:
            await confirm(api)
        assert caught.value.reason == "host_api_wrong_certificate"
        assert sunshine.requests == []


async def test_a_wrong_password_is_tried_once_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/api/pin"] = [401]
        for _ in range(3):
            with pytest.raises(HostApiError, match="api_username and api_password_file") as caught:
                await confirm(api)
            assert caught.value.reason == "host_api_unauthorized"
            assert "secret-word" not in str(caught.value)
        assert len(sunshine.requests) == 1
        monkeypatch.setattr(sunshine_pins, "refusal_pause_s", 0.0)
        api.pins._spared_until = trio.current_time()
        with pytest.raises(HostApiError):
            await confirm(api)
        assert len(sunshine.requests) == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (403, "host_api_forbidden"),
        (307, "host_api_without_password"),
        (500, "host_api_refused"),
        ({"status": 7}, "host_api_nonsense"),
        ([], "host_api_nonsense"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff{", "host_api_nonsense"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "host_api_nonsense"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "host_api_nonsense"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "host_api_nonsense"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (max_answer_bytes + 1), "host_api_too_large"),
    ],
)
async def test_a_strange_answer_is_a_clear_error(tmp_path: Path, answer: Any, reason: str) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/api/pin"] = [answer]
        with pytest.raises(HostApiError) as caught:
            await confirm(api)
        assert caught.value.reason == reason
        assert str(caught.value).isprintable()


async def test_an_api_that_hangs_is_given_up(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path, timeout_s=0.3) as (sunshine, api):
        sunshine.script["/api/pin"] = [None]
        with pytest.raises(HostApiError, match=r"within 0\.3 s") as caught:
            await confirm(api)
        assert caught.value.reason == "host_api_timeout"


async def test_no_api_is_a_clear_error(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path, api_port=1) as (_, api):
        with pytest.raises(HostApiError, match="cannot be reached at port 1") as caught:
            await confirm(api)
        assert caught.value.reason == "host_api_unreachable"


@pytest.mark.parametrize(("game", "sessions"), [(0, 0), (881448767, 1)])
async def test_a_running_app_takes_the_one_place(tmp_path: Path, game: int, sessions: int) -> None:
    info = ServerInfo(hostname="pc", unique_id="u", current_game=game, busy=game > 0)
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/serverinfo"] = [info.to_answer()]
        assert await api.session_count() == sessions


async def test_serverinfo_that_is_none(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/serverinfo"] = [Answer.ok(text_element("currentgame", "-"))]
        with pytest.raises(HostApiError, match="/serverinfo") as caught:
            await api.session_count()
        assert caught.value.reason == "host_api_nonsense"


async def test_apps_are_read_as_a_paired_client(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        apps = [App("Desktop", 881448767, True), App(" ", 5), App("Steam\x07", 1093255277)]
        sunshine.script["/applist"] = [applist(apps)]
        assert await api.apps() == (
            AppOffer("Desktop", 881448767, True),
            AppOffer("Steam\ufffd", 1093255277),
        )
        assert sunshine.asked("/api/pin") == []


@pytest.mark.parametrize(
    "answer", [Answer.ok(text_element("App", "")), b"HTTP/1.1 200 OK\r\n\r\n<"]
)
async def test_an_applist_that_is_none(tmp_path: Path, answer: Any) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/applist"] = [answer]
        with pytest.raises(HostApiError, match="/applist") as caught:
            await api.apps()
        assert caught.value.reason == "host_api_nonsense"


@asynccontextmanager
async def simulated(**changes: Any) -> AsyncIterator[tuple[FakeSunshine, HostHandle]]:
    """A simulated Sunshine, and where it is, as the scripted one tells that."""
    ports = ("http", "https", "rtsp", "video", "audio", "control", "api")
    config = SimulatedHost(
        name="pc",
        region="here",
        traps=Traps.sunshine(),
        api_username="me",
        api_password="secret-word",
        **{f"{port}_port": 0 for port in ports},  # type: ignore[arg-type]
        **changes,
    )
    async with trio.open_nursery() as nursery:
        handle: HostHandle = await nursery.start(run_host, config)
        assert handle.api_port is not None
        where = FakeSunshine(
            identity(),
            {"http": handle.http_port, "https": handle.https_port, "api": handle.api_port},
        )
        yield where, handle
        nursery.cancel_scope.cancel()


async def test_the_agent_pairs_itself_once_and_again_when_it_is_forgotten(tmp_path: Path) -> None:
    async with simulated() as (where, handle):
        config = where.config(tmp_path, api_certificate=handle.certificate.id)
        with capture_logs() as logs:
            for _ in range(2):
                api = await SunshineApi.open(config)
                offers = await api.apps()
        assert [(offer.title, offer.id) for offer in offers] == [
            ("Test ball", 378473508),
            ("Snow", 2094323632),
        ]
        assert len(handle.clients) == 1
        assert [entry["event"] for entry in logs].count("agent_paired_with_host") == 1
        handle.clients.clear()  # type: ignore[attr-defined]
        assert await api.apps() == offers
        assert len(handle.clients) == 1


async def test_a_pairing_left_behind_does_not_keep_the_agent_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sunshine_pairing, "attempt_timeout_s", 1.0)
    async with simulated() as (where, handle):
        config = where.config(tmp_path, api_certificate=handle.certificate.id)
        handle._desk._left_behind["0123456789ABCDEF", "anywhere"] = False  # type: ignore[index]
        api = await SunshineApi.open(config)
        assert len(await api.apps()) == 2


async def test_a_pairing_that_fails_is_not_tried_again_at_once(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/applist"] = [NOT_PAIRED]
        sunshine.script["/api/pin"] = [NOT_YET]
        sunshine.script["/pair"] = [Answer.error(400, "no", "/pair")]
        for _ in range(3):
            with pytest.raises(HostApiError, match="to read its apps") as caught:
                await api.apps()
            assert caught.value.reason == "host_pairing_failed"
        assert len(sunshine.asked("/pair")) == sunshine_pairing.attempts


async def test_a_wrong_password_ends_the_agents_own_pairing(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/applist"] = [NOT_PAIRED]
        sunshine.script["/api/pin"] = [401]
        sunshine.script["/pair"] = [None]
        with pytest.raises(HostApiError) as caught:
            await api.apps()
        assert caught.value.reason == "host_api_unauthorized"


async def test_a_host_that_never_answers_a_pairing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sunshine_pairing, "attempt_timeout_s", 0.3)
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/applist"] = [NOT_PAIRED]
        sunshine.script["/api/pin"] = [TAKEN]
        sunshine.script["/pair"] = [None]
        with pytest.raises(HostApiError, match=r"0\.3 s"):
            await api.apps()


async def test_the_agent_does_not_pair_while_a_player_does(tmp_path: Path) -> None:
    async with sunshine_and_api(tmp_path) as (sunshine, api):
        sunshine.script["/applist"] = [NOT_PAIRED]
        async with api.pins.turn:
            with pytest.raises(HostApiError) as caught:
                await api.apps()
        assert caught.value.reason == "host_pairing_busy"
        assert sunshine.asked("/pair") == []
