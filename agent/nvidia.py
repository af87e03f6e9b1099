"""NVIDIA's GPUs, as NVML tells of them; the only place that knows `pynvml`, which has no types."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pynvml
import structlog

from agent.gpus import Gpu, gpu_id
from agent.sensor import Reading

max_devices = 64

_NOT_SUPPORTED = 3
_LIBRARY_NOT_FOUND = 12
_DRIVER_REPLACED = 18


class NvmlReader:
    """Reads all of NVML's GPUs. Blocks; to be called from one thread at a time.

    The library is initialised at the first reading, and after a failure (a driver that was
    reloaded, a GPU that fell off the bus) again, at intervals that double from `first_retry_s` to
    `max_retry_s`. A machine without the library has no such GPUs, and that is no failure.
    """

    def __init__(
        self,
        library: Any = pynvml,
        *,
        clock: Callable[[], float] = time.monotonic,
        first_retry_s: float = 10.0,
        max_retry_s: float = 300.0,
    ) -> None:
        self._library = library
        self._clock = clock
        self._first_retry_s = first_retry_s
        self._max_retry_s = max_retry_s
        self._retry_s = first_retry_s
        self._start_at = -math.inf
        self._started = False
        self._faults: tuple[str, ...] = ()
        self._log = structlog.get_logger()

    def read(self) -> Reading[tuple[Gpu, ...]]:
        """Give the GPUs that answer, and what is wrong with the library or with others."""
        now = self._clock()
        gpus: tuple[Gpu, ...] = ()
        if now >= self._start_at:
            self.close()
            self._faults = self._start()
            self._start_at = math.inf
        if self._started:
            gpus, self._faults = self._devices()
        if self._started and not self._faults:
            self._retry_s, self._start_at = self._first_retry_s, math.inf
        elif self._start_at == math.inf:
            self._start_at = now + self._retry_s
            self._retry_s = min(2 * self._retry_s, self._max_retry_s)
        return Reading(gpus, self._faults)

    def close(self) -> None:
        """Let the library go, if it was initialised."""
        if not self._started:
            return
        self._started = False
        try:
            self._library.nvmlShutdown()
        except self._library.NVMLError as error:
            self._log.debug("nvml_not_shut_down", why=_described(error))

    def _start(self) -> tuple[str, ...]:
        try:
            self._library.nvmlInit()
        except self._library.NVMLError as error:
            if _code(error) == _LIBRARY_NOT_FOUND:
                self._log.debug("no_nvml")
                return ()
            return (_described(error),)
        self._started = True
        return ()

    def _devices(self) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
        gpus, faults = [], []
        try:
            count = self._library.nvmlDeviceGetCount()
        except self._library.NVMLError as error:
            return (), (_described(error),)
        for index in range(min(count, max_devices)):
            try:
                gpus.append(self._device(index))
            except (self._library.NVMLError, ValueError) as error:
                faults.append(f"GPU {index}: {_described(error)}")
        return tuple(gpus), tuple(faults)

    def _device(self, index: int) -> Gpu:
        nvml = self._library
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        address = gpu_id(nvml.nvmlDeviceGetPciInfo(handle).busId)
        uuid = self._supported(nvml.nvmlDeviceGetUUID, handle)
        memory = self._supported(nvml.nvmlDeviceGetMemoryInfo, handle)
        return Gpu(
            ids=(address,) if uuid is None else (address, uuid.lower()),
            name=self._supported(nvml.nvmlDeviceGetName, handle) or "",
            vendor="nvidia",
            driver="nvidia",
            memory_used_bytes=None if memory is None else memory.used,
            memory_total_bytes=None if memory is None else memory.total,
        )

    def _supported(self, ask: Callable[[object], Any], handle: object) -> Any:
        try:
            return ask(handle)
        except self._library.NVMLError as error:
            # A GPU that shares the machine's memory, for one, has no figures of its own.
            if _code(error) == _NOT_SUPPORTED:
                return None
            raise


def _code(error: Exception) -> int | None:
    return getattr(error, "value", None)


def _described(error: Exception) -> str:
    advice = "; restart the agent, as the driver was replaced under it"
    return f"NVML: {error}{advice if _code(error) == _DRIVER_REPLACED else ''}"
