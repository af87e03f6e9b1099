"""What carrying media through the tunnel costs, and what it adds: ``python -m bench.relay``.

An edge and agents as they really run, over TLS on loopback, between a generator and a player that
are processes of their own. Each case runs several times, and figures are medians. The same
generator and player then run without anything between them, which is what latency is compared
with, and with other relays between them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import trio

from bench import baselines, machine
from bench.deployment import (
    Deployment,
    Layout,
    Process,
    agents_port,
    deployed,
    first_host_port,
    median,
    ports_per_session,
    python,
)
from bench.host import HostPlan, HostSession
from bench.player import PlayerPlan, PlayerSession

fps: Final = 60
usual_datagram_bytes: Final = 1_088
ready_timeout_s: Final = 60.0
result_timeout_s: Final = 60.0
settle_s: Final = 0.5
sessions_per_agent: Final = 50
relay_port: Final = 22_000
player_port: Final = 24_000
_host: Final = "127.0.0.1"

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Case:
    """One load."""

    sessions: int
    mbps: float
    datagram_bytes: int = usual_datagram_bytes
    audio: bool = False
    each: bool = False
    """The host sends a datagram a call, not a frame."""
    encrypted: bool = False
    """The edge encrypts video towards the clients."""

    @property
    def name(self) -> str:
        """What ``--case`` calls it."""
        text = f"{self.sessions}x{self.mbps:g}"
        if self.datagram_bytes != usual_datagram_bytes:
            text += f"x{self.datagram_bytes}"
        flags = "+audio" * self.audio + "+each" * self.each + "+encrypted" * self.encrypted
        return text + flags


cases: Final = (
    Case(1, 50),
    Case(20, 10),
    Case(100, 10),
    Case(20, 20, 1_408),
    Case(20, 10, each=True),
    Case(20, 10, audio=True),
    Case(1, 50, encrypted=True),
    Case(20, 10, encrypted=True),
)
quick_cases: Final = ("1x50", "20x10")
quick_baselines: Final = ("socat",)

_Baseline = Callable[
    [Path, list[Address], list[Address]], AbstractAsyncContextManager[baselines.Relay]
]
_baselines: Final[dict[str, _Baseline]] = {
    "naive": baselines.naive,
    "socat": baselines.socat,
    "nginx": baselines.nginx,
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What generator and player saw of one run."""

    sent: dict[str, Any]
    received: dict[str, Any]

    @property
    def datagrams(self) -> int:
        """How many datagrams the generator got rid of."""
        return int(self.sent["datagrams"] + self.sent["audio_datagrams"] - self.sent["not_sent"])

    @property
    def lost(self) -> int:
        """How many of them never came."""
        return self.datagrams - int(self.received["datagrams"] + self.received["audio_datagrams"])


async def run_traffic(
    host_plan: HostPlan, player_plan: PlayerPlan, before: Callable[[], None] = lambda: None
) -> Traffic:
    """Run generator and player once; `before` is called when all is ready to go."""
    player_process = Process.start("the player", python("bench.player"), player_plan.to_json())
    host_process = Process.start("the generator", python("bench.host"), host_plan.to_json())
    async with player_process as player:
        await player.line(ready_timeout_s)
        async with host_process as host:
            await host.line(ready_timeout_s)
            await trio.sleep(settle_s)
            before()
            await host.say("go")
            sent = json.loads(await host.line(host_plan.seconds + result_timeout_s))
        await player.say("stop")
        return Traffic(sent, json.loads(await player.line(result_timeout_s)))


async def run_tunnel(case: Case, seconds: float) -> dict[str, Any]:
    """Run a case through an edge and agents."""
    agents = -(-case.sessions // sessions_per_agent)
    with tempfile.TemporaryDirectory(prefix="moonhost-bench-") as folder:
        layout = Layout(
            folder=Path(folder),
            sessions=case.sessions,
            agents=agents,
            audio=case.audio,
            encrypted=case.encrypted,
        )
        async with deployed(layout) as deployment:
            usage: list[tuple[machine.Usage, machine.Usage, int]] = []

            def note() -> None:
                tunnel_bytes = _tunnel_bytes()
                usage.append((deployment.edge_usage(), deployment.agent_usage(), tunnel_bytes))

            host_plan, player_plan = _plans(case, seconds, deployment)
            traffic = await run_traffic(host_plan, player_plan, note)
            note()
    (edge, agent, tunnel_bytes), (edge_after, agent_after, tunnel_bytes_after) = usage
    edge_s, agent_s = edge_after.since(edge), agent_after.since(agent)
    payload = case.datagram_bytes * traffic.sent["datagrams"]
    if case.audio:
        payload += traffic.sent["audio_datagrams"] * 80
    return {
        "edge_us_per_datagram": edge_s / traffic.datagrams * 1e6,
        "agent_us_per_datagram": agent_s / traffic.datagrams * 1e6,
        "edge_cores": edge_s / seconds,
        "agent_cores": agent_s / seconds,
        "lost": traffic.lost,
        "overhead_percent": (tunnel_bytes_after - tunnel_bytes) / payload * 100 - 100,
        "edge_rss_mb": edge_after.rss_bytes / 1e6,
        "agent_rss_mb": agent_after.rss_bytes / 1e6,
        "frames_skipped": traffic.sent["frames_skipped"],
        **_times(traffic),
    }


async def run_direct(case: Case, seconds: float) -> dict[str, Any]:
    """Run a case with nothing between generator and player."""
    clients = _ports(player_port, case.sessions)
    traffic = await run_traffic(*_plain_plans(case, seconds, clients, clients))
    return {"lost": traffic.lost, **_times(traffic)}


async def run_baseline(name: str, case: Case, seconds: float) -> dict[str, Any]:
    """Run a case through another relay."""
    relays, clients = _ports(relay_port, case.sessions), _ports(player_port, case.sessions)
    with tempfile.TemporaryDirectory(prefix="moonhost-bench-") as folder:
        async with _baselines[name](Path(folder), relays, clients) as relay:
            used: list[float] = []
            host_plan, player_plan = _plain_plans(case, seconds, relays, clients)
            traffic = await run_traffic(host_plan, player_plan, lambda: used.append(relay.cpu_s()))
            used.append(relay.cpu_s())
    return {
        "us_per_datagram": (used[1] - used[0]) / traffic.datagrams * 1e6,
        "lost": traffic.lost,
        **_times(traffic),
    }


def _times(traffic: Traffic) -> dict[str, Any]:
    return {key: traffic.received[key] for key in ("p50_ms", "p99_ms", "max_ms")}


def _ports(first: int, count: int) -> list[Address]:
    return [(_host, first + index) for index in range(count)]


def _plans(case: Case, seconds: float, deployment: Deployment) -> tuple[HostPlan, PlayerPlan]:
    host = HostPlan(
        deployment.host_sessions, case.mbps, fps, case.datagram_bytes, seconds, not case.each
    )
    return host, PlayerPlan(deployment.player_sessions, case.mbps, fps, case.datagram_bytes)


def _plain_plans(
    case: Case, seconds: float, to: list[Address], clients: list[Address]
) -> tuple[HostPlan, PlayerPlan]:
    """Plans for video alone, from fixed addresses to fixed addresses, with no pings."""
    hosts = tuple(
        HostSession(_host, first_host_port + index * ports_per_session, to=address)
        for index, address in enumerate(to)
    )
    players = tuple(PlayerSession(_host, None, local_port=port) for _, port in clients)
    host = HostPlan(hosts, case.mbps, fps, case.datagram_bytes, seconds, not case.each)
    return host, PlayerPlan(players, case.mbps, fps, case.datagram_bytes)


def _tunnel_bytes() -> int:
    """Return how many bytes agents have sent on their connections to the edge so far."""
    shown = subprocess.run(  # noqa: S603 - a fixed command
        ["ss", "-tinH", f"dport = :{agents_port}"],  # noqa: S607 - wherever it is installed
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words = (word.partition(":") for word in shown.split())
    return sum(int(value) for name, _, value in words if name == "bytes_sent")


async def measure(case: Case, seconds: float, runs: int, names: list[str]) -> dict[str, Any]:
    """Run a case with its direct path and baselines, in turns so that noise hits all alike."""
    tunnel: list[dict[str, Any]] = []
    direct: list[dict[str, Any]] = []
    others: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(1, runs + 1):
        print(f"  {case.name}: run {number} of {runs} ...", file=sys.stderr, flush=True)
        tunnel.append(await run_tunnel(case, seconds))
        direct.append(await run_direct(replace(case, audio=False), seconds))
        for name in names:
            others[name].append(await run_baseline(name, replace(case, audio=False), seconds))
    found, path = median(tunnel), median(direct)
    return {
        "case": case.name,
        "sessions": case.sessions,
        "mbps": case.mbps,
        "datagram_bytes": case.datagram_bytes,
        **{key: _rounded(value) for key, value in found.items()},
        "direct_p50_ms": _rounded(path["p50_ms"]),
        "direct_p99_ms": _rounded(path["p99_ms"]),
        "added_p50_ms": _rounded(found["p50_ms"] - path["p50_ms"]),
        "added_p99_ms": _rounded(found["p99_ms"] - path["p99_ms"]),
        "added_max_ms": _rounded(found["max_ms"] - path["max_ms"]),
        "baselines": {
            name: {key: _rounded(value) for key, value in median(results).items()}
            for name, results in others.items()
        },
    }


def _rounded(value: float) -> float:
    return round(value, 3)


_columns: Final = (
    ("case", "case"),
    ("edge_us_per_datagram", "edge µs"),
    ("agent_us_per_datagram", "agent µs"),
    ("edge_cores", "edge cores"),
    ("agent_cores", "agents"),
    ("lost", "lost"),
    ("added_p50_ms", "added p50"),
    ("added_p99_ms", "p99"),
    ("added_max_ms", "max ms"),
    ("overhead_percent", "overhead %"),
    ("edge_rss_mb", "edge MB"),
)


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as text for people."""
    rows = [[title for _, title in _columns]]
    for result in results:
        rows.append([str(result[key]) for key, _ in _columns])
        for name, other in result["baselines"].items():
            added = _rounded(other["p50_ms"] - result["direct_p50_ms"])
            worse = _rounded(other["p99_ms"] - result["direct_p99_ms"])
            cpu, lost = str(other["us_per_datagram"]), str(other["lost"])
            rows.append([f"  {name}", cpu, "", "", "", lost, str(added), str(worse), "", "", ""])
    widths = [max(len(row[index]) for row in rows) for index in range(len(_columns))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


async def run(options: argparse.Namespace) -> None:
    """Run what the options say, and print it."""
    wanted = options.case or (quick_cases if options.quick else [case.name for case in cases])
    seconds = options.seconds or (2.0 if options.quick else 10.0)
    runs = options.runs or (1 if options.quick else 3)
    missing = baselines.missing()
    names = [name for name in _baselines if name not in missing]
    if options.no_baselines:
        names = []
    if options.quick:
        names = [name for name in names if name in quick_baselines]
    about = machine.describe()
    print(machine.heading(), file=sys.stderr)
    for name, why in missing.items():
        print(f"  without {name}: {why}", file=sys.stderr)
    results = [await measure(case, seconds, runs, names) for case in cases if case.name in wanted]
    about["load_after"] = round(os.getloadavg()[0], 2)
    if options.json:
        of_all = {"runs": runs, "seconds": seconds, "machine": about}
        print(json.dumps([{**result, **of_all} for result in results]))
    else:
        print(table(results))


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.relay", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--case", action="append", choices=[case.name for case in cases])
    parser.add_argument("--quick", action="store_true", help="a part of it, in under a minute")
    parser.add_argument("--runs", type=int, help="of each case; figures are their medians")
    parser.add_argument("--seconds", type=float, help="of each run")
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--json", action="store_true")
    trio.run(run, parser.parse_args())


if __name__ == "__main__":
    main()
