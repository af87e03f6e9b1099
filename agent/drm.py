"""The GPUs that Linux lists in /sys/class/drm; AMD's driver tells their memory there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from agent.gpus import Gpu, gpu_id
from agent.pci_names import PciNames
from agent.sensor import Reading

max_cards = 64
max_file_bytes = 4_096

# And not card0-DP-1, which is a connector of it.
_CARD = re.compile(r"card([0-9]{1,4})")
_NODE = re.compile(r"(?:card|renderD)[0-9]{1,4}")
_VENDORS = {0x1002: "amd", 0x10DE: "nvidia", 0x8086: "intel"}


class DrmReader:
    """Reads all GPUs below `root`. Blocks."""

    def __init__(self, root: Path = Path("/sys/class/drm"), names: PciNames | None = None) -> None:
        self._root = root
        self._names = names or PciNames()

    def read(self) -> Reading[tuple[Gpu, ...]]:
        """Give the GPUs, those without a vendor's number (virtual ones) left out."""
        gpus: list[Gpu] = []
        faults: list[str] = []
        for card in self._cards():
            try:
                gpus.append(self._gpu(card, faults))
            except FileNotFoundError:
                # Not a PCI device, or gone since the folder was listed.
                continue
            except (OSError, ValueError) as error:
                faults.append(_described(card.name, error))
        return Reading(tuple(gpus), tuple(faults))

    def _cards(self) -> list[Path]:
        try:
            entries = list(self._root.iterdir())
        except FileNotFoundError:
            return []
        numbered = [
            (int(match[1]), entry) for entry in entries if (match := _CARD.fullmatch(entry.name))
        ]
        return [card for _, card in sorted(numbered)][:max_cards]

    def _gpu(self, card: Path, faults: list[str]) -> Gpu:
        device = card / "device"
        vendor = int(_text(device / "vendor"), 16)
        model = int(_text(device / "device"), 16)
        event = _settings(_text(device / "uevent"))
        named = _VENDORS.get(vendor, f"{vendor:04x}")
        used = total = None
        try:
            total = _number(device / "mem_info_vram_total")
            used = _number(device / "mem_info_vram_used")
        except (OSError, ValueError) as error:
            faults.append(_described(card.name, error))
        return Gpu(
            ids=_ids(card, device, event),
            name=self._names.name(vendor, model) or f"{named} {model:04x}",
            vendor=named,
            driver=event.get("DRIVER", ""),
            memory_used_bytes=used,
            memory_total_bytes=total,
        )


def _ids(card: Path, device: Path, event: Mapping[str, str]) -> tuple[str, ...]:
    nodes = [card.name]
    if (device / "drm").is_dir():
        nodes += sorted(
            entry.name for entry in (device / "drm").iterdir() if _NODE.fullmatch(entry.name)
        )
    for place in (event.get("PCI_SLOT_NAME", ""), device.resolve().name):
        try:
            return tuple(dict.fromkeys([gpu_id(place), *nodes]))
        except ValueError:
            continue
    return tuple(dict.fromkeys(nodes))


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(max_file_bytes).decode("utf-8", "replace").strip()


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except FileNotFoundError:
        # A driver that does not tell: i915, xe, nouveau.
        return None


def _settings(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, _, value in pairs}


def _described(card: str, error: Exception) -> str:
    reason = (
        error.strerror if isinstance(error, OSError) else "it says something else than a number"
    )
    return f"{card}: {reason}"
