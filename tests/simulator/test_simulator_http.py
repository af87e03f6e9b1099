"""What a simulated host answers over HTTP and HTTPS, on real sockets, with traps and without."""

from __future__ import annotations

import pytest
import trio
from simulator_client import Player, StartHost

from moonlight.launch import session_url
from moonlight.serverinfo import ServerInfo
from moonlight.tls import client_context
from simulator.config import Traps
from simulator.host import HostHandle

WOLF, NONE = Traps.wolf_2026(), Traps.none()
BOTH = pytest.mark.parametrize("traps", [WOLF, NONE], ids=["wolf", "none"])


async def paired(host: HostHandle, name: str = "alice", source: str = "127.0.0.1") -> Player:
    player = Player(host, name, source)
    await player.pair()
    return player


async def info(player: Player, *, secure: bool) -> ServerInfo:
    return ServerInfo.parse((await player.get("/serverinfo", secure=secure)).answer)


@BOTH
async def test_serverinfo_is_busy_for_the_client_that_plays_and_only_over_https(
    start_host: StartHost, traps: Traps
) -> None:
    host = await start_host(traps)
    alice, bob = await paired(host), await paired(host, "bob", "127.0.0.2")
    await alice.launched()
    plain = await info(alice, secure=False)
    assert (plain.paired, plain.busy, plain.current_game) == (False, False, 0)
    own = await info(alice, secure=True)
    assert (own.paired, own.busy, own.current_game) == (True, True, 378473508)
    other = await info(bob, secure=True)
    assert (other.paired, other.busy, other.current_game) == (True, False, 0)
    assert (own.http_port, own.https_port) == (host.http_port, host.https_port)
    assert own.unique_id == plain.unique_id


async def test_an_unknown_certificate_gets_401_in_xml_everywhere(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    for path in ("/serverinfo", "/applist", "/launch", "/pair"):
        refused = await Player(host, "stranger").get(path, secure=True)
        assert refused.status == 401
        assert refused.answer.status_code == 401
        assert dict(refused.answer.attributes)["query"] == path


async def test_a_client_without_a_certificate_gets_401_too(
    start_host: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await start_host(WOLF)

    async def secured(player: Player) -> trio.SSLStream[trio.abc.Stream]:
        context = client_context(None, pinned_der=host.certificate.der)
        return trio.SSLStream(await player.connect(host.https_port), context, https_compatible=True)

    monkeypatch.setattr(Player, "secured", secured)
    assert (await Player(host).get("/serverinfo", secure=True)).status == 401


async def test_what_needs_pairing_is_not_found_over_plain_http(start_host: StartHost) -> None:
    player = await paired(await start_host(WOLF))
    for path in ("/applist", "/launch", "/nonsense"):
        refused = await player.get(path, secure=False)
        assert (refused.status, refused.answer.status_code) == (404, 404)


async def test_apps_and_their_box_art(start_host: StartHost) -> None:
    player = await paired(await start_host(WOLF))
    apps = (await player.get("/applist", secure=True)).answer.all("AppTitle")
    assert [element.text for element in apps] == ["Test ball", "Snow"]
    art = await player.get("/appasset", ("appid", "378473508"), secure=True)
    assert art.response.body.startswith(b"\x89PNG")
    assert (await player.get("/appasset", ("appid", "5"), secure=True)).status == 404


@pytest.mark.parametrize(
    ("mode", "app", "status"),
    [("640x360x60", 5, 404), ("641x360x60", 378473508, 400), ("huge", 378473508, 400)],
)
async def test_a_launch_that_cannot_be_is_refused_with_a_sentence(
    start_host: StartHost, mode: str, app: int, status: int
) -> None:
    host = await start_host(WOLF)
    refused = await (await paired(host)).launch(mode=mode, app=app)
    assert (refused.status, refused.answer.status_code) == (status, status)
    assert refused.answer.status_message
    assert host.sessions() == ()


async def test_a_full_host_refuses_but_lets_a_client_launch_anew(start_host: StartHost) -> None:
    host = await start_host(WOLF, max_sessions=1)
    alice, bob = await paired(host), await paired(host, "bob")
    await alice.launched()
    assert (await bob.launch()).status == 503
    await alice.launched()
    assert len(host.sessions()) == 1


async def test_cancel_ends_the_session_and_a_resume_finds_nothing(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    player = await paired(host)
    await player.launched()
    cancelled = await player.get("/cancel", secure=True)
    assert cancelled.answer.text("cancel") == "1"
    assert host.sessions() == ()
    assert (await info(player, secure=True)).current_game == 0
    assert (await player.launch("/resume")).status == 404


async def test_wolf_says_content_length_alone_and_closes_without_a_word(
    start_host: StartHost,
) -> None:
    host = await start_host(WOLF)
    stream = await Player(host).connect(host.http_port)
    async with stream:
        with trio.fail_after(5):
            await stream.send_all(b"GET /serverinfo HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            received = b""
            while data := await stream.receive_some():
                received += bytes(data)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nContent-Length: %d" % len(body)


async def test_a_better_host_answers_the_next_request_on_the_same_connection(
    start_host: StartHost,
) -> None:
    host = await start_host(NONE)
    async with await Player(host).connect(host.http_port) as stream:
        for _ in range(2):
            with trio.fail_after(5):
                await stream.send_all(b"GET /serverinfo HTTP/1.1\r\nHost: x\r\n\r\n")
                received = b""
                while b"</root>" not in received:
                    received += bytes(await stream.receive_some())


async def test_wolf_sends_a_stray_400_behind_a_resume_and_a_launch_over_a_session(
    start_host: StartHost,
) -> None:
    player = await paired(await start_host(WOLF))
    stray = b'HTTP/1.1 400 Bad Request\r\n\r\n<?xml version="1.0" encoding="utf-8"?>\n'
    stray += b'<root status_code="400"/>'
    first = await player.launch()
    assert b"400 Bad Request" not in first.raw
    for path in ("/launch", "/resume"):
        answer = await player.launch(path)
        assert answer.raw.endswith(b"</root>" + stray)
        assert answer.status == 200
        session_url(answer.answer)


async def test_a_better_host_answers_once(start_host: StartHost) -> None:
    player = await paired(await start_host(NONE))
    for path in ("/launch", "/launch", "/resume"):
        assert b"400 Bad Request" not in (await player.launch(path)).raw


async def test_wolf_makes_up_an_address_at_every_launch_and_resume(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    player = await paired(host)
    urls = [await player.launched(path) for path in ("/launch", "/resume", "/resume", "/launch")]
    assert len({url.host for url in urls}) == 4
    assert {url.port for url in urls} == {host.rtsp_port}


@pytest.mark.parametrize("traps", [NONE, Traps.wolf_2024()], ids=["none", "2024"])
async def test_others_name_themselves(start_host: StartHost, traps: Traps) -> None:
    player = await paired(await start_host(traps))
    assert (await player.launched()).host == "127.0.0.1"


@BOTH
async def test_noise_is_refused_and_harms_nobody(start_host: StartHost, traps: Traps) -> None:
    host = await start_host(traps)
    player = Player(host)
    for noise in (b"\x16\x03\x01\x02\x00\x01\xff\xfc\r\n\r\n", b"A" * 40_000, b"GET"):
        for port in (host.http_port, host.https_port, host.rtsp_port):
            async with await player.connect(port) as stream:
                with trio.fail_after(5):
                    try:
                        await stream.send_all(noise)
                        await stream.send_eof()
                        while await stream.receive_some():
                            pass
                    except trio.BrokenResourceError:
                        pass
    assert (await player.get("/serverinfo", secure=False)).status == 200


async def test_connections_beyond_the_limit_are_closed(start_host: StartHost) -> None:
    host = await start_host(WOLF, max_connections=1)
    player = Player(host)
    first, second = [await player.connect(host.http_port) for _ in range(2)]
    async with first, second:
        with trio.fail_after(5):
            assert await second.receive_some() == b""
            await first.send_all(b"GET /serverinfo HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await first.receive_some()).startswith(b"HTTP/1.1 200")


async def test_a_slow_client_has_its_time(start_host: StartHost) -> None:
    host = await start_host(WOLF, request_timeout_s=0.05)
    for port in (host.http_port, host.https_port, host.rtsp_port):
        async with await Player(host).connect(port) as stream:
            with trio.fail_after(5):
                await stream.send_all(b"G")
                assert await stream.receive_some() == b""
