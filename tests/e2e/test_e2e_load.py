"""The load test through a whole deployment: light clients, an edge, an agent, a host."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from moonhost.load_arena import Arena
from moonhost.load_options import LoadOptions
from moonhost.loadtest import LoadTest
from simulator.config import Traps
from tests.e2e.deployment import Deployment, HostPlan, deployed, start_timeout_s
from tests.waiting import until

command_timeout_s = 60.0
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

            assert await admin.get_all("/api/v1/clients") == []
        assert (report.played, report.failed) == (3, {})
        assert report.frames_expected == 90
        assert report.frames_whole >= enough * 90
        assert report.audio_packets > 0
        assert report.foreign == 0
        assert (report.own_video, report.own_audio, report.own_control) == (3, 3, 3)
        assert (report.mixed_up, report.refused) == (0, 0)
        assert report.launch_p50_ms is not None
        assert report.control_p99_ms is not None
        assert await deployment.sessions() == []
        assert deployment.hosts["one"].sessions() == ()


async def test_what_an_edge_refuses_is_counted_and_the_others_play(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan(picture="noise", max_sessions=2)) as deployment:
        async with deployment.admin() as admin:
            report = await LoadTest(options(), arena(deployment), admin).run()
        assert (report.played, report.failed) == (2, {"launch_host_refused": 1})
        assert report.refused == 1
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
            assert len(await admin.get_all("/api/v1/clients")) == 3

            nursery.cancel_scope.cancel()

        assert await deployment.sessions() == []
        assert deployment.hosts["one"].sessions() == ()
        async with deployment.admin() as admin:
            assert await admin.get_all("/api/v1/clients") == []


async def until_all_stream(deployment: Deployment, count: int) -> None:
    async def all_stream() -> bool:
        states = [session["state"] for session in await deployment.sessions()]
        return states == ["streaming"] * count

    await until(all_stream, start_timeout_s)


async def test_the_command_starts_what_it_needs_and_tells_it_as_json() -> None:
    load = ("--sessions", "1", "--mbps", "1", "--seconds", "1", "--mode", "320x200x30")
    with trio.fail_after(command_timeout_s):
        done = await trio.run_process(
            [sys.executable, "-m", "moonhost", "loadtest", *load, "--json"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    told = json.loads(done.stdout)
    assert (told["sessions"], told["played"], told["failed"]) == (1, 1, {})
    for who in ("edge", "agent", "host", "client"):
        assert told[f"{who}_cores"] >= 0
    assert b"1 of 1 sessions play." in done.stderr
    assert b"Traceback" not in done.stderr


async def test_the_command_asks_whether_a_crowd_is_kept_apart() -> None:
    crowd = ("--sessions", "4", "--one-address", "--seconds", "2")
    with trio.fail_after(command_timeout_s):
        done = await trio.run_process(
            [sys.executable, "-m", "moonhost", "loadtest", *crowd, "--json"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["sessions"], told["own_video"], told["own_audio"], told["own_control"]) == (
        *(4, 4),
        *(4, 4),
    )
    assert (told["mixed_up"], told["refused"]) == (0, 0)
    assert b"4 with picture, 4 with sound, 4 with control" in done.stderr


async def test_the_command_stops_cleanly_when_it_is_interrupted() -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "moonhost", "loadtest", "--sessions", "1", "--seconds", "3600"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = b""
    try:
        with trio.fail_after(command_timeout_s):
            async with process.stderr:
                while b"Measuring" not in said:
                    said += bytes(await process.stderr.receive_some())
                process.send_signal(signal.SIGINT)
                async for chunk in process.stderr:
                    said += chunk
            assert await process.wait() == 1
    finally:
        process.kill()
    assert b"interrupted; everything it began has ended." in said
    assert b"Traceback" not in said
