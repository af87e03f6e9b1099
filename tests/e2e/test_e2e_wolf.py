"""Wolf of 2026 and of 2024, with all their habits: nobody sees, hears or steers another's session.

All clients are at one address and below 15 Mbit/s, so that nothing in their RTSP names a session.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from moonlight.rtsp import RtspRequest
from proxy import lost_sessions
from simulator.config import Traps
from simulator.host import HostHandle
from simulator.ids import SessionId
from simulator.light_client import LightClient, Playing, StreamWish
from simulator.light_errors import ClientFailed
from simulator.light_http import LaunchWish, Target
from simulator.rtsp_server import RtspServer
from tests.e2e.deployment import Deployment, HostPlan, deployed
from tests.e2e.light_player import Player
from tests.waiting import until

ADDRESS = "127.31.0.1"
MODE = "320x200x30"
MESSAGES = ["OPTIONS", "DESCRIBE", "SETUP", "SETUP", "SETUP", "ANNOUNCE", "PLAY"]
HIDDEN = 'source_addresses = "never"'
both = pytest.mark.parametrize(
    "traps", [Traps.wolf_2026(), Traps.wolf_2024()], ids=["2026", "2024"]
)


def plan(traps: Traps, settings: str = "") -> HostPlan:
    return HostPlan(traps=traps, picture="noise", settings=settings)


async def players(deployment: Deployment, count: int) -> list[LightClient]:
    return [(await Player.at(deployment, ADDRESS)).client for _ in range(count)]


async def wish(client: LightClient) -> StreamWish:
    (app, *_) = await client.apps()
    return StreamWish(app_id=app.id, mode=MODE, bitrate_kbps=500)


async def launch(client: LightClient) -> None:
    """Launch, and leave it at that."""
    wanted = await wish(client)
    await client._http.launch(LaunchWish(wanted.app_id, wanted.mode, b"k" * 16, 1))


@asynccontextmanager
async def playing_together(
    clients: list[LightClient], *, old: Sequence[bool] = ()
) -> AsyncIterator[list[Playing]]:
    """Have all of them launch at once, and play for a block; some as Moonlights of before 2023."""
    wishes = [await wish(client) for client in clients]
    for number, _ in filter(itemgetter(1), enumerate(old)):
        wishes[number] = replace(wishes[number], corever=0, knows_secrets=False)
    begun: list[Playing] = []
    done = trio.Event()

    async def play(client: LightClient, wanted: StreamWish) -> None:
        async with client.playing(wanted) as playing:
            begun.append(playing)
            await done.wait()

    async with trio.open_nursery() as nursery:
        for client, wanted in zip(clients, wishes, strict=True):
            nursery.start_soon(play, client, wanted)
        await until(lambda: len(begun) == len(clients), 20)
        yield begun
        done.set()


async def see_only_their_own(playing: list[Playing], frames: int = 10) -> None:
    """Wait until each has seen so much; control is watched by the client itself."""
    for one in playing:
        await until(lambda one=one: one.figures().frames_whole >= frames)
        await until(lambda one=one: one.figures().audio_packets >= frames)
    for one in playing:
        figures = one.figures()
        assert (figures.frames_foreign, figures.audio_foreign) == (0, 0)


async def test_old_and_new_clients_of_one_address_have_each_their_own(tmp_path: Path) -> None:
    async with deployed(tmp_path, plan(Traps.wolf_2026())) as deployment:
        clients = await players(deployment, 4)
        async with playing_together(clients, old=[True, False, True, True]) as playing:
            await see_only_their_own(playing)
            ports = [one.own_udp_ports for one in deployment.edge.keeper.table]
            assert sorted(map(len, ports)) == [0, 3, 3, 3]
            told = [port for own in ports for port in own.values()]
            assert len(set(told)) == len(told)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[RtspRequest]]:
    """What hosts hear in RTSP, by the address it comes from."""
    heard: dict[str, list[RtspRequest]] = defaultdict(list)
    answer = RtspServer._answer_plain

    def listen(self: RtspServer, request: RtspRequest, source: str) -> bytes:
        heard[source].append(request)
        return answer(self, request, source)

    monkeypatch.setattr(RtspServer, "_answer_plain", listen)
    return heard


@both
async def test_players_of_one_address_at_one_host_have_each_their_own(
    tmp_path: Path, traps: Traps, heard: dict[str, list[RtspRequest]]
) -> None:
    async with deployed(tmp_path, plan(traps)) as deployment:
        async with playing_together(await players(deployment, 3)) as playing:
            await see_only_their_own(playing)
            sessions = list(deployment.edge.keeper.table)
            assert len({one.backend for one in sessions}) == 1
            sources = {one.client_address for one in deployment.hosts["one"].sessions()}
        assert len(sources) == 3
        assert heard.keys() == sources
        own_names = {one.host_rtsp.host for one in sessions}
        assert len(own_names) == (3 if traps.fake_address else 1)
        told = []
        for messages in heard.values():
            assert [message.method for message in messages] == MESSAGES
            (name,) = {message.session_host for message in messages}
            assert {message.header("Host") for message in messages} == {name}
            told.append(name)
            # The first two have a URL as their target.
            targets = {message.target for message in messages[:2]}
            assert targets == {f"rtsp://{name}:{deployment.hosts['one'].rtsp_port}"}
        assert set(told) == own_names
        assert len(told) == 3


async def test_wolf_of_2026_needs_no_addresses(tmp_path: Path) -> None:
    """Names of their own and secrets come back to it whatever the clients send."""
    hidden = plan(Traps.wolf_2026(), HIDDEN)
    async with (
        deployed(tmp_path, hidden) as deployment,
        playing_together(await players(deployment, 2)) as playing,
    ):
        await see_only_their_own(playing)
        sources = {one.client_address for one in deployment.hosts["one"].sessions()}
        assert sources == {"127.0.0.1"}


async def test_wolf_of_2024_has_one_player_where_all_have_one_address(tmp_path: Path) -> None:
    async with deployed(tmp_path, plan(Traps.wolf_2024(), HIDDEN)) as deployment:
        first, second = await players(deployment, 2)
        async with playing_together([first]) as playing:
            with pytest.raises(ClientFailed, match="in use right now"):
                await launch(second)
            await see_only_their_own(playing)
        async with playing_together([second]) as playing:
            await see_only_their_own(playing)


async def test_of_two_who_launch_at_once_at_wolf_of_2024_one_plays(tmp_path: Path) -> None:
    """Nothing is known of the host yet, and both could be taken for each other."""
    async with deployed(tmp_path, plan(Traps.wolf_2024(), HIDDEN)) as deployment:
        clients = await players(deployment, 2)
        refused: list[str] = []
        foreign: list[int] = []
        refusal = trio.Event()

        async def play(client: LightClient, wanted: StreamWish) -> None:
            try:
                async with client.playing(wanted) as playing:
                    await refusal.wait()
                    await see_only_their_own([playing])
                    foreign.append(playing.figures().frames_foreign)
            except ClientFailed as error:
                refused.append(str(error))
                refusal.set()

        wishes = [await wish(client) for client in clients]
        async with trio.open_nursery() as nursery:
            for client, wanted in zip(clients, wishes, strict=True):
                nursery.start_soon(play, client, wanted)
        assert foreign == [0]
        assert len(refused) == 1
        assert "in use right now" in refused[0]


@pytest.fixture
def never_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that end their app by no request of their own, and an edge that looks often."""
    monkeypatch.setattr(lost_sessions, "look_interval_s", 0.5)

    async def stay(self: LightClient, *, must: bool) -> None:
        return

    monkeypatch.setattr(LightClient, "_cancel", stay)


async def is_over_at_the_edge(deployment: Deployment, client: LightClient) -> None:
    await until(lambda: len(deployment.edge.keeper.table) == 0)
    info = await client._http.serverinfo()
    assert (info.current_game, info.busy) == (0, False)


async def play_until_the_host_ends_it(client: LightClient, host: HostHandle) -> None:
    async with client.playing(await wish(client)):
        (session,) = host.sessions()
        assert host.end_session(session.id)
        await trio.sleep_forever()


def forget(host: HostHandle, session: SessionId) -> None:
    """Have a host lose a session without a word."""
    lifecycle = host._lifecycle
    lifecycle.sessions.end(session)
    lifecycle._control.drop(session)
    lifecycle._media.close(session)


@both
async def test_a_session_that_its_host_ends_is_over_for_its_client_and_at_the_edge(
    tmp_path: Path, traps: Traps, never_cancels: None
) -> None:
    async with deployed(tmp_path, plan(traps)) as deployment:
        (client,) = await players(deployment, 1)
        host = deployment.hosts["one"]
        with pytest.raises(ClientFailed, match="The host ended the session"):
            await play_until_the_host_ends_it(client, host)
        await is_over_at_the_edge(deployment, client)


async def test_a_session_that_its_host_has_lost_is_over_at_the_edge_while_its_client_waits(
    tmp_path: Path, never_cancels: None
) -> None:
    async with deployed(tmp_path, plan(Traps.wolf_2026())) as deployment:
        (client,) = await players(deployment, 1)
        host = deployment.hosts["one"]
        async with client.playing(await wish(client)):
            (session,) = host.sessions()
            forget(host, session.id)
            await is_over_at_the_edge(deployment, client)
            (event,) = [
                event
                for event in deployment.edge.fleet.events.newest()
                if event.kind == "session_lost"
            ]
            assert event.subject == plan(Traps.none()).backend


async def test_the_stray_answer_behind_a_resume_goes_nowhere(
    tmp_path: Path, heard: dict[str, list[RtspRequest]]
) -> None:
    """Launching the running app resumes it at the host, which answers that twice."""
    async with deployed(tmp_path, plan(Traps.wolf_2026())) as deployment:
        (client,) = await players(deployment, 1)
        await launch(client)
        (before,) = deployment.edge.keeper.table
        name = before.host_rtsp.host
        for _ in range(2):
            await launch(client)
        async with client.playing(await wish(client)) as playing:
            await see_only_their_own([playing])
            (session,) = deployment.edge.keeper.table
            assert session is before
            assert session.host_rtsp.host != name, "a new name at every resume"
        (messages,) = heard.values()
        assert {message.session_host for message in messages} == {session.host_rtsp.host}


async def test_pairings_at_a_host_that_keys_them_by_address_come_one_by_one(
    tmp_path: Path,
) -> None:
    """Somebody has left a pairing behind there: the host refuses the next one, once."""
    async with deployed(tmp_path, plan(Traps.wolf_2026(), HIDDEN)) as deployment:
        clients = await players(deployment, 2)
        host = deployment.hosts["one"]
        quitter = await LightClient.new(Target(host.address, host.http_port))

        async def hang_up(_pin: str) -> None:
            await until(lambda: bool(host.pending_pairings()))
            quitting.cancel()

        with trio.CancelScope() as quitting:
            await quitter.pair(hang_up)
        await until(lambda: not host.pending_pairings())
        with capture_logs() as logs:
            async with playing_together(clients) as playing:
                await see_only_their_own(playing)
        assert len(host.clients) == 2
        assert [log["event"] for log in logs].count("host_pairing_retried") == 1
