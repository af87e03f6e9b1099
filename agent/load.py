"""How busy this machine is (CPU, memory, network) and which addresses it has, through psutil."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TypeVar

import psutil

from agent.gpus import sendable
from agent.sensor import Reading
from agent.wolf import parse_address
from revdial.errors import where

T = TypeVar("T")
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Load:
    """What was read; `None` where it could not be, or where it takes an earlier reading.

    CPU and network are of the time since the reading before. Used memory is what programs could
    not have: caches that give way do not count.
    """

    cpu_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    network_receive_bits_per_s: int | None = None
    network_send_bits_per_s: int | None = None
    addresses: frozenset[Address] | None = None


@dataclass(frozen=True, slots=True)
class CpuSeconds:
    """What all processors spent since the machine started."""

    idle: float
    total: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes in and out of each interface since it exists, and when they were read."""

    at_s: float
    received: Mapping[str, int]
    sent: Mapping[str, int]


class LoadReader:
    """Reads how busy the machine is since it was last read. Blocks, for microseconds.

    psutil's own `cpu_percent` remembers one reading for each thread, so that from a thread of a
    pool it would tell of no known time.
    """

    def __init__(
        self,
        interfaces: Path = Path("/sys/class/net"),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interfaces = interfaces
        self._clock = clock
        self._cpu: CpuSeconds | None = None
        self._traffic: Traffic | None = None

    def read(self) -> Reading[Load]:
        """Give what can be read, and what is wrong with the rest."""
        faults: list[str] = []
        cpu, self._cpu = self._cpu, _attempt("CPU", faults, _cpu_seconds)
        traffic, self._traffic = self._traffic, _attempt("network", faults, self._read_traffic)
        memory = _attempt("memory", faults, psutil.virtual_memory)
        percent = received = sent = None
        if cpu is not None and self._cpu is not None:
            percent = busy_percent(cpu, self._cpu)
        if traffic is not None and self._traffic is not None:
            elapsed_s = self._traffic.at_s - traffic.at_s
            received = bits_per_s(traffic.received, self._traffic.received, elapsed_s)
            sent = bits_per_s(traffic.sent, self._traffic.sent, elapsed_s)
        load = Load(
            cpu_percent=percent,
            memory_used_bytes=sendable(memory and memory.total - memory.available),
            memory_total_bytes=sendable(memory and memory.total),
            network_receive_bits_per_s=sendable(received),
            network_send_bits_per_s=sendable(sent),
            addresses=_attempt("addresses", faults, _addresses),
        )
        return Reading(load, tuple(faults))

    def _read_traffic(self) -> Traffic:
        counters = psutil.net_io_counters(pernic=True, nowrap=False)
        names = [name for name in counters if name != "lo"]
        # What goes through a bridge, a container's interface or a VPN would be counted twice.
        real = [name for name in names if (self._interfaces / name / "device").exists()]
        counted = {name: counters[name] for name in real or names}
        return Traffic(
            self._clock(),
            received={name: each.bytes_recv for name, each in counted.items()},
            sent={name: each.bytes_sent for name, each in counted.items()},
        )


def busy_percent(before: CpuSeconds, now: CpuSeconds) -> float | None:
    """How much of the time between was spent with something to do: 0 to 100; None of no time."""
    total = now.total - before.total
    if total <= 0:
        return None
    busy = 1 - (now.idle - before.idle) / total
    return round(100 * min(max(busy, 0.0), 1.0), 1)


def bits_per_s(before: Mapping[str, int], now: Mapping[str, int], elapsed_s: float) -> int | None:
    """The rate of all interfaces that were there both times; None of no time.

    A counter that went back was reset, and its interface counts from the next time on.
    """
    if elapsed_s <= 0:
        return None
    grown = sum(max(0, count - before.get(name, count)) for name, count in now.items())
    return int(grown * 8 / elapsed_s)


def _cpu_seconds() -> CpuSeconds:
    times = psutil.cpu_times()
    # Guests' time is counted in user time already.
    total = times.user + times.nice + times.system + times.idle + times.iowait
    total += times.irq + times.softirq + times.steal
    return CpuSeconds(times.idle + times.iowait, total)


def _addresses() -> frozenset[Address]:
    texts = (entry.address for entries in psutil.net_if_addrs().values() for entry in entries)
    found = (parse_address(text.partition("%")[0]) for text in texts)
    return frozenset(address for address in found if address is not None)


def _attempt(what: str, faults: list[str], read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Exception as error:
        # A container without a file of /proc must not cost the other figures.
        faults.append(f"{what}: {where(error)}")
        return None
