"""A real ``redis-server`` for tests, on a loopback port and without a disk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

program = shutil.which("redis-server") or shutil.which("valkey-server")
start_timeout_s = 10.0
missing = "THE REDIS STORE IS NOT TESTED: there is no redis-server here (apt install redis-server)"


class RedisProcess:
    """A server that can be killed, stopped and started again at the same address."""

    def __init__(self, folder: Path, port: int, *arguments: str, tls: bool = False) -> None:
        if program is None:
            pytest.skip(missing)
        self.port = port
        self.socket = folder / "redis.sock"
        self._tls = tls
        ports = ("--port", "0", "--tls-port") if tls else ("--port",)
        self._command = [
            *(program, "--bind", "127.0.0.1", *ports, str(self.port), "--dir", str(folder)),
            *("--unixsocket", str(self.socket), "--save", "", "--appendonly", "no", *arguments),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + start_timeout_s
        while not self._listens():
            assert self._process.poll() is None, "redis-server did not start"
            assert time.monotonic() < deadline, "redis-server did not start in time"
            time.sleep(0.005)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
