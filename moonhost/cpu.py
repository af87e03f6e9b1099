"""How much of a processor this process and others use, from what the kernel counts."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_ticks_per_s: Final = os.sysconf("SC_CLK_TCK")
_user_time: Final = 11  # columns of /proc/PID/stat, counted behind the command's name
_system_time: Final = 12


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and all its threads since it began; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    columns = stat.rpartition(")")[2].split()
    return (int(columns[_user_time]) + int(columns[_system_time])) / _ticks_per_s


class CpuWatch:
    """Measures from when it is made on how many cores some processes, and this one, keep busy."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._own = time.process_time()
        self._before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        self._since = time.monotonic()

    def own_cores(self) -> float:
        """Return what this process used, in cores."""
        return (time.process_time() - self._own) / self._elapsed()

    def cores(self, prefix: str) -> float | None:
        """Return what the processes whose names begin so used; None if there are none."""
        names = [name for name in self._pids if name.startswith(prefix)]
        if not names:
            return None
        used = sum(cpu_seconds(self._pids[name]) - self._before[name] for name in names)
        return max(0.0, used) / self._elapsed()

    def _elapsed(self) -> float:
        return max(time.monotonic() - self._since, 1e-9)
