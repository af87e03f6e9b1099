"""What a stream looks like at the client when the tunnel's link is bad: ages, gaps, recovery.

``python -m bench.impaired`` runs an edge and the clients' side at one end of an emulated link, an
agent and the host's side at the other, so that the tunnel is all that crosses it. One stream of
20 Mbit/s at 60 frames a second is measured, and a control flow that the host echoes, once with
the product as it is (`bounded`) and once with an agent that lets everything wait (`unbounded`).

Ages are of whole frames at the client's socket, from the time they were made; ages and control
leave out the first two seconds, in which TCP finds out what the link carries; counts leave out
nothing. All figures are medians over the runs. It needs root; where it cannot run, it says why
and that it skips.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import trio

from bench import altered
from bench.deployment import Deployment, Layout, Process, deployed, edge_metrics, python
from bench.host import HostPlan
from bench.impaired_cases import Case, case_of, datagram_bytes, fps, mbps, names, quick_names
from bench.impaired_figures import (
    Observation,
    congestion_control_of,
    drops_told,
    figures,
    frames_of,
    late_at_edge,
    medians,
)
from bench.link_process import LinkReport
from bench.machine import describe, heading
from bench.player import PlayerPlan
from bench.wan import EmulatedWan, can_emulate, emulated_wan

queues: Final = ("bounded", "unbounded")
default_runs: Final = 3
run_s: Final = 26.0
"""BBR stops a stream every 10 s where it may: long enough to see that twice."""
quick_run_s: Final = 7.0
drain_s: Final = {"bounded": 1.0, "unbounded": 4.0}
"""How long what is on its way when the stream ends may take to arrive, by queue."""
ready_timeout_s: Final = 30.0
answer_timeout_s: Final = 30.0
run_grace_s: Final = 120.0


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    cases: tuple[str, ...]
    queues: tuple[str, ...]
    runs: int
    seconds: float
    congestion: str | None

    @property
    def each(self) -> list[tuple[str, str]]:
        """Every case with every queue."""
        return [(case, queue) for case in self.cases for queue in self.queues]


async def measure(options: Options) -> list[dict[str, Any]]:
    """Return the figures of every case and queue; progress goes to standard error.

    Raises `WanFailed`, `trio.TooSlowError`, or `RuntimeError` for what did not start.
    """
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {each: [] for each in options.each}
    # Each run of everything before the next: what else the machine does meets all alike.
    for number in range(1, options.runs + 1):
        for name, queue in options.each:
            case = case_of(name, options.seconds)
            seen = await observe(case, queue, options.seconds, number, options.congestion)
            found = figures(case, queue, seen)
            runs[name, queue].append(found)
            _say(f"run {number}: {'  '.join(_row(found))}")
    return [medians(found) for found in runs.values()]


async def observe(
    case: Case, queue: str, seconds: float, seed: int, congestion: str | None = None
) -> Observation:
    """Send one stream through the link. Raises as `measure` does."""
    up, down = case.ways(seed)
    with trio.fail_after(seconds + run_grace_s), tempfile.TemporaryDirectory() as folder:
        async with emulated_wan(up, down) as wan:
            layout = _layout(Path(folder), wan, queue, congestion)
            async with deployed(layout) as deployment, _ends(wan, deployment, seconds) as ends:
                host, player = ends
                before = _used(deployment)
                await wan.start_clock()
                start_s = time.monotonic()
                await host.say("go")
                sent = json.loads(await host.line(seconds + answer_timeout_s))
                took_s = time.monotonic() - start_s
                used = _used(deployment)
                sockets = await _sockets(wan)
                await trio.sleep(drain_s[queue])
                await player.say("stop")
                got = json.loads(await player.line(answer_timeout_s))
                link = await wan.counts()
                late = late_at_edge(await edge_metrics(layout))
        log = (layout.folder / "agent0.log").read_text()
    cpu = {f"{name}_cores": (used[name] - before[name]) / took_s for name in used}
    return Observation(
        start_s=start_s,
        frames_sent=sent["frames"],
        datagrams_sent=sent["datagrams"] - sent["not_sent"],
        datagrams_arrived=got["datagrams"],
        frames=frames_of(got["frames"]),
        control_ms=tuple((asked_s, ms) for asked_s, ms in got["control_ms"]),
        dropped={**drops_told(log), **late},
        congestion_control=congestion_control_of(sockets),
        link=_link_counts(link),
        cpu={**cpu, "link_cores": link.cpu_s / link.wall_s},
    )


def _layout(folder: Path, wan: EmulatedWan, queue: str, congestion: str | None) -> Layout:
    environment: tuple[tuple[str, str], ...] = ()
    if queue == "unbounded":
        environment += ((altered.unbounded_variable, "1"),)
    if congestion is not None:
        environment += ((altered.congestion_variable, congestion),)
    return Layout(
        folder=folder,
        sessions=1,
        edge_address=wan.near.address,
        control=True,
        # The session never ends; the edge need not wait for that before it stops.
        edge_settings="drain_timeout_s = 0.1",
        edge_prefix=tuple(wan.command(wan.near, [])),
        agent_prefix=tuple(wan.command(wan.far, [])),
        module=altered.module if environment else "moonhost",
        environment=environment,
    )


@asynccontextmanager
async def _ends(
    wan: EmulatedWan, deployment: Deployment, seconds: float
) -> AsyncIterator[tuple[Process, Process]]:
    """Run the host's and the player's side, ready to begin."""
    plans = (
        HostPlan(deployment.host_sessions, mbps, fps, datagram_bytes, seconds),
        PlayerPlan(deployment.player_sessions, mbps, fps, datagram_bytes),
    )
    at_host = wan.command(wan.far, python("bench.host"))
    at_player = wan.command(wan.near, python("bench.player"))
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(Process.start("host", at_host, plans[0].to_json()))
        player = await stack.enter_async_context(
            Process.start("player", at_player, plans[1].to_json())
        )
        for process in (player, host):
            if await process.line(ready_timeout_s) != "ready":
                raise RuntimeError("the host's or the player's side is not ready")
        yield host, player


def _used(deployment: Deployment) -> dict[str, float]:
    return {"edge": deployment.edge_usage().cpu_s, "agent": deployment.agent_usage().cpu_s}


async def _sockets(wan: EmulatedWan) -> str:
    """Return what the agent's kernel tells of its connections to the edge."""
    command = wan.command(wan.far, ["ss", "-Htin", "dst", wan.near.address])
    told = await trio.run_process(command, capture_stdout=True, check=False)
    return told.stdout.decode()


def _link_counts(link: LinkReport) -> dict[str, Any]:
    return {
        "to_agent": asdict(link.up),
        "to_edge": asdict(link.down),
        "late_p99_us": link.late_p99_us,
        "late_max_us": link.late_max_us,
        "overflowed": link.overflowed,
        "refused": link.refused,
    }


_columns: Final = (
    *("case", "queue", "rtt", "age p50", "p99", "max", "sent", "whole", "partial", "never"),
    *("parity", "stale", "overfull", "late", "other", "control p99", "recovery", "burst", "cc"),
    *("link lost", "late p99 us", "edge", "agent"),
)


def table(cases: Sequence[dict[str, Any]]) -> str:
    """Tell all figures to people, a line a case."""
    rows = [_columns, *map(_row, cases)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_columns))]
    lines = [
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, _legend])


_legend: Final = """\
rtt, age, control and recovery in ms; sent, whole, partial, never (arrived): frames; parity, stale,
overfull: datagrams dropped by the agent, late: by the edge, other: neither dropped nor arrived;
burst: most frames within 16 ms after a blackout; link lost: packets, towards the edge; edge, agent:
cores."""


def _row(case: dict[str, Any]) -> tuple[str, ...]:
    dropped, link = case["dropped"], case["link"]
    lost = sum(link["to_edge"][why] for why in ("lost_random", "lost_queue", "lost_blackout"))
    numbers = (
        *(case["rtt_ms"], case["age_p50_ms"], case["age_p99_ms"], case["age_max_ms"]),
        *(case["frames_sent"], case["frames_whole"], case["frames_partial"]),
        *(dropped["frames_never_arrived"], dropped["flow_parity"], dropped["flow_stale"]),
        *(dropped["flow_overfull"], dropped["late"], dropped["datagrams_unaccounted"]),
        *(case["control_p99_ms"], case["recovery_ms"], case["burst_frames"]),
    )
    cpu = (case["cpu"]["edge_cores"], case["cpu"]["agent_cores"])
    return (
        case["case"],
        case["queue"],
        *("-" if number is None else f"{number:.0f}" for number in numbers),
        case["congestion_control"],
        f"{lost:.0f}",
        f"{link['late_p99_us']:.0f}",
        *(f"{cores:.2f}" for cores in cpu),
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one run")
    return number


def options_of(arguments: Sequence[str] | None) -> tuple[Options, bool]:
    """Read the command line: what to measure, and whether to tell it as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.impaired",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--case", nargs="+", action="extend", choices=names, metavar="NAME", help=", ".join(names))
    add("--queue", nargs="+", choices=queues, metavar="QUEUE", help=" or ".join(queues))
    add("--quick", action="store_true", help="one short run of the telling cases, bounded")
    add("--runs", type=_positive, help=f"of each case; default: {default_runs}")
    add("--congestion", choices=("bbr", "cubic", "reno"), help="of the agent, not the product's")
    add("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args(arguments)
    options = Options(
        cases=tuple(given.case or (quick_names if given.quick else names)),
        queues=tuple(given.queue or (queues[:1] if given.quick else queues)),
        runs=given.runs or (1 if given.quick else default_runs),
        seconds=quick_run_s if given.quick else run_s,
        congestion=given.congestion,
    )
    return options, given.json


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, and tell it."""
    options, as_json = options_of(arguments)
    machine = describe()
    if reason := can_emulate():
        _say(f"Skipped, nothing was measured: {reason}")
        if as_json:
            print(json.dumps([]))
        return
    if not as_json:
        print(heading(), flush=True)
    cases = trio.run(measure, options)
    if as_json:
        print(json.dumps([{**case, "machine": machine} for case in cases]))
    else:
        print(table(cases))


if __name__ == "__main__":
    main()
