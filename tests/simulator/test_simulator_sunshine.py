"""A simulated Sunshine: its API, its TLS, its one app and its one pairing at a time."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import Any

import httpx
import pytest
import trio
from simulator_client import PIN, Player, StartHost, exchange, until

from moonlight.errors import AuthenticationFailed
from moonlight.pairing import PairingClient
from moonlight.tls import client_context
from simulator.config import Traps
from simulator.host import HostHandle

TRUSTING = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TRUSTING.check_hostname = False
TRUSTING.verify_mode = ssl.CERT_NONE
JSON = {"Content-Type": "application/json"}


async def sunshine(
    start_host: StartHost, *, traps: Traps | None = None, **changes: Any
) -> HostHandle:
    settings = {"api_port": 0, "api_username": "me", "api_password": "secret", **changes}
    return await start_host(traps or Traps.sunshine(), **settings)


async def ask(host: HostHandle, method: str, path: str, **options: Any) -> httpx.Response:
    options.setdefault("auth", ("me", "secret"))
    base = f"https://{host.address}:{host.api_port}"
    async with httpx.AsyncClient(verify=TRUSTING, base_url=base, trust_env=False) as client:
        return await client.request(method, path, **options)


async def tell(host: HostHandle, pin: str = PIN) -> bool:
    return bool(
        (await ask(host, "POST", "/api/pin", json={"pin": pin, "name": "x"})).json()["status"]
    )


async def pair(player: Player) -> None:
    """Pair, telling the PIN through the API."""
    pairing = PairingClient(player.identity, PIN)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(until, lambda: tell(player.host))
        answer = await player.pair_step(pairing)
    pairing.receive(answer)
    while not pairing.finished:
        pairing.receive(await player.pair_step(pairing))


async def leave_a_pairing_behind(player: Player) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(player.pair_step, PairingClient(player.identity, PIN))
        await until(lambda: bool(player.host.pending_pairings()))
        nursery.cancel_scope.cancel()
    await until(lambda: not player.host.pending_pairings())


async def test_a_pin_goes_to_the_pairing_that_waits(start_host: StartHost) -> None:
    host = await sunshine(start_host)
    assert not await tell(host)
    player = Player(host)
    await pair(player)
    assert set(host.clients) == {player.identity.certificate.id}
    listed = (await ask(host, "GET", "/api/clients/list")).json()["named_certs"]
    assert [entry["uuid"] for entry in listed] == [player.identity.certificate.id]
    names = (await ask(host, "GET", "/api/apps")).json()["apps"]
    assert names == [{"name": "Test ball"}, {"name": "Snow"}]


async def test_a_pairing_left_behind_spoils_the_next(start_host: StartHost) -> None:
    host = await sunshine(start_host)
    await leave_a_pairing_behind(Player(host, "bob"))
    player = Player(host)
    with pytest.raises(AuthenticationFailed, match="Out of order"):
        await pair(player)
    await pair(player)


async def test_a_pin_told_too_early_is_swallowed_by_one_left_behind(start_host: StartHost) -> None:
    host = await sunshine(start_host)
    await leave_a_pairing_behind(Player(host, "bob"))
    assert await tell(host)
    assert not await tell(host)
    await pair(Player(host))


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/api/apps", {"auth": ("me", "wrong")}, 401),
        ("GET", "/api/apps", {"auth": None}, 401),
        ("GET", "/api/apps", {"auth": None, "headers": {"Authorization": "Basic ???"}}, 401),
        ("GET", "/api/nonsense", {}, 400),
        ("POST", "/api/pin", {"json": {"name": "x"}}, 400),
        ("POST", "/api/pin", {"content": b"{", "headers": JSON}, 400),
        ("POST", "/api/pin", {"content": b'{"pin": "1234"}'}, 400),
    ],
)
async def test_what_the_api_refuses(
    start_host: StartHost, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    host = await sunshine(start_host)
    assert (await ask(host, method, path, **options)).status_code == status


async def test_nobody_comes_in_without_a_certificate(start_host: StartHost) -> None:
    host = await sunshine(start_host)
    player = Player(host)
    plain = await player.connect(host.https_port)
    context = client_context(None, pinned_der=host.certificate.der)
    with pytest.raises(trio.BrokenResourceError):
        await exchange(trio.SSLStream(plain, context), "GET /serverinfo HTTP/1.1\r\nHost: x\r\n")


async def test_a_stranger_is_turned_away_before_it_asks(start_host: StartHost) -> None:
    host = await sunshine(start_host)
    async with await Player(host).secured() as stream:
        heard = bytes(await stream.receive_some())
    assert heard.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'status_code="401"' in heard


async def test_one_app_runs_for_all_and_is_ended_for_all(start_host: StartHost) -> None:
    host = await sunshine(start_host)
    alice, bob = Player(host), Player(host, "bob")
    await alice.pair()
    await bob.pair()
    await alice.launched()
    for secure in (False, True):
        info = (await bob.get("/serverinfo", secure=secure)).answer
        assert (info.text("currentgame"), info.text("state")) == (
            "378473508",
            "SUNSHINE_SERVER_BUSY",
        )
    assert (await alice.launch()).answer.status_message == "An app is already running on this host"
    assert (await bob.launch()).answer.status_code == 400
    assert (await bob.launch("/resume")).answer.status_code == 503
    assert (await bob.get("/cancel", secure=True)).answer.text("cancel") == "1"
    assert host.sessions() == ()
    assert (await bob.launch("/resume")).answer.status_code == 404
    assert (await bob.get("/unpair", secure=False)).answer.status_code == 404


async def test_rtsp_is_the_last_launchs_whoever_asks(start_host: StartHost) -> None:
    in_the_clear = replace(Traps.sunshine(), encrypted_rtsp=False)
    host = await sunshine(start_host, traps=in_the_clear)
    player = Player(host)
    await player.pair()
    assert await player.rtsp_bytes() == b""
    url = await player.launched()
    assert (url.host, url.encrypted) == (host.address, False)
    stranger = Player(host, "bob", source="127.0.0.9")
    answer = await stranger.rtsp("SETUP", "streamid=video/0/0", host="whatever")
    assert answer.status == 200
    assert answer.ping_payload is not None
