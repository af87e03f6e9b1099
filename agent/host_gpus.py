"""The GPUs of one host, as its heartbeats tell of them: stated by its owner, or read here."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from agent.budget import fit
from agent.config import HostConfig
from agent.gpus import Gpu, report_of, select
from agent.load import Address
from agent.machine import MachineState
from agent.wolf import parse_address
from revdial.errors import printable
from revdial.messages import GpuReport


class HostGpus:
    """Finds a host's GPUs among those of the machine; says once what it does not find.

    A host that is elsewhere (by its address) has no GPUs here unless its configuration names some.
    """

    def __init__(self, host: HostConfig, max_bytes: int) -> None:
        self._host = host
        self._max_bytes = max_bytes
        self._missing: frozenset[str] = frozenset()
        self._left_out = False
        self._log = structlog.get_logger().bind(host=host.name)

    def reports(self, machine: MachineState) -> tuple[GpuReport, ...]:
        """Give what a heartbeat says of them."""
        stated = self._host.gpu
        if stated is not None:
            return self._fitting(
                (GpuReport(stated.name, stated.vendor, None, stated.memory_total_bytes),)
            )
        wanted = self._host.gpus
        if wanted is None and not is_here(self._host.address, machine.addresses):
            return ()
        selection = select(machine.gpus, wanted)
        self._tell_missing(selection.missing, machine.gpus)
        found = tuple(report_of(gpu) for gpu in selection.gpus)
        return self._fitting(found + tuple(GpuReport(name) for name in selection.missing))

    def _tell_missing(self, missing: Sequence[str], there: Sequence[Gpu]) -> None:
        now = frozenset(missing)
        if now - self._missing:
            self._log.warning(
                "gpus_not_found",
                missing=sorted(now),
                there=[printable(" ".join((*gpu.ids, gpu.name))) for gpu in there],
            )
        elif self._missing and not now:
            self._log.info("gpus_found")
        self._missing = now

    def _fitting(self, reports: tuple[GpuReport, ...]) -> tuple[GpuReport, ...]:
        kept = fit(reports, self._max_bytes)
        if len(kept) < len(reports) and not self._left_out:
            self._left_out = True
            self._log.warning("gpus_left_out", gpus=len(reports), told=len(kept))
        return kept


def is_here(address: Address, own: frozenset[Address]) -> bool:
    """Whether an address is one of this machine's."""
    plain = parse_address(str(address)) or address
    return plain.is_loopback or plain.is_unspecified or plain in own
