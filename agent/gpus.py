"""Which GPUs this machine has, by what its readers say together, and which of them a host uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from revdial.errors import printable
from revdial.messages import GpuReport, max_count

max_gpus = 16
"""Of one host; `HostReport` takes no more."""
max_gpu_name_characters = 64

_PCI_ADDRESS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")
_UUID = re.compile(r"gpu-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DRM_NODE = re.compile(r"(?:/dev/dri/)?((?:card|renderD)[0-9]{1,4})")
# Two boards of one model may differ by a few megabytes.
_ABOUT_AS_MUCH = 15 / 16


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as a reader sees it; `None` where the driver does not tell.

    `ids` are written as `gpu_id` does, never empty. The first, a PCI address where the GPU has
    one, is what all readers call it by.
    """

    ids: tuple[str, ...]
    name: str
    vendor: str = ""
    driver: str = ""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None

    @property
    def id(self) -> str:
        """What all readers call this GPU."""
        return self.ids[0]


@dataclass(frozen=True, slots=True)
class Selection:
    """The GPUs a host uses, and the names it was configured with that no reader knows."""

    gpus: tuple[Gpu, ...]
    missing: tuple[str, ...] = ()


def gpu_id(text: str) -> str:
    """Give the one way to write a GPU's PCI address, UUID or DRM node; ValueError for others.

    >>> gpu_id("00000000:0A:00.0")
    '0000:0a:00.0'
    >>> gpu_id("/dev/dri/renderD128")
    'renderD128'
    """
    node = _DRM_NODE.fullmatch(text)
    if node is not None:
        return node[1]
    lower = text.lower()
    if _UUID.fullmatch(lower):
        return lower
    address = _PCI_ADDRESS.fullmatch(lower)
    if address is None:
        raise ValueError(
            'name a GPU by its PCI address ("0000:01:00.0"), its DRM node ("renderD128") '
            'or its UUID ("GPU-…" in `nvidia-smi -L`)'
        )
    return f"{int(address[1] or '0', 16):04x}:{address[2]}"


def merge(first: Iterable[Gpu], better: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """Give every GPU once; of one that both readers know, what `better` says goes first."""
    gpus = {gpu.id: gpu for gpu in first}
    for gpu in better:
        known = gpus.get(gpu.id)
        gpus[gpu.id] = gpu if known is None else _both(known, gpu)
    return tuple(gpus.values())


def _both(known: Gpu, better: Gpu) -> Gpu:
    used, total = better.memory_used_bytes, better.memory_total_bytes
    return Gpu(
        ids=tuple(dict.fromkeys(better.ids + known.ids)),
        name=better.name or known.name,
        vendor=better.vendor or known.vendor,
        driver=better.driver or known.driver,
        memory_used_bytes=known.memory_used_bytes if used is None else used,
        memory_total_bytes=known.memory_total_bytes if total is None else total,
    )


def carry(last: Iterable[Gpu], now: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """Give what is known of a reader's GPUs after it failed at some or all of them.

    What it left out is what it was, but for the used memory. Else a driver that fails would hand
    its host over to the integrated GPU beside it, which is always full.
    """
    return merge((replace(gpu, memory_used_bytes=None) for gpu in last), now)


def select(gpus: Sequence[Gpu], wanted: Sequence[str] | None) -> Selection:
    """Choose the GPUs of a host: those it names, or else those with the most memory in total."""
    if wanted is None:
        return Selection(_largest(gpus)[:max_gpus])
    by_id = {each: gpu for gpu in gpus for each in gpu.ids}
    found = {by_id[name].id: by_id[name] for name in wanted if name in by_id}
    missing = dict.fromkeys(name for name in wanted if name not in by_id)
    return Selection(tuple(found.values()), tuple(missing))


def _largest(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    most = max((gpu.memory_total_bytes or 0 for gpu in gpus), default=0)
    largest = tuple(gpu for gpu in gpus if (gpu.memory_total_bytes or 0) >= most * _ABOUT_AS_MUCH)
    # NVIDIA's driver always knows unless it has failed, and then what is left to be the largest
    # may be the integrated one.
    silent = tuple(gpu for gpu in gpus if gpu.driver == "nvidia" and gpu.memory_total_bytes is None)
    if silent and not any(gpu.driver == "nvidia" for gpu in largest):
        return silent
    return largest


def report_of(gpu: Gpu) -> GpuReport:
    """Write a GPU as a heartbeat has it: text cleaned, and only numbers that a peer accepts."""
    name = printable(gpu.name, max_gpu_name_characters).strip()
    vendor = printable(gpu.vendor, max_gpu_name_characters).strip()
    return GpuReport(
        name=name or gpu.id,
        vendor=vendor,
        memory_used_bytes=sendable(gpu.memory_used_bytes),
        memory_total_bytes=sendable(gpu.memory_total_bytes),
    )


def sendable(number: int | None) -> int | None:
    """Give the number if it is one that a peer accepts, or else None."""
    return number if number is not None and 0 <= number <= max_count else None
