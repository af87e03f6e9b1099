"""Hosts for tests: each on free ports, gone when the test is over."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from simulator_client import StartHost, host_config

from simulator.config import Traps
from simulator.host import HostHandle, run_host


@pytest.fixture
async def start_host(tmp_path: Path, nursery: trio.Nursery) -> StartHost:
    """Start a host with these traps and these changes to its configuration."""

    async def start(traps: Traps, **changes: object) -> HostHandle:
        handle: HostHandle = await nursery.start(run_host, host_config(tmp_path, traps, **changes))
        return handle

    return start
