"""How busy a machine is, out of what psutil would say."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.load import CpuSeconds, Load, LoadReader, bits_per_s, busy_percent

CPU = dict.fromkeys(("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"), 0.0)


class System:
    """A machine whose figures a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        self.cpu = dict(CPU)
        self.bytes = {"lo": (0, 0), "eth0": (0, 0)}
        self.addresses: dict[str, list[str]] = {"eth0": ["192.168.1.5"]}
        for name in ("cpu_times", "virtual_memory", "net_io_counters", "net_if_addrs"):
            monkeypatch.setattr(psutil, name, getattr(self, name))

    def cpu_times(self) -> Any:
        return SimpleNamespace(**self.cpu)

    def virtual_memory(self) -> Any:
        return SimpleNamespace(total=16_000, available=6_000, used=9_000)

    def net_io_counters(self, **how: bool) -> Any:
        assert how == {"pernic": True, "nowrap": False}
        return {
            name: SimpleNamespace(bytes_recv=received, bytes_sent=sent)
            for name, (received, sent) in self.bytes.items()
        }

    def net_if_addrs(self) -> Any:
        return {
            name: [SimpleNamespace(address=address) for address in addresses]
            for name, addresses in self.addresses.items()
        }


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch)


def reader(system: System, interfaces: Path) -> LoadReader:
    return LoadReader(interfaces, clock=lambda: system.now)


def test_the_first_reading_tells_what_needs_no_other(system: System, tmp_path: Path) -> None:
    reading = reader(system, tmp_path).read()
    assert reading.faults == ()
    assert reading.value == Load(
        memory_used_bytes=10_000,
        memory_total_bytes=16_000,
        addresses=frozenset({ip_address("192.168.1.5")}),
    )


def test_cpu_and_network_are_of_the_time_between(system: System, tmp_path: Path) -> None:
    load = reader(system, tmp_path)
    load.read()
    system.now += 10
    system.cpu |= {"user": 2.0, "irq": 1.0, "idle": 6.0, "iowait": 1.0}
    system.bytes |= {"lo": (999_999, 999_999), "eth0": (1_000, 2_000)}
    first = load.read().value
    assert first.cpu_percent == 30.0
    assert (first.network_receive_bits_per_s, first.network_send_bits_per_s) == (800, 1_600)
    system.now += 10
    system.cpu["idle"] += 10
    second = load.read().value
    assert second.cpu_percent == 0.0
    assert second.network_receive_bits_per_s == 0
    third = load.read().value
    assert (third.cpu_percent, third.network_send_bits_per_s) == (None, None)


def test_what_passes_a_bridge_is_counted_once(system: System, tmp_path: Path) -> None:
    (tmp_path / "eth0" / "device").mkdir(parents=True)
    (tmp_path / "docker0").mkdir()
    system.bytes["docker0"] = (0, 0)
    load = reader(system, tmp_path)
    load.read()
    system.now += 1
    system.bytes |= {"eth0": (1_000, 0), "docker0": (1_000, 1_000)}
    found = load.read().value
    assert (found.network_receive_bits_per_s, found.network_send_bits_per_s) == (8_000, 0)


@pytest.mark.parametrize("broken", ["cpu_times", "virtual_memory", "net_io_counters"])
def test_a_figure_that_fails_leaves_the_others(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fails(**_how: bool) -> None:
        raise FileNotFoundError("/proc/somewhere")

    load = reader(system, tmp_path)
    load.read()
    system.now += 1
    system.cpu["user"] += 1
    monkeypatch.setattr(psutil, broken, fails)
    reading = load.read()
    found = reading.value
    told = {
        "cpu_times": found.cpu_percent,
        "virtual_memory": found.memory_used_bytes,
        "net_io_counters": found.network_send_bits_per_s,
    }
    assert [name for name, figure in told.items() if figure is None] == [broken]
    (fault,) = reading.faults
    assert "FileNotFoundError" in fault
    monkeypatch.setattr(psutil, broken, getattr(system, broken))
    assert load.read().faults == ()


def test_addresses_are_read_without_scope_and_hardware(system: System, tmp_path: Path) -> None:
    system.addresses = {"eth0": ["fe80::1%eth0", "02:fc:00:00:00:01"], "lo": ["127.0.0.1"]}
    found = reader(system, tmp_path).read().value.addresses
    assert found == {ip_address("fe80::1"), ip_address("127.0.0.1")}


def test_an_interface_counts_from_its_second_reading() -> None:
    assert bits_per_s({"a": 100}, {"a": 200, "b": 1 << 40}, 1) == 800
    assert bits_per_s({"a": 100, "b": 7}, {"a": 200}, 1) == 800
    assert bits_per_s({"a": 1 << 40}, {"a": 5}, 1) == 0
    assert bits_per_s({}, {}, 0) is None


seconds = st.builds(CpuSeconds, st.floats(0, 1e9), st.floats(0, 1e9))


@given(seconds, seconds)
def test_a_share_of_time_is_one_whatever_the_kernel_counts(
    before: CpuSeconds, now: CpuSeconds
) -> None:
    percent = busy_percent(before, now)
    assert percent is None or 0 <= percent <= 100


def test_this_machine_can_be_read() -> None:
    load = LoadReader()
    load.read()
    reading = load.read()
    assert reading.faults == ()
    assert reading.value.memory_total_bytes
    assert ip_address("127.0.0.1") in (reading.value.addresses or ())
