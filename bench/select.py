"""What choosing a backend costs, geography included: ``python -m bench.select``.

A decision is what an edge does between a launch's arrival and a host's name: the client's place (by
pinned networks, or a database of MaxMind's format), the candidates as they are now, and the choice.
Taking the slot, which changes what the next decision sees, is timed on its own. Sessions start and
end so that about four of five slots are taken; some regions are full, some hosts crowded.
Heartbeats come in between, as many as so many hosts send in the time that so many launches would
take with sessions of half an hour, and are timed on their own.

Players come again, and their places are kept until the database changes: `database_us` is what it
takes to ask it anew. The baseline looks at every backend, as everybody would write it first. It has
to give the same answers, or the run stops; it is timed without geography, which costs both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from time import perf_counter_ns
from typing import Final

import trio
from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]
from structlog.testing import capture_logs

from backends.apps import AppOffer
from backends.errors import NoBackend
from backends.geography import Address, Atlas, Place, Region
from backends.geoip import GeoDatabase
from backends.offerings import AgentOffering, GpuMemory, HostOffering, HostStatus
from backends.registry import ConnectionId, Registry
from backends.selection import LaunchIntent, select
from backends.slots import Reservation
from bench import machine, naive_select
from bench.deployment import median

sizes: Final = (10, 100, 1_000, 10_000)
apps_per_host: Final = 20
max_regions: Final = 50
slots_per_host: Final = 4
hosts_per_agent: Final = 4
filled: Final = 0.8
default_seconds: Final = 3.0
default_runs: Final = 3
naive_decisions: Final = 50
"""Compared and timed in each run."""

_now: Final = datetime(2026, 11, 24, tzinfo=UTC)
_session_s: Final = 1_800.0
_heartbeat_s: Final = 10.0
_gib: Final = 1 << 30
_shares: Final = (*(number / 20 for number in range(1, 15)), 0.88, None)
"""Of hosts' GPU memory: most have room, some are crowded, some do not tell."""
_apps: Final = tuple(AppOffer(f"Game number {number}", number) for number in range(apps_per_host))
_networks: Final = 4_096
"""In the database: 64.0.0.0/20 and those after it, each in one of the cities."""
_cities: Final = 1_000
_players: Final = 10_000
"""Who launches, each from an address of its own."""
_first_network: Final = int(IPv4Address("64.0.0.0"))


def write_database(path: Path, networks: int = _networks) -> None:
    """Write a city database as MaxMind's are, with as many networks of 4,096 addresses."""
    chance = random.Random(0)  # noqa: S311 - places, not secrets
    writer = MMDBWriter(ip_version=4, database_type="GeoLite2-City", float_type="f64")
    cities = [
        {"latitude": _latitude(chance), "longitude": chance.uniform(-180, 180)}
        for _ in range(_cities)
    ]
    for number in range(networks):
        place = chance.choice(cities)
        network = IPv4Address(_first_network + (number << 12))
        writer.insert_network(IPSet([f"{network}/20"]), {"location": place})
    writer.to_db_file(str(path))


def _latitude(chance: random.Random) -> float:
    return chance.uniform(-45, 65)


@dataclass(slots=True)
class Timings:
    """What one run measured, in nanoseconds."""

    decisions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    heartbeats: list[int] = field(default_factory=list)
    locates: list[int] = field(default_factory=list)
    refusals: int = 0
    naive: list[int] = field(default_factory=list)
    selects: list[int] = field(default_factory=list)
    """Only the choice, where the baseline chose too."""

    def figures(self) -> dict[str, float]:
        """Return what it comes to."""
        percentiles = statistics.quantiles(self.decisions, n=100, method="inclusive")
        return {
            "decisions_per_second": 1e9 / statistics.fmean(self.decisions),
            "p50_ms": percentiles[49] / 1e6,
            "p99_ms": percentiles[98] / 1e6,
            "max_ms": max(self.decisions) / 1e6,
            "locate_us": statistics.fmean(self.locates) / 1e3,
            "select_us": statistics.fmean(self.selects) / 1e3,
            "reserve_us": statistics.fmean(self.slots) / 1e3,
            "heartbeat_us": statistics.fmean(self.heartbeats) / 1e3,
            "naive_us": statistics.fmean(self.naive) / 1e3,
            "decisions": len(self.decisions),
            "refused": self.refusals,
        }


@dataclass(slots=True)
class _Agent:
    offering: AgentOffering
    connection: ConnectionId
    base_shares: Sequence[float | None]


class Fleet:
    """An edge's registry full of agents, and the sessions that come and go at their hosts."""

    def __init__(self, backends: int, look_up: Callable[[Address], Place | None]) -> None:
        self._chance = random.Random(backends)  # noqa: S311 - load, not secrets
        regions = self._regions(min(max_regions, max(3, backends // 4)))
        self._atlas = Atlas(regions, regions[0].name)
        self._look_up = look_up
        self._registry = Registry(regions=self._atlas.regions)
        self._names = [region.name for region in regions]
        self._addresses = [self._address() for _ in range(_players)]
        self._agents = [
            self._connect(number, min(hosts_per_agent, backends - first))
            for number, first in enumerate(range(0, backends, hosts_per_agent))
        ]
        self._target = int(filled * slots_per_host * backends)
        self._sessions: deque[Reservation] = deque()
        self._beats = self._beat_in_turn()
        self._due = 0.0
        # Launches come as fast as sessions end, heartbeats once in ten seconds from each agent.
        self._beats_per_launch = len(self._agents) / _heartbeat_s * _session_s / self._target
        self._fill()

    def run(self, seconds: float, timings: Timings) -> None:
        """Decide for so long."""
        until = perf_counter_ns() + int(seconds * 1e9)
        for count in range(sys.maxsize):
            if count % 64 == 0 and perf_counter_ns() > until and count:
                return
            self._launch(timings)
            self._end()
            self._due += self._beats_per_launch
            while self._due >= 1:
                self._due -= 1
                timings.heartbeats.append(next(self._beats))

    def compare(self, decisions: int, timings: Timings) -> None:
        """Let the baseline decide too, and time both.

        Raises:
            RuntimeError: it says something else.

        """
        backends = list(self._registry.candidates(now=0.0))
        for _ in range(decisions):
            intent = self._intent(timings)
            candidates = self._registry.candidates(now=0.0)
            begin = perf_counter_ns()
            try:
                chosen = select(intent, candidates, now=_now).backend
            except NoBackend:
                chosen = None
            middle = perf_counter_ns()
            expected = naive_select.select(intent, backends, now=_now)
            timings.naive.append(perf_counter_ns() - middle)
            timings.selects.append(middle - begin)
            if chosen != expected:
                raise RuntimeError(f"{intent} got {chosen}, and {expected} by the baseline")

    def time_look_ups(self, ask: Callable[[Address], object]) -> float:
        """Return how long the database itself takes for an address, in microseconds."""
        addresses = [ip_address(text) for text in self._addresses[:1_000]]
        begin = perf_counter_ns()
        for address in addresses:
            ask(address)
        return (perf_counter_ns() - begin) / len(addresses) / 1e3

    def _regions(self, count: int) -> list[Region]:
        return [
            Region(
                f"region-{number:02}",
                Place(_latitude(self._chance), self._chance.uniform(-180, 180)),
                (ip_network(f"10.{number}.0.0/16"), ip_network(f"100.64.{number}.0/24")),
            )
            for number in range(count)
        ]

    def _connect(self, number: int, hosts: int) -> _Agent:
        name, region = f"agent-{number:05}", self._names[number % len(self._names)]
        offering = AgentOffering(
            name,
            region,
            None,
            None,
            tuple(
                HostOffering(f"host-{index}", "wolf", slots_per_host, _apps)
                for index in range(hosts)
            ),
        )
        connection = self._registry.agent_connected(offering, now=0.0)
        shares = tuple(self._chance.choice(_shares) for _ in range(hosts))
        return _Agent(offering, connection, shares)

    def _fill(self) -> None:
        for address in self._addresses:
            self._atlas.locate(address, self._look_up)
        for _ in self._agents:
            next(self._beats)
        # One region in ten is full of its own players.
        for backend in list(self._registry.candidates(now=0.0)):
            if backend.region.endswith("9"):
                for _ in range(slots_per_host):
                    self._registry.restore(backend.id)
        timings = Timings()
        while len(self._sessions) < self._target and timings.refusals < 1_000:
            self._launch(timings)

    def _launch(self, timings: Timings) -> None:
        address = self._chance.choice(self._addresses)
        title = self._chance.choice(_apps).title
        begin = perf_counter_ns()
        place = self._atlas.locate(address, self._look_up)
        intent = LaunchIntent("client", title, place)
        candidates = self._registry.candidates(now=0.0)
        try:
            decision = select(intent, candidates, now=_now)
        except NoBackend:
            timings.decisions.append(perf_counter_ns() - begin)
            timings.refusals += 1
            return
        middle = perf_counter_ns()
        reservation = self._registry.reserve(decision.backend.id)
        timings.decisions.append(middle - begin)
        timings.slots.append(perf_counter_ns() - middle)
        self._registry.started(reservation)
        self._sessions.append(reservation)

    def _end(self) -> None:
        while len(self._sessions) > self._target:
            self._registry.release(self._sessions.popleft())

    def _intent(self, timings: Timings) -> LaunchIntent:
        address = self._chance.choice(self._addresses)
        title = self._chance.choice(_apps).title
        begin = perf_counter_ns()
        place = self._atlas.locate(address, self._look_up)
        timings.locates.append(perf_counter_ns() - begin)
        return LaunchIntent("client", title, place)

    def _address(self) -> str:
        if self._chance.random() < 0.1:
            return f"10.{self._chance.randrange(len(self._names))}.7.7"
        return str(IPv4Address(_first_network + self._chance.randrange(_networks << 12)))

    def _beat_in_turn(self) -> Iterator[int]:
        """Send a heartbeat of one agent after another; gives the time that the registry took."""
        while True:
            for agent in self._agents:
                statuses = [
                    HostStatus(host.name, None, None, None, self._memory(share))
                    for host, share in zip(agent.offering.hosts, agent.base_shares, strict=True)
                ]
                name, rtt_s = agent.offering.agent_id, self._chance.uniform(0.002, 0.05)
                begin = perf_counter_ns()
                self._registry.heartbeat(name, agent.connection, statuses, now=0.0, rtt_s=rtt_s)
                yield perf_counter_ns() - begin

    def _memory(self, share: float | None) -> GpuMemory | None:
        if share is None:
            return None
        return GpuMemory(int((share + self._chance.uniform(0, 0.04)) * 24 * _gib), 24 * _gib)


def run_once(backends: int, seconds: float) -> dict[str, float]:
    """Return the figures of one fleet."""
    with tempfile.TemporaryDirectory(prefix="moonhost-bench-") as folder:
        path = Path(folder) / "city.mmdb"
        write_database(path)
        database = trio.run(_opened, path)
        fleet, timings = Fleet(backends, database.look_up), Timings()
        fleet.run(seconds / 10, Timings())
        look_up_us = fleet.time_look_ups(trio.run(_opened, path).look_up)
        fleet.run(seconds, timings)
        fleet.compare(naive_decisions, timings)
        return timings.figures() | {"database_us": look_up_us}


async def _opened(path: Path) -> GeoDatabase:
    database = GeoDatabase([path])
    with capture_logs():  # standard output is for the figures
        await database.reload_if_changed()
    return database


_columns: Final = (
    ("backends", "backends", "{:,.0f}"),
    ("decisions/s", "decisions_per_second", "{:,.0f}"),
    ("p50 ms", "p50_ms", "{:.3f}"),
    ("p99 ms", "p99_ms", "{:.3f}"),
    ("max ms", "max_ms", "{:.2f}"),
    ("locate us", "locate_us", "{:.1f}"),
    ("database us", "database_us", "{:.1f}"),
    ("select us", "select_us", "{:.1f}"),
    ("plain scan us", "naive_us", "{:,.0f}"),
    ("reserve us", "reserve_us", "{:.1f}"),
    ("us/heartbeat", "heartbeat_us", "{:.1f}"),
)


def table(results: Sequence[dict[str, float]]) -> str:
    """Return the figures as text for people."""
    rows = [[title for title, _, _ in _columns]]
    rows += [[form.format(found[key]) for _, key, form in _columns] for found in results]
    return "\n".join("".join(f"{cell:>14}" for cell in row) for row in rows)


def run(options: argparse.Namespace) -> None:
    """Run what the options say, and print it."""
    print(machine.heading(), file=sys.stderr)
    results = []
    for backends in options.backends or sizes:
        print(f"  {backends} backends: {options.runs} run(s) ...", file=sys.stderr, flush=True)
        found = median([run_once(backends, options.seconds) for _ in range(options.runs)])
        results.append({"backends": backends} | {k: round(v, 4) for k, v in found.items()})
    print(f"  load after: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    print(json.dumps(results) if options.json else table(results))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.select", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--backends", type=int, nargs="+", help=f"{sizes} without it")
    parser.add_argument("--seconds", type=float, default=default_seconds, help="of each run")
    parser.add_argument("--runs", type=int, default=default_runs, help="figures are their medians")
    parser.add_argument("--json", action="store_true")
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
