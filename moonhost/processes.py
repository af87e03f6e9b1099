"""Runs commands of moonhost as processes, each with a log of its own, while a demo lasts."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio

from moonhost.errors import CommandFailed

stop_timeout_s: Final = 10.0
log_tail_lines: Final = 12


class Processes:
    """Commands that run in a nursery: if one ends by itself, that fails the nursery."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self._folder = folder
        self._nursery = nursery
        self.pids: dict[str, int] = {}
        """The processes that were started, by name."""

    async def start(self, name: str, *arguments: str) -> None:
        """Start ``moonhost`` with these arguments; its output goes to the log called `name`."""
        with self._log(name).open("wb") as log:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "moonhost", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for whoever started them, who stops them in order.
                start_new_session=True,
            )
        self.pids[name] = process.pid
        self._nursery.start_soon(self._watch, name, process)

    async def _watch(self, name: str, process: trio.Process) -> None:
        try:
            await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
        raise CommandFailed(f"{name} has stopped by itself. {self.tail(name)}")

    def tail(self, name: str) -> str:
        """Return the end of a process's log, for an error."""
        lines = self._log(name).read_text(errors="replace").splitlines()[-log_tail_lines:]
        return "\n".join([f"Its log ends ({name}):", *lines])

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


async def run_python(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run this Python with arguments to its end; its output is in the result."""
    return await trio.run_process(
        [sys.executable, *arguments], capture_stdout=True, capture_stderr=True, check=False
    )


async def cancel_on_signal(scope: trio.CancelScope) -> None:
    """Cancel a scope on SIGINT or SIGTERM: what was started is then ended in order."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
    scope.cancel()


async def _end(process: trio.Process) -> None:
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(stop_timeout_s):
            await process.wait()
    if process.poll() is None:
        process.kill()
        await process.wait()
