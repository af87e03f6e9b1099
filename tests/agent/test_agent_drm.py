"""GPUs as Linux lists them, out of a folder that looks like /sys/class/drm."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fake_gpus import add_card, vram

from agent.drm import DrmReader
from agent.gpus import Gpu
from agent.pci_names import PciNames


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "drm"


def reader(root: Path, names: Path | None = None) -> DrmReader:
    return DrmReader(root, PciNames([] if names is None else [names]))


def test_an_amd_card_tells_its_memory(root: Path) -> None:
    add_card(root, 1, files=vram(5, 24 << 30))
    reading = reader(root).read()
    assert reading.faults == ()
    assert reading.value == (
        Gpu(
            ids=("0000:03:00.0", "card1", "renderD129"),
            name="amd 744c",
            vendor="amd",
            driver="amdgpu",
            memory_used_bytes=5,
            memory_total_bytes=24 << 30,
        ),
    )


@pytest.mark.parametrize(
    ("vendor", "driver", "known_as"),
    [
        ("0x8086", "i915", "intel"),
        ("0x8086", "xe", "intel"),
        ("0x10de", "nouveau", "nvidia"),
        ("0x1a03", "ast", "1a03"),
        ("0x1002", "radeon", "amd"),
    ],
)
def test_other_drivers_tell_no_memory(root: Path, vendor: str, driver: str, known_as: str) -> None:
    add_card(root, 0, vendor=vendor, driver=driver, device="0x56a0")
    reading = reader(root).read()
    (gpu,) = reading.value
    assert reading.faults == ()
    assert (gpu.vendor, gpu.driver, gpu.name) == (known_as, driver, f"{known_as} 56a0")
    assert (gpu.memory_used_bytes, gpu.memory_total_bytes) == (None, None)


def test_cards_come_in_the_kernels_order_and_go(root: Path) -> None:
    for number in (10, 2):
        add_card(root, number, address=f"0000:{number:02x}:00.0")
    drm = reader(root)
    assert [gpu.ids[1] for gpu in drm.read().value] == ["card2", "card10"]
    shutil.rmtree(root / "card2")
    assert [gpu.ids[1] for gpu in drm.read().value] == ["card10"]


def test_a_machine_without_gpus_has_none(root: Path) -> None:
    assert reader(root).read().value == ()
    (root / "card0").mkdir(parents=True)  # A virtual one: no device behind it.
    (root / "version").write_text("drm 1.1.0")
    reading = reader(root).read()
    assert (reading.value, reading.faults) == ((), ())


def test_the_address_is_the_devices_own_where_the_kernel_does_not_repeat_it(root: Path) -> None:
    place = add_card(root, 0)
    (place / "uevent").write_text("DRIVER=amdgpu\n")
    assert reader(root).read().value[0].id == "0000:03:00.0"


def test_a_gpu_behind_no_pci_slot_is_known_by_its_node(root: Path) -> None:
    place = add_card(root, 0, vendor="0x1af4", driver="virtio_gpu", address="virtio2")
    (place / "uevent").write_text("DRIVER=virtio_gpu\n")
    shutil.rmtree(place / "drm")
    assert reader(root).read().value[0].ids == ("card0",)


def test_memory_that_cannot_be_read_is_a_fault_and_the_card_stays(root: Path) -> None:
    add_card(root, 0, files={"mem_info_vram_total": "100", "mem_info_vram_used": "many"})
    other = add_card(root, 1, address="0000:04:00.0")
    (other / "mem_info_vram_total").mkdir()
    reading = reader(root).read()
    assert [gpu.memory_total_bytes for gpu in reading.value] == [100, None]
    assert reading.faults == (
        "card0: it says something else than a number",
        "card1: Is a directory",
    )


def test_a_card_that_says_nonsense_of_itself_is_left_out(root: Path) -> None:
    add_card(root, 0, vendor="\ufffd")
    reading = reader(root).read()
    assert reading.value == ()
    assert reading.faults == ("card0: it says something else than a number",)


def test_a_card_has_the_name_that_pci_ids_gives_it(root: Path, tmp_path: Path) -> None:
    names = tmp_path / "pci.ids"
    names.write_text("1002  AMD\n\t744c  Navi 31\n")
    add_card(root, 0)
    assert reader(root, names).read().value[0].name == "Navi 31"
