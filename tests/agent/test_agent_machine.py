"""All readers of a machine together: GPUs that appear, vanish, fail and hang."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
from fake_gpus import FakeCard, FakeNvml, FakeNvmlError, add_card, vram
from structlog.testing import capture_logs

from agent.drm import DrmReader
from agent.gpus import Gpu
from agent.load import LoadReader
from agent.machine import Machine
from agent.nvidia import NvmlReader
from agent.pci_names import PciNames

NVIDIA = {"vendor": "0x10de", "device": "0x2684", "driver": "nvidia", "address": "0000:01:00.0"}


@dataclass
class Bench:
    """A machine and the fakes it is made of."""

    machine: Machine
    drm: Path
    nvml: FakeNvml

    async def gpus(self) -> dict[str, Gpu]:
        return {gpu.id: gpu for gpu in (await self.machine.read()).gpus}


@asynccontextmanager
async def bench(tmp_path: Path, timeout_s: float = 10.0, **settings: Any) -> AsyncIterator[Bench]:
    root, nvml = tmp_path / "drm", FakeNvml()
    opened = Machine.open(
        timeout_s=timeout_s,
        load=LoadReader(tmp_path),
        drm=DrmReader(root, PciNames([])),
        nvml=NvmlReader(nvml, first_retry_s=0),
        **settings,
    )
    async with opened as machine:
        yield Bench(machine, root, nvml)


async def test_a_card_of_both_readers_is_there_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        assert await it.gpus() == {}
        add_card(it.drm, 0, **NVIDIA)
        add_card(it.drm, 1, files=vram(1, 2))
        it.nvml.cards.append(FakeCard())
        gpus = await it.gpus()
        assert sorted(gpus) == ["0000:01:00.0", "0000:03:00.0"]
        rtx = gpus["0000:01:00.0"]
        assert (rtx.name, rtx.memory_used_bytes) == ("NVIDIA GeForce RTX 4090", 1 << 30)
        assert "renderD128" in rtx.ids
    assert it.nvml.calls == ["init", "shutdown"]


async def test_a_card_that_was_taken_out_is_gone(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        it.nvml.cards.append(FakeCard())
        assert len(await it.gpus()) == 1
        it.nvml.cards.clear()
        assert await it.gpus() == {}


async def test_a_driver_that_fails_leaves_its_cards_with_unknown_use(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        it.nvml.cards.append(FakeCard())
        await it.machine.read()
        it.nvml.count_fails = FakeNvmlError(1, "Uninitialized")
        with capture_logs() as logs:
            for _ in range(3):
                (gpu,) = (await it.gpus()).values()
                assert (gpu.memory_used_bytes, gpu.memory_total_bytes) == (None, 24 << 30)
            it.nvml.count_fails = None
            (gpu,) = (await it.gpus()).values()
            assert gpu.memory_used_bytes == 1 << 30
        assert [entry["event"] for entry in logs if entry["log_level"] != "debug"] == [
            "reading_failed",
            "reading_works_again",
        ]


async def test_a_driver_that_hangs_costs_only_its_own_figures(tmp_path: Path) -> None:
    released = threading.Event()
    try:
        async with bench(tmp_path, timeout_s=0.5) as it:
            add_card(it.drm, 1, files=vram(1, 2))
            it.nvml.cards.append(FakeCard())
            await it.machine.read()
            it.nvml.before_count = lambda: released.wait(10)
            with trio.fail_after(5):
                for _ in range(3):
                    state = await it.machine.read()
            assert state.load.memory_total_bytes
            assert {gpu.id: gpu.memory_used_bytes for gpu in state.gpus} == {
                "0000:03:00.0": 1,
                "0000:01:00.0": None,
            }
        # Not shut down under the thread that is inside.
        assert it.nvml.calls == ["init"]
    finally:
        released.set()


async def test_addresses_stay_as_last_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError

    async with bench(tmp_path) as it:
        known = (await it.machine.read()).addresses
        assert ip_address("127.0.0.1") in known
        monkeypatch.setattr(psutil, "net_if_addrs", fails)
        assert (await it.machine.read()).addresses == known


async def test_where_all_gpus_are_stated_no_driver_is_touched(tmp_path: Path) -> None:
    async with bench(tmp_path, read_gpus=False) as it:
        it.nvml.cards.append(FakeCard())
        state = await it.machine.read()
        assert state.gpus == ()
        assert state.load.memory_total_bytes
    assert it.nvml.calls == []


async def test_a_load_that_cannot_be_read_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_self: LoadReader) -> None:
        raise RuntimeError

    monkeypatch.setattr(LoadReader, "read", fails)
    async with bench(tmp_path) as it:
        it.nvml.cards.append(FakeCard())
        state = await it.machine.read()
        assert state.load.cpu_percent is None
        assert len(state.gpus) == 1


async def test_any_machine_can_be_read() -> None:
    async with Machine.open() as machine:
        assert (await machine.read()).load.memory_total_bytes
