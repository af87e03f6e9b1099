"""Wolf's API over its Unix socket: what is asked, and what strange answers do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio
from fake_wolf import FakeWolf, fake_wolf

from agent.errors import HostApiError
from agent.wolf import PendingPairing, WolfApi, confirm_pin_from, parse_address
from revdial.messages import AppOffer

ADDRESS = ip_address("127.64.0.9")
PENDING = "/pair/pending"


@asynccontextmanager
async def wolf_and_api(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[FakeWolf, WolfApi]]:
    path = tmp_path / "wolf.sock"
    async with fake_wolf(path) as wolf, WolfApi.open(path, **options) as api:
        yield wolf, api


@pytest.mark.parametrize("key", ["client_ip", "pin"])
async def test_pending_pairings_under_either_name(tmp_path: Path, key: str) -> None:
    async with wolf_and_api(tmp_path) as (wolf, api):
        entries = [("s1", "127.64.0.9"), ("s2", "::ffff:10.0.0.1"), ("s3", "nonsense")]
        wolf.script("GET", PENDING, wolf.pending(*entries, key=key))
        assert await api.pending_pairings() == (
            PendingPairing("s1", ADDRESS),
            PendingPairing("s2", ip_address("10.0.0.1")),
        )


def test_a_pairings_secret_is_not_shown() -> None:
    assert "hunter2" not in repr(PendingPairing("hunter2", ADDRESS))


async def test_the_pin_is_posted(tmp_path: Path) -> None:
    async with wolf_and_api(tmp_path) as (wolf, api):
        wolf.script("POST", "/pair/client", {"success": True})
        assert await api.confirm(PendingPairing("s1", ADDRESS), "1234")
        assert wolf.asked("POST", "/pair/client") == [{"pair_secret": "s1", "pin": "1234"}]


@pytest.mark.parametrize("pin", ["", "123", "12a4", "1234\n", "1" * 17, "\u0661\u0662\u0663\u0664"])
async def test_what_is_no_pin_is_not_sent(tmp_path: Path, pin: str) -> None:
    async with wolf_and_api(tmp_path) as (wolf, api):
        with pytest.raises(HostApiError) as caught:
            await api.confirm(PendingPairing("s1", ADDRESS), pin)
        assert caught.value.reason == "bad_pin"
        assert wolf.requests == []


async def test_a_pin_for_a_pairing_that_is_gone(tmp_path: Path) -> None:
    text = b'{"success":false,"error":"Invalid pair secret"}'
    refusal = b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
    async with wolf_and_api(tmp_path) as (wolf, api):
        wolf.script("POST", "/pair/client", refusal)
        assert not await api.confirm(PendingPairing("s1", ADDRESS), "1234")


async def test_apps_are_cleaned(tmp_path: Path) -> None:
    apps = [
        {"title": "Desktop", "id": "1", "support_hdr": True, "runner": {"type": "docker"}},
        {"title": "Bad\x1b[2J", "id": 2},
        {"title": "x" * 500, "id": 3},
        {"title": " ", "id": 4},
        {"title": "UUID", "id": "c0ffee"},
        {"title": "Zero", "id": "0"},
        {"title": "Beyond", "id": str(2**31)},
        {"title": "Far beyond", "id": "9" * 4000},
        {"title": "Negative", "id": -1},
    ]
    async with wolf_and_api(tmp_path) as (wolf, api):
        wolf.script("GET", "/apps", {"success": True, "apps": apps})
        assert await api.apps() == (
            AppOffer("Desktop", 1, hdr=True),
            AppOffer("Bad?[2J", 2),
            AppOffer("x" * 128, 3),
        )


async def test_sessions_are_counted(tmp_path: Path) -> None:
    async with wolf_and_api(tmp_path) as (wolf, api):
        wolf.script("GET", "/sessions", {"success": True, "sessions": [{"app_id": "1"}, {}]})
        assert await api.session_count() == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"success": True}, "host_api_nonsense"),
        ({"sessions": [1]}, "host_api_nonsense"),
        ({"sessions": {"a": {}}}, "host_api_nonsense"),
        ([], "host_api_nonsense"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xff", "host_api_nonsense"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "host_api_nonsense"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 2_000_000, "host_api_too_large"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "host_api_refused"),
        (b"HTTP/1.1 301 No\r\nLocation: http://example.org/\r\n\r\n", "host_api_refused"),
        (b"SSH-2.0-OpenSSH\r\n", "host_api_unreachable"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "host_api_unreachable"),
    ],
)
async def test_a_strange_answer_is_a_clear_error(tmp_path: Path, answer: Any, reason: str) -> None:
    async with wolf_and_api(tmp_path) as (wolf, api):
        wolf.script("GET", "/sessions", answer)
        with pytest.raises(HostApiError) as caught:
            await api.session_count()
        assert caught.value.reason == reason
        assert str(caught.value).isprintable()


async def test_no_socket_is_a_clear_error(tmp_path: Path) -> None:
    async with WolfApi.open(tmp_path / "absent.sock") as api:
        with pytest.raises(HostApiError, match=r"absent\.sock: No such file") as caught:
            await api.session_count()
        assert caught.value.reason == "host_api_unreachable"


async def test_a_hanging_api_is_given_up(tmp_path: Path, autojump_clock: object) -> None:
    async with wolf_and_api(tmp_path, timeout_s=3) as (wolf, api):
        wolf.script("GET", "/sessions", None)
        with pytest.raises(HostApiError, match="within 3 s") as caught:
            await api.session_count()
        assert caught.value.reason == "host_api_timeout"


async def test_the_pin_goes_to_the_pairing_from_our_address(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with wolf_and_api(tmp_path) as (wolf, api):
        other = ("other", "127.64.0.10")
        wolf.script(
            "GET", PENDING, wolf.pending(), wolf.pending(other),
            wolf.pending(other, ("ours", "127.64.0.9")),
        )  # fmt: skip
        wolf.script("POST", "/pair/client", {"success": True})
        started = trio.current_time()
        await confirm_pin_from(api, ADDRESS, "0042", timeout_s=10)
        assert trio.current_time() - started == pytest.approx(0.2)
        assert wolf.asked("POST", "/pair/client") == [{"pair_secret": "ours", "pin": "0042"}]


async def test_a_leftover_pairing_does_not_take_the_pin_away(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with wolf_and_api(tmp_path) as (wolf, api):
        both = wolf.pending(("leftover", "127.64.0.9"), ("ours", "127.64.0.9"))
        wolf.script("GET", PENDING, both)
        wolf.script("POST", "/pair/client", {"success": False}, {"success": True})
        await confirm_pin_from(api, ADDRESS, "0042", timeout_s=10)
        posted = [body["pair_secret"] for body in wolf.asked("POST", "/pair/client")]
        assert posted == ["leftover", "ours"]


async def test_a_pairing_that_never_comes(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with wolf_and_api(tmp_path) as (wolf, api):
        wolf.script("GET", PENDING, wolf.pending(("other", "127.64.0.10")))
        started = trio.current_time()
        with pytest.raises(HostApiError, match=r"127\.64\.0\.9") as caught:
            await confirm_pin_from(api, ADDRESS, "1234", timeout_s=2)
        assert caught.value.reason == "no_pending_pairing"
        assert trio.current_time() - started == pytest.approx(2)
        assert wolf.asked("POST", "/pair/client") == []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.64.0.9", "127.64.0.9"),
        ("::ffff:127.64.0.9", "127.64.0.9"),
        ("fe80::1", "fe80::1"),
        ("", None),
        ("1.2.3", None),
    ],
)
def test_addresses_as_hosts_write_them(text: str, address: str | None) -> None:
    assert parse_address(text) == (None if address is None else ip_address(address))


async def test_a_pairing_that_is_seen_from_elsewhere_is_told_with_what_to_set(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with wolf_and_api(tmp_path) as (wolf, api):
        wolf.script("GET", PENDING, wolf.pending(("ours", "172.17.0.1")))
        with pytest.raises(HostApiError, match=r"one from 172\.17\.0\.1.*seen_as"):
            await confirm_pin_from(api, ADDRESS, "1234", timeout_s=2)
        assert wolf.asked("POST", "/pair/client") == []
