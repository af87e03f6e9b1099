"""What PCI devices are called, by the machine's own pci.ids where it has one."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

max_lines = 200_000
max_names = 256

_PATHS = (Path("/usr/share/hwdata/pci.ids"), Path("/usr/share/misc/pci.ids"))


class PciNames:
    """Looks each device up once, in the first of `paths` that can be read. Blocks."""

    def __init__(self, paths: Iterable[Path] = _PATHS) -> None:
        self._paths = tuple(paths)
        self._names: dict[tuple[int, int], str] = {}

    def name(self, vendor: int, device: int) -> str:
        """Give the device's name as the file has it, or "" where that is not known."""
        key = (vendor, device)
        if key not in self._names and len(self._names) < max_names:
            self._names[key] = self._look_up(vendor, device)
        return self._names.get(key, "")

    def _look_up(self, vendor: int, device: int) -> str:
        for path in self._paths:
            try:
                with path.open(encoding="utf-8", errors="replace") as lines:
                    return find(islice(lines, max_lines), vendor, device)
            except OSError:
                continue
        return ""


def find(lines: Iterable[str], vendor: int, device: int) -> str:
    """Find a device among the lines of a pci.ids: vendors at the margin, devices one tab in."""
    wanted_vendor, wanted_device = f"{vendor:04x} ", f"\t{device:04x} "
    within = iter(lines)
    for line in within:
        if line.startswith(wanted_vendor):
            break
    for line in within:
        if line.startswith(wanted_device):
            return line[len(wanted_device) :].strip()
        if line.strip() and line[0] not in "\t#":
            break
    return ""
