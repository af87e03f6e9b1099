"""Clients that get another port or another address while they play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from moonlight.flows import Flow
from simulator.light_client import Playing, StreamWish
from tests.e2e.deployment import Deployment, HostPlan, deployed
from tests.e2e.light_player import Player
from tests.e2e.nat import CLIENT, EDGE, CannotEmulate, nat
from tests.e2e.own_process import passed_in_own_process
from tests.e2e.real_client import RealClient
from tests.waiting import until

fps = 30
most_lost_frames = 3 * fps
"""Its second ping brings the picture back after a second at most; the rest is for slow machines."""
play_s = 16.0
after_s = 12.0
"""Clients give up after 10 s without an answer."""


def flows(deployment: Deployment) -> dict[Flow, str]:
    (session,) = deployment.edge.keeper.table
    return {flow.kind: str(flow.bound_to) for flow in deployment.edge.media.flows_of(session.id)}


async def until_followed(deployment: Deployment, before: dict[Flow, str], ip: str) -> None:
    def followed() -> bool:
        now = flows(deployment)
        return all(now[kind] != before[kind] and now[kind].startswith(ip) for kind in Flow)

    await until(followed)


async def until_alive(playing: Playing) -> None:
    """Wait until picture, sound and control have all been there since now."""
    before = playing.figures()

    def alive() -> bool:
        now = playing.figures()
        return (
            now.frames_whole > before.frames_whole + 10
            and now.audio_packets > before.audio_packets + 10
            and len(now.control_round_trips_ms) > len(before.control_round_trips_ms) + 3
        )

    await until(alive)


@pytest.mark.parametrize("source", [None, "127.11.0.2"], ids=["new ports", "new address"])
async def test_a_client_that_moves_goes_on_playing(tmp_path: Path, source: str | None) -> None:
    async with deployed(tmp_path, HostPlan(picture="noise")) as deployment:
        anna = await Player.at(deployment, "127.11.0.1")
        (app, *_) = await anna.client.apps()
        wish = StreamWish(app_id=app.id, mode=f"320x200x{fps}", bitrate_kbps=500)
        async with anna.client.playing(wish) as playing:
            await until_alive(playing)
            before = flows(deployment)
            playing.begin()

            playing.move(source)

            await until_followed(deployment, before, source or "127.11.0.1")
            await until_alive(playing)
            figures = playing.figures()
            assert figures.frames_lost <= most_lost_frames
            assert (figures.frames_foreign, figures.audio_foreign) == (0, 0)
            (session,) = await deployment.sessions()
            assert session["client_address"] == (source or "127.11.0.1")
            assert session["state"] == "streaming"
            (record,) = deployment.edge.keeper.table
            control = flows(deployment)[Flow.CONTROL].rpartition(":")
            assert record.control_client == (control[0], int(control[2]))


async def test_a_moved_client_is_found_again_by_an_edge_that_restarts(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan(picture="noise")) as deployment:
        anna = await Player.at(deployment, "127.11.0.1")
        (app, *_) = await anna.client.apps()
        wish = StreamWish(app_id=app.id, mode=f"320x200x{fps}", bitrate_kbps=500)
        async with anna.client.playing(wish) as playing:
            before = flows(deployment)
            playing.move("127.11.0.2")
            await until_followed(deployment, before, "127.11.0.2")
            await deployment.restart_edge()
            await deployment.wait_for_backends(1)
            # Ports that no edge has ever seen, and an address that only the last one knew.
            playing.move()
            await until_followed(deployment, dict.fromkeys(Flow, ""), "127.11.0.2")
            await until_alive(playing)


@pytest.mark.client
async def test_a_real_client_does_not_notice_that_its_nat_has_forgotten_it(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if await passed_in_own_process(request):
        return
    try:
        emulated = nat("20000-20999")
        with emulated as router:
            async with deployed(tmp_path, HostPlan(), listen="0.0.0.0") as deployment:
                client = RealClient(
                    tmp_path / "client", deployment.config.listen.http_port, EDGE, router.behind
                )
                await deployment.pair(client, "4711471147")
                picture = trio.Event()
                results: list[Any] = []

                def note(event: dict[str, Any]) -> None:
                    if event["event"] == "picture":
                        picture.set()

                async def play() -> None:
                    action = ("stream", "--app", "Test ball", "--seconds", str(play_s))
                    results.append(await client.run(*action, on_event=note))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(play)
                    await picture.wait()
                    before = flows(deployment)
                    assert all("10.213.0.2:20" in where for where in before.values())
                    router.forget(ports="30000-30999")
                    await until_followed(deployment, before, "10.213.0.2:30")
                    same_address = flows(deployment)
                    router.forget(ports="40000-40999", public="10.213.0.3")
                    await until_followed(deployment, same_address, "10.213.0.3:40")
                    forgotten_at = trio.current_time()
                assert trio.current_time() - forgotten_at > after_s
                assert CLIENT not in flows(deployment)[Flow.VIDEO]
                (result,) = results
                assert not result["terminated"]
                assert result["frames_decoded"] >= 0.6 * result["frames_expected"]
                (session,) = await deployment.sessions()
                assert session["client_address"] == "10.213.0.3"
    except CannotEmulate as error:
        pytest.skip(f"no NAT can be emulated here: {error}")
