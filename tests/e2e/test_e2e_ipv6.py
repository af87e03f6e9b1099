"""Both families at once: clients, agents and hosts over IPv6, and nothing else is different."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import trio

from simulator.light_client import Playing, StreamWish
from simulator.light_udp import LightSocket
from tests.e2e.deployment import HostPlan, deployed
from tests.e2e.light_player import Player
from tests.e2e.test_e2e_play import assert_played
from tests.waiting import until

BOTH_FAMILIES = {
    "MOONHOST_TEST__HOSTNAME": "::1",
    "MOONHOST_TEST__LISTEN__ADDRESSES": '["127.0.0.1", "::1"]',
    "MOONHOST_TEST__AGENTS__ADDRESSES": '["::1"]',
}
OVER_IPV4, OVER_IPV6 = ("127.0.0.9", "127.0.0.1"), ("::1", "::1")


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter[int]]:
    """Of the datagrams that light clients get, by their own addresses."""
    seen: dict[str, Counter[int]] = defaultdict(Counter)
    drain = LightSocket.drain

    def noting(socket: LightSocket) -> list[bytes]:
        datagrams = drain(socket)
        if datagrams:
            seen[socket._socket.getsockname()[0]].update(map(len, datagrams))
        return datagrams

    monkeypatch.setattr(LightSocket, "drain", noting)
    return seen


async def play(player: Player, playing: list[Playing], enough: trio.Event) -> None:
    (app, *_) = await player.client.apps()
    wish = StreamWish(app_id=app.id, mode="320x200x30", bitrate_kbps=500)
    async with player.client.playing(wish) as one:
        playing.append(one)
        await enough.wait()


def has_everything(playing: Playing) -> bool:
    figures = playing.figures()
    return bool(
        figures.frames_whole > 20 and figures.audio_packets > 50 and figures.control_round_trips_ms
    )


@pytest.mark.parametrize("host", ["127.0.0.21", "::1"])
async def test_clients_of_both_families_play_the_same(
    tmp_path: Path, sizes: dict[str, Counter[int]], host: str
) -> None:
    """The agent dials over IPv6, too, and its host may be there."""
    plan = HostPlan(picture="noise", address=host)
    async with deployed(tmp_path, plan, environ=BOTH_FAMILIES) as deployment:
        players = [await Player.at(deployment, *where) for where in (OVER_IPV4, OVER_IPV6)]
        for player, reached in zip(players, ("127.0.0.1", "::1"), strict=True):
            assert (await player.client._http.serverinfo()).local_ip == reached
        playing: list[Playing] = []
        enough = trio.Event()

        async with trio.open_nursery() as nursery:
            for player in players:
                nursery.start_soon(play, player, playing, enough)
            await until(lambda: len(playing) == 2 and all(map(has_everything, playing)), 20)
            sessions = await deployment.sessions()
            enough.set()

        assert {session["client_address"] for session in sessions} == {"127.0.0.9", "::1"}
        for one in playing:
            figures = one.figures()
            assert (figures.frames_foreign, figures.audio_foreign) == (0, 0)
    assert max(sizes["127.0.0.9"]) == max(sizes["::1"])


@pytest.mark.client
async def test_the_real_client_plays_over_ipv6(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan(), environ=BOTH_FAMILIES) as deployment:
        client = deployment.client("::1")
        outcome: Any = await deployment.pair(client, "4711471147")
        assert outcome["client"]["paired"] is True

        assert_played(await client.stream("--bitrate", "20000"))

        (session,) = await deployment.sessions()
        assert session["client_address"] == "::1"
