"""What a figure was measured on, and what a process used: read from ``/proc``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_packages: Final = ("trio", "websockets", "cryptography")
_kib: Final = 1024


def describe() -> dict[str, Any]:
    """Return what a reader has to know of this machine to compare figures."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cores": os.cpu_count(),
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "kernel": platform.release(),
        "congestion_control": _sysctl("net/ipv4/tcp_congestion_control"),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "versions": {name: importlib.metadata.version(name) for name in _packages},
        "load_before": round(os.getloadavg()[0], 2),
    }


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far."""

    cpu_s: float
    """On a core, in user and kernel mode."""
    rss_bytes: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.cpu_s + other.cpu_s, self.rss_bytes + other.rss_bytes)

    def since(self, before: Usage) -> float:
        """Return the CPU seconds used since `before`."""
        return self.cpu_s - before.cpu_s


def usage_of(pid: int) -> Usage:
    """Return what a process has used, with all its threads.

    Raises:
        OSError: there is no such process.

    """
    threads = [
        # Nanoseconds; /proc/PID/stat counts in hundredths of a second.
        int(schedstat.read_text().split()[0])
        for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat")
    ]
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return Usage(sum(threads) / 1e9, int(rss) * _kib)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process holds of the machine's memory."""

    rss_bytes: int
    anonymous_bytes: int
    """Of that, what is in no file: heap and stacks."""


def memory_of(pid: int) -> Memory:
    """Return what memory a process holds, in detail: dearer than `usage_of`.

    Raises:
        OSError: there is no such process.

    """
    return memory_in(Path(f"/proc/{pid}/smaps_rollup").read_text())


def memory_in(smaps_rollup: str) -> Memory:
    """Return what the kernel tells there."""
    kib = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in smaps_rollup.splitlines())
        if value.endswith("kB")
    }
    return Memory(kib["Rss"] * _kib, kib["Anonymous"] * _kib)


def usage_of_all(pids: list[int]) -> Usage:
    """Return what several processes have used together."""
    return sum((usage_of(pid) for pid in pids), Usage(0.0, 0))


def heading() -> str:
    """Return `describe` as a line or two for people."""
    machine = describe()
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cores']} cores ({machine['cpu']}), Linux {machine['kernel']}, "
        f"{machine['congestion_control']}, load {machine['load_before']}\n"
        f"Python {machine['python']}, {machine['openssl']}, {versions}"
    )


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return "unknown"
