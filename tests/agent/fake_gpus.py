"""GPUs in the place of a machine's: a folder like /sys/class/drm, and a module like pynvml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RTX_UUID = "GPU-8f6d2a10-0c3e-4b57-9a11-22d7e5b0c9f4"


def add_card(
    root: Path,
    number: int,
    *,
    vendor: str = "0x1002",
    device: str = "0x744c",
    driver: str = "amdgpu",
    address: str = "0000:03:00.0",
    files: dict[str, str] | None = None,
) -> Path:
    """Add a card as Linux shows it, with its connectors; gives its device's folder."""
    place = root.parent / "devices" / address
    (place / "drm" / f"card{number}").mkdir(parents=True)
    (place / "drm" / f"renderD{128 + number}").mkdir()
    (place / "vendor").write_text(f"{vendor}\n")
    (place / "device").write_text(f"{device}\n")
    (place / "uevent").write_text(f"DRIVER={driver}\nPCI_SLOT_NAME={address}\n")
    for name, content in (files or {}).items():
        (place / name).write_text(content)
    for name in (f"card{number}", f"card{number}-DP-1", f"renderD{128 + number}"):
        (root / name).mkdir(parents=True)
        (root / name / "device").symlink_to(place)
    return place


def vram(used: int, total: int) -> dict[str, str]:
    return {"mem_info_vram_used": f"{used}\n", "mem_info_vram_total": f"{total}\n"}


class FakeNvmlError(Exception):
    """Raised as pynvml's errors are: with the library's code as `value`."""

    def __init__(self, value: int, text: str = "Unknown Error") -> None:
        super().__init__(text)
        self.value = value


@dataclass
class FakeCard:
    """A GPU of the fake library; an exception in the place of a value is raised."""

    busId: Any = "00000000:01:00.0"  # noqa: N815 - NVML's name
    uuid: Any = RTX_UUID
    name: Any = "NVIDIA GeForce RTX 4090"
    memory: Any = (1 << 30, 24 << 30)


@dataclass
class FakeNvml:
    """What is used of the module pynvml."""

    cards: list[FakeCard] = field(default_factory=list)
    init_fails: Exception | None = None
    count_fails: Exception | None = None
    shutdown_fails: Exception | None = None
    calls: list[str] = field(default_factory=list)
    before_count: Callable[[], object] = lambda: None

    NVMLError = FakeNvmlError

    def nvmlInit(self) -> None:  # noqa: N802
        self.calls.append("init")
        self._raise(self.init_fails)

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.calls.append("shutdown")
        self._raise(self.shutdown_fails)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self.before_count()
        self._raise(self.count_fails)
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeCard:  # noqa: N802
        return self.cards[index]

    def nvmlDeviceGetPciInfo(self, card: FakeCard) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(busId=self._raise(card.busId))

    def nvmlDeviceGetUUID(self, card: FakeCard) -> Any:  # noqa: N802
        return self._raise(card.uuid)

    def nvmlDeviceGetName(self, card: FakeCard) -> Any:  # noqa: N802
        return self._raise(card.name)

    def nvmlDeviceGetMemoryInfo(self, card: FakeCard) -> SimpleNamespace:  # noqa: N802
        used, total = self._raise(card.memory)
        return SimpleNamespace(used=used, total=total)

    @staticmethod
    def _raise(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value
