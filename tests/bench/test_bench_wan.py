"""The emulated WAN is as long as asked, starts its clock when told, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
import trio

from bench.link_model import Blackout, LinkConfig, LinkCounts
from bench.wan import EmulatedWan, WanFailed, can_emulate, emulated_wan
from bench.wan_check import Check, measure_echoes

ROOT = Path(__file__).parent.parent.parent
obstacle = can_emulate()
needs_wan = pytest.mark.skipif(obstacle is not None, reason=str(obstacle))
plain = LinkConfig()
# Opens a WAN with something running in it, tells the names of its ends, and waits to be stopped.
holder = """
import trio
from bench.link_model import LinkConfig
from bench.wan import emulated_wan

async def hold():
    async with emulated_wan(LinkConfig(), LinkConfig()) as wan:
        await trio.lowlevel.open_process(wan.command(wan.far, ["sleep", "600"]))
        print(wan.near.name, wan.far.name, flush=True)
        await trio.sleep(600)

trio.run(hold)
"""


def left_behind(wan: EmulatedWan) -> list[str]:
    names = (wan.near.name, wan.far.name)
    return existing(names) + ["the link's process"] * Path(f"/proc/{wan.link_pid}").exists()


def existing(names: Iterable[str]) -> list[str]:
    return [name for name in names if Path("/run/netns", name).exists()]


@needs_wan
async def test_an_echo_through_20_ms_each_way_takes_40_ms_or_more() -> None:
    echoes = await measure_echoes(LinkConfig(delay_ms=20), seconds=0.2, load_mbps=0)
    assert echoes.probes == 100
    assert echoes.rtt_min_ms >= 40
    assert (echoes.loss_up, echoes.loss_down) == (0, 0)
    assert echoes.link.up.delivered >= 100
    assert (echoes.link.overflowed, echoes.link.refused) == (0, 0)


async def send_up(wan: EmulatedWan) -> LinkCounts:
    """Send one datagram from near to far; what became of all until now."""
    send = f"import socket; socket.socket(2, 2).sendto(b'hello', ('{wan.far.address}', 9))"
    await trio.run_process(wan.command(wan.near, [sys.executable, "-c", send]))
    return (await wan.counts()).up


@needs_wan
async def test_a_blackout_at_0_s_begins_with_the_clock() -> None:
    with trio.fail_after(30):
        async with emulated_wan(LinkConfig(blackouts=(Blackout(0, 600),)), plain) as wan:
            before = await send_up(wan)
            await wan.start_clock()
            after = await send_up(wan)
    assert (before.delivered, before.lost_blackout) == (1, 0)
    assert (after.delivered, after.lost_blackout) == (1, 1)


@needs_wan
async def test_nothing_crosses_the_link_that_nobody_sent() -> None:
    async with emulated_wan(plain, plain) as wan:
        await trio.run_process(wan.command(wan.far, ["true"]))
        counts = await wan.counts()
    assert (counts.up.delivered, counts.down.delivered) == (0, 0)


@needs_wan
async def test_nothing_is_left_at_the_end_nor_after_an_error_or_a_cancellation() -> None:
    async with emulated_wan(plain, plain) as orderly:
        assert len(left_behind(orderly)) == 3
    assert left_behind(orderly) == []
    with pytest.raises(ZeroDivisionError):
        async with emulated_wan(plain, plain) as failing:
            raise ZeroDivisionError
    assert left_behind(failing) == []
    with trio.CancelScope() as scope:
        async with emulated_wan(plain, plain) as cancelled:
            scope.cancel()
            await trio.sleep_forever()
    assert left_behind(cancelled) == []


async def ask_until_it_fails(wans: list[EmulatedWan], *, kill: bool, max_seconds: float) -> None:
    async with emulated_wan(plain, plain, max_seconds=max_seconds) as wan:
        wans.append(wan)
        if kill:
            os.kill(wan.link_pid, signal.SIGKILL)
        while True:
            await wan.counts()


@needs_wan
@pytest.mark.parametrize(("kill", "max_seconds"), [(True, 600.0), (False, 0.01)])
async def test_nothing_is_left_after_the_link_is_killed_or_its_time_is_over(
    kill: bool, max_seconds: float
) -> None:
    wans: list[EmulatedWan] = []
    with trio.fail_after(30), pytest.raises(WanFailed, match="stopped"):
        await ask_until_it_fails(wans, kill=kill, max_seconds=max_seconds)
    assert left_behind(wans[0]) == []


@needs_wan
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_nothing_is_left_after_its_user_is_stopped(end: signal.Signals) -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", holder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=str(ROOT),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdout, process.stderr:
        with trio.fail_after(60):
            try:
                told = b""
                while not told.endswith(b"\n") and (data := await process.stdout.receive_some()):
                    told += data
                names = told.decode().split()
                assert len(names) == 2
                assert existing(names) == names
                process.send_signal(end)
                # Ends when all that inherited it have: the user, the link, what ran inside.
                async for _ in process.stderr:
                    pass
            finally:
                process.kill()
                await process.wait()
    assert existing(names) == []


@needs_wan
async def test_the_command_tells_what_was_asked_and_measured() -> None:
    words = ["--delay-ms", "5", "--rate-mbps", "20", "--load-mbps", "1", "--seconds", "0.3"]
    with trio.fail_after(120):
        told = await trio.run_process(
            [sys.executable, "-m", "bench.wan", *words, "--json"],
            capture_stdout=True,
            cwd=str(ROOT),
        )
    check = msgspec.json.decode(told.stdout, type=Check)
    assert check.asked == LinkConfig(delay_ms=5, rate_mbps=20)
    assert check.echoes.rtt_min_ms >= check.echoes.asked_rtt_ms > 10
    assert check.bulk.asked_mbps is not None
    assert 0 < check.bulk.mbps < check.bulk.asked_mbps * 1.01
    assert check.bulk.link.up.largest_packet_bytes == 1500
    assert check.echoes_under_load is not None
    assert check.echoes_under_load.rtt_min_ms >= check.echoes.asked_rtt_ms


async def test_where_there_can_be_no_wan_one_sentence_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    reason = can_emulate()
    assert reason is not None
    assert "iproute2" in reason
    with pytest.raises(WanFailed, match="iproute2"):
        async with emulated_wan(plain, plain):
            pass
