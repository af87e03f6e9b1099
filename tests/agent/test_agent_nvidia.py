"""NVML's GPUs, with a library that fails in the ways that drivers do."""

from __future__ import annotations

import pynvml
from fake_gpus import RTX_UUID, FakeCard, FakeNvml, FakeNvmlError
from structlog.testing import capture_logs

from agent.gpus import Gpu
from agent.nvidia import NvmlReader

NOT_SUPPORTED = FakeNvmlError(3, "Not Supported")
LOST = FakeNvmlError(15, "GPU is lost")
RTX = Gpu(
    ids=("0000:01:00.0", RTX_UUID.lower()),
    name="NVIDIA GeForce RTX 4090",
    vendor="nvidia",
    driver="nvidia",
    memory_used_bytes=1 << 30,
    memory_total_bytes=24 << 30,
)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def reader(library: FakeNvml, clock: Clock | None = None) -> NvmlReader:
    return NvmlReader(library, clock=clock or Clock(), first_retry_s=10, max_retry_s=40)


def test_gpus_are_read_from_a_library_that_is_initialised_once() -> None:
    library = FakeNvml([FakeCard()])
    nvml = reader(library)
    for _ in range(3):
        reading = nvml.read()
        assert (reading.value, reading.faults) == ((RTX,), ())
    nvml.close()
    nvml.close()
    assert library.calls == ["init", "shutdown"]


def test_gpus_come_and_go() -> None:
    library = FakeNvml()
    nvml = reader(library)
    assert nvml.read().value == ()
    library.cards.append(FakeCard())
    assert nvml.read().value == (RTX,)
    library.cards.clear()
    assert nvml.read().value == ()
    assert library.calls == ["init"]


def test_a_machine_without_the_library_has_no_such_gpus_and_that_is_no_failure() -> None:
    library = FakeNvml(init_fails=FakeNvmlError(12, "NVML Shared Library Not Found"))
    with capture_logs() as logs:
        reading = reader(library).read()
    assert (reading.value, reading.faults) == ((), ())
    assert [entry["log_level"] for entry in logs] == ["debug"]


def test_the_real_librarys_absence_has_that_code() -> None:
    assert pynvml.NVML_ERROR_LIBRARY_NOT_FOUND == 12
    assert pynvml.NVML_ERROR_NOT_SUPPORTED == 3
    assert pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH == 18
    assert pynvml.NVMLError(12).value == 12


def test_a_driver_that_fails_is_tried_again_less_and_less_often() -> None:
    clock = Clock()
    library = FakeNvml(init_fails=FakeNvmlError(9, "Driver Not Loaded"))
    nvml = reader(library, clock)
    tried = []
    for _ in range(130):
        before = len(library.calls)
        assert nvml.read().faults == ("NVML: Driver Not Loaded",)
        if len(library.calls) > before:
            tried.append(clock.now - 100)
        clock.now += 1
    assert tried == [0, 10, 30, 70, 110]
    library.init_fails = None
    library.cards.append(FakeCard())
    clock.now += 40
    assert nvml.read().value == (RTX,)


def test_a_reloaded_driver_is_found_again() -> None:
    clock = Clock()
    library = FakeNvml([FakeCard()])
    nvml = reader(library, clock)
    nvml.read()
    library.count_fails = FakeNvmlError(1, "Uninitialized")
    library.shutdown_fails = FakeNvmlError(1, "Uninitialized")
    reading = nvml.read()
    assert (reading.value, reading.faults) == ((), ("NVML: Uninitialized",))
    library.count_fails = None
    clock.now += 10
    reading = nvml.read()
    assert (reading.value, reading.faults) == ((RTX,), ())
    assert library.calls == ["init", "shutdown", "init"]


def test_a_gpu_that_is_lost_leaves_the_others() -> None:
    clock = Clock()
    library = FakeNvml([FakeCard(busId=LOST), FakeCard()])
    nvml = reader(library, clock)
    for _ in range(2):
        reading = nvml.read()
        assert (reading.value, reading.faults) == ((RTX,), ("GPU 0: NVML: GPU is lost",))
    assert library.calls == ["init"]
    clock.now += 10
    nvml.read()
    assert library.calls == ["init", "shutdown", "init"]


def test_what_a_gpu_does_not_support_is_unknown() -> None:
    card = FakeCard(uuid=NOT_SUPPORTED, name=NOT_SUPPORTED, memory=NOT_SUPPORTED)
    reading = reader(FakeNvml([card])).read()
    assert reading.faults == ()
    assert reading.value == (Gpu(("0000:01:00.0",), "", "nvidia", "nvidia"),)
    reading = reader(FakeNvml([FakeCard(memory=LOST)])).read()
    assert (reading.value, len(reading.faults)) == ((), 1)


def test_an_address_that_is_none_costs_that_gpu_only() -> None:
    reading = reader(FakeNvml([FakeCard(busId="nonsense"), FakeCard()])).read()
    assert reading.value == (RTX,)
    assert len(reading.faults) == 1


def test_a_driver_that_was_replaced_needs_a_new_process() -> None:
    library = FakeNvml(init_fails=FakeNvmlError(18, "version mismatch"))
    (fault,) = reader(library).read().faults
    assert "restart the agent" in fault
