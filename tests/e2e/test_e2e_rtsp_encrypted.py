"""Encrypted RTSP through a whole deployment: towards clients, towards hosts, and as Moonlight does.

What is sealed is seen at the two places where a message comes in: at the edge and at the host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from moonlight.launch import RtspUrl
from moonlight.rtsp import RtspRequest, parse_response
from moonlight.rtsp_encryption import EncryptedRtsp, SealedMessage, SealedReader, seal
from proxy import rtsp
from simulator import rtsp_server
from simulator.config import Traps
from simulator.light_client import StreamWish
from simulator.light_http import LaunchWish
from tests.e2e.deployment import Deployment, HostPlan, deployed
from tests.e2e.light_player import Player

RIKEY = bytes(range(16))
NEVER = '[sessions]\nrtsp_encryption = "never"\n'
SEALS, PLAIN = Traps(encrypted_rtsp=True), Traps.none()
OPTIONS = RtspRequest("OPTIONS", "rtsp://0.0.0.0", headers=(("CSeq", "1"),)).encode()
messages_of_a_handshake = 7


@dataclass
class Seen:
    """Whether each message that came in was sealed."""

    at_edge: list[bool] = field(default_factory=list)
    at_host: list[bool] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """Of the sealed ones, at the edge."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()

    def noting(into: list[bool], read: Any) -> Any:
        async def noting(stream: Any) -> Any:
            message = await read(stream)
            if message is not None:  # no test of the port
                into.append(isinstance(message, SealedMessage))
            if into is seen.at_edge and isinstance(message, SealedMessage):
                seen.numbers.append(message.sequence)
            return message

        return noting

    monkeypatch.setattr(rtsp, "_read_message", noting(seen.at_edge, rtsp._read_message))
    monkeypatch.setattr(rtsp_server, "_read", noting(seen.at_host, rtsp_server._read))
    return seen


@pytest.mark.parametrize(
    ("corever", "kbps", "settings", "traps", "at_edge", "at_host"),
    [
        (1, 500, "", PLAIN, True, False),
        (1, 500, "", SEALS, True, True),
        (1, 16_000, "", SEALS, True, True),
        (0, 500, "", PLAIN, False, False),
        (0, 500, "", SEALS, False, False),
        (1, 500, NEVER, SEALS, False, True),
    ],
    ids=["client only", "both", "both, named", "neither", "client cannot", "never"],
)
async def test_each_leg_is_sealed_where_its_two_ends_can(
    tmp_path: Path,
    seen: Seen,
    corever: int,
    kbps: int,
    settings: str,
    traps: Traps,
    at_edge: bool,
    at_host: bool,
) -> None:
    plan = HostPlan(traps=traps, picture="noise")
    async with deployed(tmp_path, plan, settings=settings) as deployment:
        player = await Player.at(deployment, "127.0.0.31")
        (app, *_) = await player.client.apps()
        wish = StreamWish(app_id=app.id, mode="320x200x30", bitrate_kbps=kbps, corever=corever)
        async with player.client.playing(wish) as playing:
            assert playing.figures().frames_whole > 0
    assert seen.at_edge == [at_edge] * messages_of_a_handshake
    assert seen.at_host == [at_host] * messages_of_a_handshake


async def test_two_players_behind_one_address_are_told_apart_by_their_keys(
    tmp_path: Path, seen: Seen
) -> None:
    plan = HostPlan(traps=SEALS, picture="noise")
    async with deployed(tmp_path, plan) as deployment:
        players = [await Player.at(deployment, "127.0.0.31") for _ in range(2)]
        (app, *_) = await players[0].client.apps()
        wish = StreamWish(app_id=app.id, mode="320x200x30", bitrate_kbps=500)
        async with (
            players[0].client.playing(wish) as first,
            players[1].client.playing(wish) as second,
        ):
            for figures in (first.figures(), second.figures()):
                assert figures.frames_whole > 0
                assert (figures.frames_foreign, figures.audio_foreign) == (0, 0)
    assert seen.at_edge == seen.at_host == [True] * 2 * messages_of_a_handshake


async def ask(deployment: Deployment, port: int, *pieces: bytes) -> bytes:
    """Send bytes to the edge's RTSP in pieces; give all it answers."""
    answer = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for piece in pieces:
            await stream.send_all(piece)
        while data := await stream.receive_some():
            answer += data
    return answer


def status(answer: bytes, client: EncryptedRtsp) -> int:
    reader = SealedReader()
    reader.receive(answer)
    message = reader.next()
    assert message is not None
    return parse_response(client.unseal(message)).status


async def launched(deployment: Deployment) -> RtspUrl:
    player = await Player.at(deployment, "127.0.0.31")
    (app, *_) = await player.client.apps()
    wish = LaunchWish(app.id, "320x200x30", RIKEY, 1)
    return await player.client._http.launch(wish)


async def test_wrong_tags_replays_and_plain_text_are_refused_and_reach_no_host(
    tmp_path: Path, seen: Seen
) -> None:
    async with deployed(tmp_path, HostPlan(traps=SEALS)) as deployment:
        url = await launched(deployment)
        assert url.encrypted
        client = EncryptedRtsp(RIKEY, "client")
        first = client.seal(OPTIONS)
        bent = first[:-1] + bytes([first[-1] ^ 1])
        # From another address than the launch: the key tells whose it is.
        with capture_logs() as events:
            assert status(await ask(deployment, url.port, first[:9], first[9:]), client) == 200
            for refused in (first, bent, seal(bytes(16), "client", 9, OPTIONS), OPTIONS):
                answer = await ask(deployment, url.port, refused)
                assert answer.startswith((b"RTSP/1.0 400 ", b"RTSP/1.0 454 "))
            assert status(await ask(deployment, url.port, client.seal(OPTIONS)), client) == 200
        assert [event["reason"] for event in events if event["event"] == "rtsp_refused"] == [
            "rtsp_replay",
            "rtsp_tag",
            "rtsp_tag",
            "unknown_session",
        ]
        assert seen.at_host == [True, True]
        assert RIKEY.hex() not in repr(events)


async def test_an_edge_that_restarts_amid_a_handshake_goes_on_with_it(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan(traps=SEALS)) as deployment:
        url = await launched(deployment)
        client = EncryptedRtsp(RIKEY, "client")
        first = client.seal(OPTIONS)
        assert status(await ask(deployment, url.port, first), client) == 200

        await deployment.restart_edge()
        await deployment.wait_for_backends(1)

        assert (await ask(deployment, url.port, first)).startswith(b"RTSP/1.0 400 ")
        assert status(await ask(deployment, url.port, client.seal(OPTIONS)), client) == 200


@pytest.mark.client
@pytest.mark.parametrize(
    ("bitrate", "traps"),
    [("10000", SEALS), ("20000", Traps.wolf_2026())],
    ids=["unnamed, sealed to the host", "named, Wolf"],
)
async def test_moonlight_itself_seals_its_rtsp_and_plays(
    tmp_path: Path, seen: Seen, bitrate: str, traps: Traps
) -> None:
    async with deployed(tmp_path, HostPlan(traps=traps)) as deployment:
        client = await deployment.paired_client()
        for again in ((), ("--resume",)):
            seen.at_edge.clear()
            seen.at_host.clear()
            seen.numbers.clear()
            result = await client.stream("--bitrate", bitrate, *again)
            assert result["frames_decoded"] > 0
            assert result["audio_packets"] > 0
            assert seen.at_edge == [True] * messages_of_a_handshake
            assert seen.at_host == [traps.encrypted_rtsp] * messages_of_a_handshake
            assert seen.numbers == list(range(1, messages_of_a_handshake + 1))
