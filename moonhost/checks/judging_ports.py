"""Judges the ports of an edge: free before it starts, and its own once it runs."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from moonhost.checks.finding import Finding, not_checked, ok, problem

Protocol = Literal["TCP", "UDP"]
max_shown: Final = 3


class PortState(StrEnum):
    """How a port is, seen from its own machine."""

    FREE = "free"
    OURS = "ours"
    TAKEN = "taken"
    CLOSED = "closed"
    """The edge runs, and nobody listens."""
    PRIVILEGED = "privileged"
    NO_ADDRESS = "no_address"
    """This machine does not have the address that was configured."""
    UNKNOWN = "unknown"
    """Somebody listens, and who it is is not told to this user."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PortFacts:
    """One port of one address, the setting that names it, and who has it if anybody does."""

    protocol: Protocol
    address: str
    port: int
    setting: str
    state: PortState
    holder: str = ""

    @property
    def where(self) -> str:
        """Return address and port as people write them."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol} {address}:{self.port}"


_states: Final = {
    errno.EADDRINUSE: PortState.TAKEN,
    errno.EACCES: PortState.PRIVILEGED,
    errno.EADDRNOTAVAIL: PortState.NO_ADDRESS,
    errno.EAFNOSUPPORT: PortState.NO_ADDRESS,
}


def state_of(number: int | None) -> PortState:
    """Return what an ``errno`` of an attempt to bind a port says of it; None is success."""
    return PortState.FREE if number is None else _states.get(number, PortState.FAILED)


def judge_ports(facts: Sequence[PortFacts]) -> list[Finding]:
    """Say which ports cannot be had, with what to do for each kind of trouble; and which can."""
    found = []
    for state, (seen, remedy) in _troubles.items():
        troubled = [fact for fact in facts if fact.state is state]
        if troubled:
            found.append(
                problem(
                    "ports",
                    f"{_listed(troubled)} {seen}",
                    remedy.format(settings=_settings(troubled)),
                )
            )
    privileged = [fact for fact in facts if fact.state is PortState.PRIVILEGED]
    if privileged:
        found.append(
            not_checked(
                "ports",
                f"nobody has {_listed(privileged)}, which this user may not bind",
                "ports below 1024 need the right that the edge's systemd unit gives "
                "(AmbientCapabilities=CAP_NET_BIND_SERVICE); without it set "
                f"{_settings(privileged)} to 1024 or above",
            )
        )
    unknown = [fact for fact in facts if fact.state is PortState.UNKNOWN]
    if unknown:
        found.append(
            not_checked(
                "ports",
                f"somebody listens at {_listed(unknown)}",
                "whose they are is told to root only: run this as root",
            )
        )
    fine = [fact for fact in facts if fact.state in (PortState.FREE, PortState.OURS)]
    if fine:
        are = "are the edge's" if fine[0].state is PortState.OURS else "are free"
        found.append(ok("ports", f"{_numbers(fine)} {are}"))
    return found


_troubles: Final = {
    PortState.TAKEN: (
        "cannot be had: somebody else has it",
        "Stop that, or set another {settings}.",
    ),
    PortState.NO_ADDRESS: (
        "cannot be had: this machine does not have that address",
        "Name only addresses that `ip address` shows, in the same section as {settings}.",
    ),
    PortState.CLOSED: (
        "is not open, although the edge runs",
        "Restart the edge if {settings} was changed; its log says what else went wrong.",
    ),
    PortState.FAILED: (
        "cannot be had",
        "Start the edge and read what it says of {settings}.",
    ),
}


def _listed(facts: Sequence[PortFacts]) -> str:
    shown = [
        f"{fact.where} ({fact.holder})" if fact.holder else fact.where for fact in facts[:max_shown]
    ]
    more = len(facts) - max_shown
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _settings(facts: Iterable[PortFacts]) -> str:
    names = list(dict.fromkeys(fact.setting for fact in facts))
    return " or ".join(names[:max_shown]) + (" and so on" if len(names) > max_shown else "")


def _numbers(facts: Iterable[PortFacts]) -> str:
    numbers: dict[str, set[int]] = {}
    for fact in facts:
        numbers.setdefault(fact.protocol, set()).add(fact.port)
    return "; ".join(f"{protocol} {spans(ports)}" for protocol, ports in numbers.items())


def spans(numbers: Iterable[int]) -> str:
    """Write numbers shortly, those in a row as one span: ``443, 48010-48073``."""
    rows: list[list[int]] = []
    for number in sorted(set(numbers)):
        if rows and number == rows[-1][1] + 1:
            rows[-1][1] = number
        else:
            rows.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in rows)
