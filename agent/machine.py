"""The agent's machine as all its readers see it together: how busy it is, and its GPUs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from agent.drm import DrmReader
from agent.gpus import Gpu, carry, merge
from agent.load import Address, Load, LoadReader
from agent.nvidia import NvmlReader
from agent.sensor import Sensor


@dataclass(frozen=True, slots=True)
class MachineState:
    """What is known of the machine now; GPUs each once, by whichever reader they are known."""

    load: Load = field(default_factory=Load)
    gpus: tuple[Gpu, ...] = ()
    addresses: frozenset[Address] = frozenset()


class Machine:
    """Asks all readers at once; made by ``async with Machine.open()``."""

    def __init__(self, load: Sensor[Load], gpus: tuple[_GpuSource, ...]) -> None:
        self._load = load
        self._gpus = gpus
        self._addresses: frozenset[Address] = frozenset()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        timeout_s: float = 3.0,
        read_gpus: bool = True,
        load: LoadReader | None = None,
        drm: DrmReader | None = None,
        nvml: NvmlReader | None = None,
    ) -> AsyncIterator[Machine]:
        """Read nothing yet, and later no reader for longer than `timeout_s`."""
        load_sensor = Sensor("load", (load or LoadReader()).read, timeout_s=timeout_s)
        if not read_gpus:
            yield cls(load_sensor, ())
            return
        nvml = nvml or NvmlReader()
        drm_sensor = Sensor("drm", (drm or DrmReader()).read, timeout_s=timeout_s)
        nvml_sensor = Sensor("nvml", nvml.read, timeout_s=timeout_s)
        try:
            # NVML comes last, as it knows its GPUs better.
            yield cls(load_sensor, (_GpuSource(drm_sensor), _GpuSource(nvml_sensor)))
        finally:
            await nvml_sensor.close(nvml.close)

    async def read(self) -> MachineState:
        """Look at everything at once; what fails or hangs is unknown."""
        async with trio.open_nursery() as nursery:
            for source in self._gpus:
                nursery.start_soon(source.refresh)
            reading = await self._load.read()
        load = Load() if reading is None else reading.value
        if load.addresses is not None:
            self._addresses = load.addresses
        gpus: tuple[Gpu, ...] = ()
        for source in self._gpus:
            gpus = merge(gpus, source.gpus)
        return MachineState(load, gpus, self._addresses)


class _GpuSource:
    """A reader of GPUs, and those that it knows."""

    def __init__(self, sensor: Sensor[tuple[Gpu, ...]]) -> None:
        self._sensor = sensor
        self.gpus: tuple[Gpu, ...] = ()

    async def refresh(self) -> None:
        reading = await self._sensor.read()
        if reading is None:
            self.gpus = carry(self.gpus, ())
        elif reading.faults:
            self.gpus = carry(self.gpus, reading.value)
        else:
            self.gpus = reading.value
