"""A Sunshine behind an agent: players pair with the edge, and know nothing of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from agent.config import load as load_agent_config
from agent.service import run_agent
from backends.tokens import new_agent_token, token_hash
from moonlight.applist import App
from proxy.host_pairing import pairing_timeout_s
from simulator.config import HostConfig, Traps
from simulator.host import HostHandle, run_host
from simulator.light_client import LightClient, StreamWish
from simulator.light_errors import ClientFailed
from simulator.light_http import Target
from tests.e2e.deployment import Deployment, deployed
from tests.e2e.light_player import Player
from tests.waiting import until

APPS = (App("Desktop", 881448767, True), App("Steam Big Picture", 1093255277))
heartbeat_s = 15.0
PASSWORD = "correct-horse"


def agent_file(deployment: Deployment, handle: HostHandle, token: str) -> Path:
    """Write what an operator writes."""
    folder = deployment.folder
    for name, secret in (("pc.token", token), ("sunshine.password", PASSWORD)):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(secret)
    certificate = folder / "sunshine.pem"
    certificate.write_bytes(handle.certificate.pem)
    path = folder / "agent-pc.toml"
    path.write_text(
        f"""\
[edge]
url = "wss://127.0.0.1:{deployment.config.agents.port}"
token_file = {json.dumps(str(folder / "pc.token"))}
ca_file = {json.dumps(str(deployment.config.state_dir / "agents.pem"))}
[agent]
id = "pc"
region = "home"
[[hosts]]
name = "host"
kind = "sunshine"
address = "{handle.address}"
http_port = {handle.http_port}
https_port = {handle.https_port}
rtsp_port = {handle.rtsp_port}
udp_ports = "{handle.video_port},{handle.audio_port},{handle.control_port}"
api_port = {handle.api_port}
api_username = "me"
api_password_file = {json.dumps(str(folder / "sunshine.password"))}
api_certificate = {json.dumps(str(certificate))}
identity_file = {json.dumps(str(folder / "agent-identity.pem"))}
"""
    )
    return path


@asynccontextmanager
async def behind_an_edge(folder: Path) -> AsyncIterator[tuple[Deployment, HostHandle]]:
    config = HostConfig(
        name="pc",
        region="home",
        address="127.0.0.31",
        http_port=0,
        https_port=0,
        rtsp_port=0,
        video_port=0,
        audio_port=0,
        control_port=0,
        api_port=0,
        api_username="me",
        api_password=PASSWORD,
        apps=APPS,
        traps=Traps.sunshine(),
        picture="noise",
    )
    async with deployed(folder) as deployment, trio.open_nursery() as nursery:
        handle: HostHandle = await nursery.start(run_host, config)
        token = new_agent_token()
        await deployment.edge.store.put_agent_token("pc", token_hash(token), datetime.now(UTC))
        path = agent_file(deployment, handle, token)
        nursery.start_soon(run_agent, load_agent_config(path, environ={}))
        await deployment.wait_for_backends(1)
        yield deployment, handle
        nursery.cancel_scope.cancel()


def wish(app: App) -> StreamWish:
    return StreamWish(app_id=app.id, mode="320x200x30", bitrate_kbps=500)


async def play(player: Player) -> None:
    """Play until picture, audio and control have come, all of them this player's own.

    A heartbeat on its way may still count the session before: its place is waited for.
    """
    fleet = player.deployment.edge.fleet
    await until(lambda: all(one.sessions == 0 for one in fleet.backends()), heartbeat_s)
    (app, *_) = await player.client.apps()
    async with player.client.playing(wish(app)) as playing:

        def all_came() -> bool:
            figures = playing.figures()
            return (
                figures.frames_whole > 1
                and figures.audio_packets > 1
                and bool(figures.control_round_trips_ms)
            )

        await until(all_came)
        assert (playing.figures().frames_foreign, playing.figures().audio_foreign) == (0, 0)


async def test_a_player_pairs_with_the_edge_and_plays_on_a_sunshine(tmp_path: Path) -> None:
    async with behind_an_edge(tmp_path) as (deployment, handle):
        # The agent's own pairing, for the list of apps.
        assert len(handle.clients) == 1
        player = await Player.at(deployment, "127.0.0.71")
        apps = await player.client.apps()
        assert [(app.title, app.hdr) for app in apps] == [
            ("Desktop", True),
            ("Steam Big Picture", False),
        ]
        for _ in range(2):
            await play(player)
            assert handle.sessions() == ()
        assert len(handle.clients) == 2


async def test_only_one_player_at_a_time_is_sent_to_a_sunshine(tmp_path: Path) -> None:
    async with behind_an_edge(tmp_path) as (deployment, handle):
        first = await Player.at(deployment, "127.0.0.71")
        second = await Player.at(deployment, "127.0.0.72")
        async with first.playing():
            (app, *_) = await second.client.apps()
            with pytest.raises(ClientFailed):
                async with second.client.playing(wish(app)):
                    pass
            # Nobody asked the host, where a /cancel would have ended the first one's app.
            assert len(handle.sessions()) == 1
            assert len(handle.clients) == 2
        await play(second)


async def test_a_client_that_was_removed_at_the_sunshine_is_paired_anew(tmp_path: Path) -> None:
    async with behind_an_edge(tmp_path) as (deployment, handle):
        player = await Player.at(deployment, "127.0.0.71")
        await play(player)
        clients = handle.clients
        assert isinstance(clients, dict)
        for _ in range(2):
            # The first is the agent.
            clients.popitem()
            await play(player)
            assert len(clients) == 2


async def test_a_pairing_that_somebody_gave_up_at_the_sunshine_costs_one_retry(
    tmp_path: Path,
) -> None:
    async with behind_an_edge(tmp_path) as (deployment, handle):
        await give_a_pairing_up(handle)
        player = await Player.at(deployment, "127.0.0.71")
        with trio.fail_after(pairing_timeout_s / 2):
            await play(player)


async def give_a_pairing_up(handle: HostHandle) -> None:
    """Close Moonlight over the PIN that it shows, at the Sunshine itself."""
    stranger = await LightClient.new(Target(handle.address, handle.http_port, "127.0.0.79"))
    with trio.CancelScope() as scope:

        async def leave(_pin: str) -> None:
            await until(lambda: bool(handle.pending_pairings()))
            scope.cancel()

        await stranger.pair(leave)
    await until(lambda: not handle.pending_pairings())
