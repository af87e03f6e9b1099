"""Names of devices, out of a file like pci.ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.pci_names import PciNames, find

PCI_IDS = """\
# A comment

1002  Advanced Micro Devices, Inc.
\t744c  Navi 31 [Radeon RX 7900 XT]
\t\t1002 0e3b  A board of that
# Another comment
\t7480  Navi 33
10de  NVIDIA Corporation
\t2684  AD102 [GeForce RTX 4090]
C 03  Display controller
\t00  VGA compatible controller
"""


@pytest.mark.parametrize(
    ("vendor", "device", "name"),
    [
        (0x1002, 0x744C, "Navi 31 [Radeon RX 7900 XT]"),
        (0x1002, 0x7480, "Navi 33"),
        (0x10DE, 0x2684, "AD102 [GeForce RTX 4090]"),
        (0x1002, 0x2684, ""),
        (0x10DE, 0x0000, ""),
        (0x8086, 0x56A0, ""),
    ],
)
def test_a_device_is_found_below_its_vendor(vendor: int, device: int, name: str) -> None:
    assert find(PCI_IDS.splitlines(keepends=True), vendor, device) == name


def test_a_file_may_end_with_its_vendor() -> None:
    assert find(["1002  AMD\n"], 0x1002, 0x744C) == ""


def test_a_name_is_looked_up_once(tmp_path: Path) -> None:
    path = tmp_path / "pci.ids"
    path.write_text(PCI_IDS)
    names = PciNames([tmp_path / "absent", path])
    assert names.name(0x1002, 0x7480) == "Navi 33"
    path.unlink()
    assert names.name(0x1002, 0x7480) == "Navi 33"
    assert names.name(0x1002, 0x744C) == ""
