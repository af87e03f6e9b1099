"""What agents cost that do nothing, and how soon they are back: ``python -m bench.idle``.

An edge as it really runs, and agents as they really dial, over TLS on loopback, some hundreds of
them in a process. Once all are connected, the edge's memory and CPU are theirs. Then the edge is
killed and started again at once, twice: the agents come back each from an address of its own, and
then all from one, where the edge's limits per address hold them up.

`back_seconds` counts from the moment the new edge says that it has started until the last agent is
welcomed, `back_from_kill_s` from the kill. Agents wait between their attempts as they always do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import trio

from bench import machine
from bench.deployment import (
    Layout,
    Process,
    agents_certificate,
    agents_port,
    edge_log,
    edge_metrics,
    median,
    prepare,
    python,
    running_edge,
)
from bench.idle_agents import IdleAgent, IdlePlan, again_own, again_shared, noted, source_of

default_agents: Final = 1_000
quick_agents: Final = 200
default_runs: Final = 3
agents_per_process: Final = 500
settle_s: Final = 2.0
idle_s: Final = 22.0
"""Longer than both the interval of heartbeats and that of pings."""
lasting_s: Final = 10.5
"""After which an agent that loses the edge takes its first attempt for the first again."""
return_timeout_s: Final = 180.0
_default_max_agents: Final = 1_024


class IdleAgents:
    """The agents' processes."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = processes

    @classmethod
    @asynccontextmanager
    async def start(cls, plans: Sequence[IdlePlan]) -> AsyncIterator[IdleAgents]:
        """Dial with all of them; they go on until the end of the block."""
        async with AsyncExitStack() as stack:
            command = python("bench.idle_agents")
            processes = [
                await stack.enter_async_context(
                    Process.start(f"agents {number}", command, plan.to_json())
                )
                for number, plan in enumerate(plans)
            ]
            yield cls(processes)

    def usage(self) -> machine.Usage:
        """Return what they have used together."""
        return machine.usage_of_all([process.pid for process in self._processes])

    async def all_welcomed(self) -> list[float]:
        """Return when each of them was welcomed, once all are connected."""
        times: list[float] = []
        for process in self._processes:
            times += json.loads(await process.line(return_timeout_s))
        return sorted(times)

    async def expect_again(self, how: str) -> None:
        """Let `all_welcomed` be about who comes back from now on."""
        for process in self._processes:
            await process.say(how)
            if json.loads(await process.line(return_timeout_s)) != noted:
                raise RuntimeError("an agent lost the edge before the edge was killed")


@dataclass(frozen=True, slots=True)
class Return:
    """How all agents came back to an edge that was killed; times of the wall clock."""

    killed_at: float
    started_at: float
    """When the new edge said so."""
    welcomed_at: Sequence[float]
    start_cpu_s: float
    """What the new edge had used when it said so, or a moment later."""
    cpu_s: float
    """What it had used when all were back."""
    agents_cpu_s: float
    turned_away: float
    """Attempts that it refused because too many were being let in."""

    def figures(self, name: str) -> dict[str, float]:
        """Return what it comes to."""
        after_s = [at - self.started_at for at in self.welcomed_at]
        percentiles = statistics.quantiles(after_s, n=100, method="inclusive")
        return {
            f"{name}_seconds": max(after_s),
            f"{name}_p50_s": percentiles[49],
            f"{name}_p99_s": percentiles[98],
            f"{name}_from_kill_s": max(self.welcomed_at) - self.killed_at,
            f"{name}_edge_down_s": self.started_at - self.killed_at,
            f"{name}_edge_cpu_s": self.cpu_s - self.start_cpu_s,
            f"{name}_edge_start_cpu_s": self.start_cpu_s,
            f"{name}_agents_cpu_s": self.agents_cpu_s,
            f"{name}_turned_away": self.turned_away,
        }


async def run_once(agents: int) -> dict[str, float]:
    """Return the figures of one edge's life, and of its two next ones."""
    with tempfile.TemporaryDirectory(prefix="moonhost-bench-") as folder:
        layout = Layout(
            folder=Path(folder),
            sessions=0,
            agents=agents,
            max_agents=max(agents, _default_max_agents),
        )
        _, tokens = await prepare(layout)
        async with AsyncExitStack() as stack:
            async with running_edge(layout) as edge:
                await trio.sleep(settle_s)
                before = machine.memory_of(edge.pid)
                connected = await stack.enter_async_context(
                    IdleAgents.start(plans(tokens, layout.edge_address, agents_certificate(layout)))
                )
                welcomed_at = await connected.all_welcomed()
                found = {"first_up_s": welcomed_at[-1] - welcomed_at[0]}
                await trio.sleep(settle_s)
                found |= await _idle(edge, connected)
                found |= _memory("edge", before, machine.memory_of(edge.pid), agents)
                killed_at = await _kill(edge, connected, again_own)
            async with running_edge(layout) as edge:
                found |= (await _return(edge, layout, connected, killed_at)).figures("back")
                await trio.sleep(lasting_s)
                found |= _memory("edge_after_back", before, machine.memory_of(edge.pid), agents)
                killed_at = await _kill(edge, connected, again_shared)
            async with running_edge(layout) as edge:
                found |= (await _return(edge, layout, connected, killed_at)).figures("back_shared")
    return found


def plans(tokens: Sequence[str], edge: str, ca_file: Path) -> list[IdlePlan]:
    """Return what each process of agents does, for agents with these tokens."""
    agents = [
        IdleAgent(f"agent{index}", token, source_of(index)) for index, token in enumerate(tokens)
    ]
    return [
        IdlePlan(
            f"wss://{edge}:{agents_port}",
            str(ca_file),
            tuple(agents[first : first + agents_per_process]),
        )
        for first in range(0, len(agents), agents_per_process)
    ]


async def _idle(edge: trio.Process, agents: IdleAgents) -> dict[str, float]:
    start_s = time.monotonic()
    edge_before, agents_before = machine.usage_of(edge.pid), agents.usage()
    await trio.sleep(idle_s)
    took_s = time.monotonic() - start_s
    return {
        "idle_edge_cores": machine.usage_of(edge.pid).since(edge_before) / took_s,
        "idle_agents_cores": agents.usage().since(agents_before) / took_s,
    }


def _memory(
    name: str, before: machine.Memory, after: machine.Memory, agents: int
) -> dict[str, float]:
    return {
        f"{name}_bytes_per_agent": (after.rss_bytes - before.rss_bytes) / agents,
        f"{name}_heap_bytes_per_agent": (after.anonymous_bytes - before.anonymous_bytes) / agents,
        f"{name}_rss_bytes": after.rss_bytes,
    }


async def _kill(edge: trio.Process, agents: IdleAgents, how: str) -> float:
    """Kill the edge, and tell when; the block it runs in has to end at once."""
    await agents.expect_again(how)
    killed_at = time.time()
    edge.kill()
    return killed_at


async def _return(
    edge: trio.Process, layout: Layout, agents: IdleAgents, killed_at: float
) -> Return:
    at_start, agents_at_start = machine.usage_of(edge.pid), agents.usage()
    welcomed_at = await agents.all_welcomed()
    at_end, agents_at_end = machine.usage_of(edge.pid), agents.usage()
    log = await trio.Path(edge_log(layout)).read_text()
    told = await edge_metrics(layout)
    return Return(
        killed_at=killed_at,
        started_at=started_at(log),
        welcomed_at=welcomed_at,
        start_cpu_s=at_start.cpu_s,
        cpu_s=at_end.cpu_s,
        agents_cpu_s=agents_at_end.since(agents_at_start),
        turned_away=told.get('moonhost_tunnel_refusals_total{reason="too_many_waiting"}', 0.0),
    )


def started_at(log: str) -> float:
    """Return when an edge started, in seconds of the wall clock, from its log.

    Raises:
        ValueError: it does not say.

    """
    for line in log.splitlines():
        if '"edge_started"' in line:
            return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
    raise ValueError("this edge's log does not say when it started")


_rows: Final = (
    ("KiB per idle agent at the edge", "edge_bytes_per_agent", 1 / 1024),
    ("  of that heap, by smaps_rollup", "edge_heap_bytes_per_agent", 1 / 1024),
    ("  after they came back", "edge_after_back_bytes_per_agent", 1 / 1024),
    ("edge cores while all are idle", "idle_edge_cores", 1),
    ("s until all are back, from the new edge's start", "back_seconds", 1),
    ("  99 % of them", "back_p99_s", 1),
    ("  half of them", "back_p50_s", 1),
    ("  from the kill", "back_from_kill_s", 1),
    ("  CPU s of the edge, from its start", "back_edge_cpu_s", 1),
    ("  CPU s of the agents", "back_agents_cpu_s", 1),
    ("  attempts turned away", "back_turned_away", 1),
    ("s until all are back from one address", "back_shared_seconds", 1),
    ("  99 % of them", "back_shared_p99_s", 1),
    ("  from the kill", "back_shared_from_kill_s", 1),
    ("  CPU s of the edge, from its start", "back_shared_edge_cpu_s", 1),
    ("  attempts turned away", "back_shared_turned_away", 1),
)


def table(found: dict[str, Any]) -> str:
    """Return the figures as text for people."""
    return "\n".join(f"{found[key] * scale:10.3f}  {title}" for title, key, scale in _rows)


async def measure(agents: int, runs: int) -> list[dict[str, float]]:
    """Return the figures of each run; progress goes to standard error."""
    results: list[dict[str, float]] = []
    for number in range(1, runs + 1):
        print(f"  {agents} agents: run {number} of {runs} ...", file=sys.stderr, flush=True)
        results.append(await run_once(agents))
        print(table(results[-1]), file=sys.stderr, flush=True)
    return results


async def run(options: argparse.Namespace) -> None:
    """Run what the options say, and print it."""
    agents = options.agents or (quick_agents if options.quick else default_agents)
    runs = options.runs or (1 if options.quick else default_runs)
    about = machine.describe()
    print(machine.heading(), file=sys.stderr)
    results = await measure(agents, runs)
    about["load_after"] = round(os.getloadavg()[0], 2)
    found = {key: round(value, 4) for key, value in median(results).items()}
    if options.json:
        print(json.dumps({"machine": about, "runs": runs, "agents": agents, **found}))
    else:
        print(f"{agents} agents, medians of {runs} run(s)\n{table(found)}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.idle", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--agents", type=int, help=f"{default_agents} without it")
    parser.add_argument("--quick", action="store_true", help="fewer agents, in under a minute")
    parser.add_argument("--runs", type=int, help="figures are their medians")
    parser.add_argument("--json", action="store_true")
    trio.run(run, parser.parse_args())


if __name__ == "__main__":
    main()
