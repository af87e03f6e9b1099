"""Video between edge and client is encrypted where that is due, and the picture is whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from moonlight.flows import Flow
from moonlight.rtp import VideoPacketHeader
from moonlight.video_encryption import ENCRYPTION_OVERHEAD_BYTES, VideoOpener
from proxy.sessions import Session, VideoEncryptor
from simulator import light_client
from simulator.config import Traps
from simulator.light_client import Playing, StreamWish
from simulator.light_udp import LightSocket
from tests.e2e.deployment import Deployment, HostPlan, deployed
from tests.e2e.light_player import Player
from tests.waiting import until

NOISE = HostPlan(picture="noise")
patience_s = 20.0


@dataclass
class Stage:
    """A light client that plays, and every datagram that came to its video socket."""

    deployment: Deployment
    playing: Playing
    captured: list[bytes]

    @property
    def session(self) -> Session:
        (session,) = self.deployment.edge.keeper.table
        return session

    async def until_frames(self, number: int) -> None:
        self.playing.begin()
        await until(lambda: self.playing.figures().frames_whole >= number, patience_s)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    taken: dict[LightSocket, list[bytes]] = {}

    class Capturing(LightSocket):
        def drain(self) -> list[bytes]:
            datagrams = super().drain()
            taken.setdefault(self, []).extend(datagrams)
            return datagrams

    video: list[bytes] = []
    original = Playing._take

    def take(self: Playing) -> None:
        original(self)
        if (socket := self._sockets.get(Flow.VIDEO)) is not None:
            video.extend(taken.pop(socket, ()))

    monkeypatch.setattr(light_client, "LightSocket", Capturing)
    monkeypatch.setattr(Playing, "_take", take)
    return video


@asynccontextmanager
async def playing(
    folder: Path, captured: list[bytes], setting: str, plan: HostPlan = NOISE, *, able: bool = True
) -> AsyncIterator[Stage]:
    async with deployed(
        folder, plan, settings=f'[sessions]\nencrypt_video = "{setting}"'
    ) as deployment:
        player = await Player.at(deployment, "127.0.0.1")
        (app, *_) = await player.client.apps()
        wish = StreamWish(app_id=app.id, mode="320x200x30", bitrate_kbps=2_000, encrypts_video=able)
        async with player.client.playing(wish) as played:
            stage = Stage(deployment, played, captured)
            await stage.until_frames(5)
            yield stage


async def test_always_puts_nothing_of_the_picture_on_the_wire(
    tmp_path: Path, captured: list[bytes]
) -> None:
    async with playing(tmp_path, captured, "always") as stage:
        figures = stage.playing.figures()
        session = stage.session
        assert session.video.by is VideoEncryptor.EDGE
        assert figures.video_encrypted
        assert (figures.video_undecryptable, figures.frames_foreign) == (0, 0)
        opener = VideoOpener(session.key.rikey)
        assert len(captured) > 10
        for datagram in captured:
            packet = opener.open(datagram)
            header = VideoPacketHeader.parse(packet)
            assert datagram[12:16] == header.frame_index.to_bytes(4, "little")
            assert len(datagram) == len(packet) + ENCRYPTION_OVERHEAD_BYTES
            assert packet[:12] not in datagram
            assert packet[-64:] not in datagram
        # A client that encrypts asks for packets that are as much smaller.
        assert {len(datagram) for datagram in captured} == {1024 + 16}


async def test_an_edge_that_restarts_goes_on_encrypting_and_repeats_no_iv(
    tmp_path: Path, captured: list[bytes]
) -> None:
    async with playing(tmp_path, captured, "always") as stage:
        before = len(captured)
        await stage.deployment.restart_edge()
        await stage.until_frames(5)
        assert stage.session.video.by is VideoEncryptor.EDGE
        assert len(captured) > before
        assert stage.playing.figures().video_undecryptable == 0
        assert len({datagram[:12] for datagram in captured}) == len(captured)


@pytest.mark.parametrize("setting", ["never", "auto"])
async def test_never_and_at_a_private_address_auto_send_the_host_s_packets(
    tmp_path: Path, captured: list[bytes], setting: str
) -> None:
    async with playing(tmp_path, captured, setting) as stage:
        assert stage.session.video.by is VideoEncryptor.NOBODY
        assert not stage.playing.figures().video_encrypted
        assert captured
        for datagram in captured:
            VideoPacketHeader.parse(datagram)


async def test_always_lets_a_client_that_cannot_play_in_the_clear_and_says_so(
    tmp_path: Path, captured: list[bytes]
) -> None:
    with capture_logs() as logs:
        async with playing(tmp_path, captured, "always", able=False) as stage:
            session = stage.session
    assert session.video.by is VideoEncryptor.NOBODY
    assert [log["session"] for log in logs if log["event"] == "video_not_encrypted"] == [session.id]


async def test_a_host_that_encrypts_itself_does_so_end_to_end(
    tmp_path: Path, captured: list[bytes]
) -> None:
    plan = replace(NOISE, traps=replace(Traps.none(), encrypts_video=True))
    async with playing(tmp_path, captured, "always", plan) as stage:
        assert stage.session.video.by is VideoEncryptor.HOST
        figures = stage.playing.figures()
        assert figures.video_encrypted
        assert (figures.video_undecryptable, figures.frames_foreign) == (0, 0)
        # Its own counter, from 0 on.
        assert int.from_bytes(captured[0][:8], "little") < 10_000


@pytest.mark.client
async def test_a_real_client_decodes_what_the_edge_has_encrypted(tmp_path: Path) -> None:
    async with deployed(
        tmp_path, HostPlan(), settings='[sessions]\nencrypt_video = "always"'
    ) as deployment:
        client = await deployment.paired_client()
        result: dict[str, Any] = await client.stream(seconds=2.0)
        (session,) = deployment.edge.keeper.table
        assert session.video.by is VideoEncryptor.EDGE
        assert result["frames_decoded"] >= 0.9 * result["frames_expected"]
        assert result["mean_luma"] > 5
        assert not result["terminated"]
