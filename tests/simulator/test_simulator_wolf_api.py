"""Wolf's API on its Unix socket, asked by an ordinary HTTP client."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from simulator_client import PIN, Player, StartHost, until

from moonlight.pairing import PairingClient
from simulator.config import Traps


async def ask(wolf: Path, method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=str(wolf))
    async with httpx.AsyncClient(transport=transport, base_url="http://wolf") as client:
        return await client.request(method, f"/api/v1{path}", **options)


@pytest.mark.parametrize("address_under_pin", [False, True])
async def test_a_pending_pairing_is_listed_and_confirmed(
    start_host: StartHost, tmp_path: Path, address_under_pin: bool
) -> None:
    wolf = tmp_path / "wolf.sock"
    host = await start_host(Traps(address_under_pin=address_under_pin), api_socket=wolf)
    player = Player(host, source="127.0.0.7")
    assert (await ask(wolf, "GET", "/pair/pending")).json() == {"success": True, "requests": []}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(player.pair_step, PairingClient(player.identity, PIN))
        await until(lambda: bool(host.pending_pairings()))
        (request,) = (await ask(wolf, "GET", "/pair/pending")).json()["requests"]
        assert request.pop("pin" if address_under_pin else "client_ip") == "127.0.0.7"
        told = {"pair_secret": request.pop("pair_secret"), "pin": PIN}
        assert request == {}
        assert (await ask(wolf, "POST", "/pair/client", json=told)).json() == {"success": True}
    again = await ask(wolf, "POST", "/pair/client", json=told)
    assert (again.status_code, again.json()["success"]) == (404, False)


async def test_apps_clients_and_sessions_are_listed_and_a_session_is_stopped(
    start_host: StartHost, tmp_path: Path
) -> None:
    wolf = tmp_path / "wolf.sock"
    host = await start_host(Traps.wolf_2026(), api_socket=wolf)
    player = Player(host, source="127.0.0.7")
    await player.pair()
    await player.launched()
    client = player.identity.certificate.id
    apps = (await ask(wolf, "GET", "/apps")).json()["apps"]
    assert [(app["title"], app["id"], app["support_hdr"]) for app in apps] == [
        ("Test ball", "378473508", False),
        ("Snow", "2094323632", False),
    ]
    assert (await ask(wolf, "GET", "/clients")).json()["clients"] == [{"client_id": client}]
    (session,) = (await ask(wolf, "GET", "/sessions")).json()["sessions"]
    assert session["app_id"] == "378473508"
    assert (session["client_id"], session["client_ip"]) == (client, "127.0.0.7")
    assert (session["video_width"], session["video_height"]) == (640, 360)
    assert session["video_refresh_rate"] == 60
    stop = {"session_id": client}
    assert (await ask(wolf, "POST", "/sessions/stop", json=stop)).json() == {"success": True}
    assert host.sessions() == ()
    assert (await ask(wolf, "POST", "/sessions/stop", json=stop)).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/nonsense", b"", 404),
        ("POST", "/apps", b"", 404),
        ("POST", "/pair/client", b"", 400),
        ("POST", "/pair/client", b"[]", 400),
        ("POST", "/pair/client", b'{"pair_secret": 1, "pin": "1234"}', 400),
        ("POST", "/sessions/stop", b"[" * 20_000, 400),
        ("POST", "/sessions/stop", b"x" * 70_000, 413),
    ],
)
async def test_what_cannot_be_done_is_refused(
    start_host: StartHost, tmp_path: Path, method: str, path: str, content: bytes, status: int
) -> None:
    wolf = tmp_path / "wolf.sock"
    await start_host(Traps.wolf_2026(), api_socket=wolf)
    assert (await ask(wolf, method, path, content=content)).status_code == status


async def test_a_socket_left_behind_is_replaced_and_its_own_taken_away(
    start_host: StartHost, tmp_path: Path
) -> None:
    path = tmp_path / "wolf.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    host = await start_host(Traps.wolf_2026(), api_socket=path)
    assert (await ask(path, "GET", "/apps")).status_code == 200
    host.crash()
    await until(lambda: not path.exists())
