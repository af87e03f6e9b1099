"""The load test through a whole deployment: light clients, an edge, an agent, a host."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from moonhost.loadtest import Arena, LoadOptions, LoadTest
from simulator.config import Traps
from tests.e2e.deployment import Deployment, HostPlan, deployed, start_timeout_s
from tests.waiting import until

enough = 0.9
"""Share of the pictures that a busy machine still brings."""


def options(sessions: int = 3, seconds: float = 1.0, app: str | None = None) -> LoadOptions:
    return LoadOptions(
        sessions=sessions,
        mbps=1.0,
        seconds=seconds,
        as_json=False,
        mode="320x200x30",
        app=app,
        edge=None,
        config=None,
    )


def arena(deployment: Deployment) -> Arena:
    listen = deployment.config.listen
    return Arena("127.0.0.1", listen.http_port, deployment.config, outlives_us=True)


@pytest.mark.parametrize("traps", [Traps.wolf_2026(), Traps.wolf_2024()], ids=["wolf", "2024"])
async def test_three_sessions_play_and_leave_nothing_behind(tmp_path: Path, traps: Traps) -> None:
    async with deployed(tmp_path, HostPlan(traps=traps, picture="noise")) as deployment:
        async with deployment.admin() as admin:
            report = await LoadTest(options(app="Snow"), arena(deployment), admin).run()

            assert await admin.get("/api/v1/clients") == []
        assert (report.played, report.failed) == (3, {})
        assert report.frames_expected == 90
        assert report.frames_whole >= enough * 90
        assert report.audio_packets > 0
        assert report.foreign == 0
        assert report.launch_p50_ms is not None
        assert report.control_p99_ms is not None
        assert await deployment.sessions() == []
        assert deployment.hosts["one"].sessions() == ()


async def test_what_an_edge_refuses_is_counted_and_the_others_play(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan(picture="noise", max_sessions=2)) as deployment:
        async with deployment.admin() as admin:
            report = await LoadTest(options(), arena(deployment), admin).run()
        assert (report.played, report.failed) == (2, {"launch_host_refused": 1})
        assert not report.passed


async def test_an_app_that_is_not_there_fails_every_session(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with deployed(tmp_path, HostPlan(picture="noise")) as deployment:
        async with deployment.admin() as admin:
            report = await LoadTest(options(app="Chess"), arena(deployment), admin).run()
        assert (report.played, report.failed) == (0, {"no_such_app": 3})
        assert "it has: Snow, Test ball" in capsys.readouterr().err


async def test_a_load_test_that_is_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan(picture="noise")) as deployment:
        async with deployment.admin() as admin, trio.open_nursery() as nursery:
            load = LoadTest(options(seconds=3600.0), arena(deployment), admin)
            nursery.start_soon(load.run)
            await until_all_stream(deployment, 3)
            assert len(await admin.get("/api/v1/clients")) == 3

            nursery.cancel_scope.cancel()

        assert await deployment.sessions() == []
        assert deployment.hosts["one"].sessions() == ()
        async with deployment.admin() as admin:
            assert await admin.get("/api/v1/clients") == []


async def until_all_stream(deployment: Deployment, count: int) -> None:
    async def all_stream() -> bool:
        states = [session["state"] for session in await deployment.sessions()]
        return states == ["streaming"] * count

    await until(all_stream, start_timeout_s)
