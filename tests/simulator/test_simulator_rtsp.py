"""The RTSP of a simulated host: one message a connection, and whose session it is about."""

from __future__ import annotations

import os
import socket

import pytest
from simulator_client import Player, StartHost, announcement

from moonlight.rtsp import RtspResponse
from simulator.config import Traps
from simulator.host import HostHandle
from simulator.sessions import SessionState

WOLF, OLD, NONE = Traps.wolf_2026(), Traps.wolf_2024(), Traps.none()


async def launched(host: HostHandle, name: str = "alice") -> tuple[Player, str]:
    """A client with a session, and the host name that its sessionUrl0 had."""
    player = Player(host, name)
    await player.pair()
    return player, (await player.launched()).host


async def set_up(player: Player, name: str) -> list[RtspResponse]:
    return [
        await player.rtsp("SETUP", f"streamid={stream}", name)
        for stream in ("audio/0/0", "video/0/0", "control/13/0")
    ]


async def test_seven_messages_set_a_session_up(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    player, name = await launched(host)
    url = f"rtsp://{name}:{host.rtsp_port}"
    assert (
        await player.rtsp("OPTIONS", url, name)
    ).encode() == b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"
    described = await player.rtsp("DESCRIBE", url, name)
    assert b"a=fmtp:97 surround-params=21101" in described.body
    audio, video, control = await set_up(player, name)
    for answer, port in ((audio, host.audio_port), (video, host.video_port)):
        assert answer.header("Session") == "DEADBEEFCAFE;timeout = 90"
        assert answer.server_port == port
        assert answer.ping_payload == audio.ping_payload is not None
    assert (control.server_port, control.ping_payload) == (host.control_port, None)
    assert control.connect_data
    announce = await player.rtsp("ANNOUNCE", "streamid=control/13/0", name, announcement())
    assert (announce.status, announce.body) == (200, b"")
    assert (await player.rtsp("PLAY", "/", name)).status == 200
    assert [session.state for session in host.sessions()] == [SessionState.STREAMING]


async def test_an_announce_arrives_in_pieces(start_host: StartHost) -> None:
    player, name = await launched(await start_host(WOLF))
    body = announcement()
    head = (
        f"ANNOUNCE streamid=control/13/0 RTSP/1.0\r\nCSeq: 6\r\nHost: {name}\r\n"
        f"Content-length: {len(body)}\r\n\r\n"
    ).encode()
    whole = head + body
    pieces = [whole[start : start + 536] for start in range(0, len(whole), 536)]
    assert await player.rtsp_bytes(*pieces) == b"RTSP/1.0 200 OK\r\nCSeq: 6\r\n\r\n"


async def test_a_connection_without_a_byte_is_no_error(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    async with await Player(host).connect(host.rtsp_port) as stream:
        await stream.send_eof()
        assert await stream.receive_some() == b""


@pytest.mark.parametrize(
    "noise",
    [b"\0" * 9 + b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"A" * 70_000],
    ids=["binary", "http", "endless"],
)
async def test_noise_gets_400(start_host: StartHost, noise: bytes) -> None:
    player = Player(await start_host(WOLF))
    assert (await player.rtsp_bytes(noise)).startswith(b"RTSP/1.0 400 Bad Request\r\n")


async def test_without_a_session_there_is_nothing_to_set_up(start_host: StartHost) -> None:
    player = Player(await start_host(WOLF))
    assert (await player.rtsp("OPTIONS", "rtsp://0.0.0.0:48010")).status == 404


async def test_with_its_name_each_client_gets_its_own_session(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    alice, alices_name = await launched(host)
    bob, bobs_name = await launched(host, "bob")
    payloads = {
        (await set_up(player, name))[0].ping_payload
        for player, name in ((alice, alices_name), (bob, bobs_name))
    }
    assert len(payloads) == 2


async def test_without_it_wolf_gives_the_second_client_the_first_ones_session(
    start_host: StartHost,
) -> None:
    host = await start_host(WOLF)
    alice, alices_name = await launched(host)
    bob, _ = await launched(host, "bob")
    alices = (await set_up(alice, alices_name))[0].ping_payload
    assert (await set_up(bob, "0.0.0.0"))[0].ping_payload == alices


async def test_without_it_a_better_host_takes_the_latest_launch(start_host: StartHost) -> None:
    host = await start_host(NONE)
    alice, _ = await launched(host)
    alices = (await set_up(alice, "0.0.0.0"))[0].ping_payload
    bob, _ = await launched(host, "bob")
    assert (await set_up(bob, "0.0.0.0"))[0].ping_payload != alices


async def test_a_resumed_session_answers_to_its_new_name_only(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    player, old = await launched(host)
    before = (await set_up(player, old))[0]
    new = (await player.launched("/resume")).host
    after = (await set_up(player, new))[0]
    assert after.ping_payload != before.ping_payload
    elsewhere = Player(host, source="127.0.0.9")
    assert (await elsewhere.rtsp("OPTIONS", f"rtsp://{new}", new)).status == 200
    assert (await elsewhere.rtsp("OPTIONS", f"rtsp://{old}", old)).status == 404


async def test_a_wolf_of_2024_has_ports_for_each_session_and_no_payloads(
    start_host: StartHost,
) -> None:
    host = await start_host(OLD)
    assert host.video_port is None
    alice, _ = await launched(host)
    alices = await set_up(alice, "0.0.0.0")
    other = Player(host, "bob", "127.0.0.2")
    await other.pair()
    await other.launched()
    others = await set_up(other, "0.0.0.0")
    for answer in (*alices, *others):
        assert (answer.ping_payload, answer.connect_data) == (None, None)
    media = {answer.server_port for answer in (*alices[:2], *others[:2])}
    assert len(media) == 4
    assert alices[2].server_port == others[2].server_port == host.control_port


async def test_ports_of_an_ended_session_are_the_next_ones(start_host: StartHost) -> None:
    process = os.getpid()  # other runs on this machine want the same ports
    address = f"127.9.{process >> 8 & 0xFF}.{1 + process % 254}"
    host = await start_host(OLD, address=address, video_port=48100, audio_port=48200)
    alice, _ = await launched(host)
    for _ in range(3):  # launching anew ends the session that was
        await alice.launched()
        ports = [answer.server_port for answer in (await set_up(alice, "0.0.0.0"))[:2]]
        assert ports == [48200, 48100]
    bob, _ = await launched(host, "bob")
    assert (await bob.get("/cancel", secure=True)).status == 200
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
        squatter.bind((host.address, 48201))
        refused = await bob.launch()
        assert (refused.status, len(host.sessions())) == (503, 1)


async def test_a_session_is_not_played_before_it_was_announced(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    player, name = await launched(host)
    assert (await player.rtsp("PLAY", "/", name)).status == 455
    assert [session.state for session in host.sessions()] == [SessionState.LAUNCHED]


@pytest.mark.parametrize(
    "body",
    [
        b"v=0\r\n",
        announcement(width=641),
        announcement(fps=0),
        announcement(codec=1),
        announcement(packet_size=100),
        announcement(channels=3),
    ],
    ids=["empty", "odd width", "no frames", "HEVC", "tiny packets", "three channels"],
)
async def test_an_announce_that_cannot_be_is_refused(start_host: StartHost, body: bytes) -> None:
    player, name = await launched(await start_host(WOLF))
    assert (await player.rtsp("ANNOUNCE", "streamid=control/13/0", name, body)).status == 400


@pytest.mark.parametrize(
    ("method", "target", "status"), [("TEARDOWN", "/", 501), ("SETUP", "streamid=input/1", 404)]
)
async def test_what_the_host_does_not_know_it_refuses(
    start_host: StartHost, method: str, target: str, status: int
) -> None:
    player, name = await launched(await start_host(WOLF))
    assert (await player.rtsp(method, target, name)).status == status
