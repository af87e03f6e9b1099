"""Judges an agent's way to its edge, and its hosts, as they look from its machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from moonhost.checks.finding import Finding, not_checked, ok, problem, warning

tolerated_skew: Final = timedelta(seconds=5)
harmful_skew: Final = timedelta(seconds=60)

# Of <openssl/x509_vfy.h>.
_not_yet_valid: Final = 9
_expired: Final = 10
_unknown_issuer: Final = {18, 19, 20, 21}
_wrong_name: Final = {62, 64}

_token_taken: Final = 404
"""Of a path that the edge does not have, which it says only to who has shown a valid token."""
_token_refused: Final = {401, 403}
_cannot_tell: Final = 503


@dataclass(frozen=True, slots=True)
class TlsFault:
    """Why no TLS came about; `verify_code` is OpenSSL's where the certificate was the reason."""

    message: str
    verify_code: int | None


@dataclass(frozen=True, slots=True)
class DialFacts:
    """How far a connection to the edge came; what follows a failure is None."""

    host: str
    port: int
    addresses: tuple[str, ...]
    """Empty where the name cannot be looked up."""
    connect_fault: str | None = None
    tls_fault: TlsFault | None = None
    encrypted: bool = True
    http_fault: str | None = None
    status: int | None = None
    token_of: str = ""
    """Whose the token is that was taken; empty where the edge does not say."""
    skew: timedelta | None = None
    """How far this machine's clock is ahead of the edge's; None where it did not say."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What answers at a host: the fault of each port (None: none), and of its own API."""

    name: str
    ports: Mapping[str, str | None]
    """By service and number, as in ``HTTP 47989``."""
    api: str
    """What it is called; empty where none is configured."""
    api_fault: str | None
    api_setting: str


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The GPUs of a host as they can be read: names, and those whose memory is not told."""

    host: str
    found: tuple[str, ...]
    silent: tuple[str, ...]
    missing: tuple[str, ...]
    """Configured, and not there."""
    there: tuple[str, ...]
    """The ids of all that this machine has."""


def judge_dial(facts: DialFacts, agent_id: str) -> list[Finding]:
    """Say how far the way to the edge is free, and what blocks it."""
    where = f"{facts.host} port {facts.port}"
    if not facts.addresses:
        return [
            problem(
                "edge",
                f"{facts.host} cannot be looked up",
                "Write edge.url as the edge's name is, or repair this machine's DNS.",
            )
        ]
    if facts.connect_fault is not None:
        return [
            problem(
                "edge",
                f"no connection to {where}: {facts.connect_fault}",
                "Start the edge, or let outgoing TCP to that port through; "
                "`moonhost doctor` on the edge's machine says whether it listens.",
            )
        ]
    if facts.tls_fault is not None:
        return [_of_tls(facts.tls_fault, facts.host, where)]
    found = [ok("edge", f"{where} answers, and its certificate is trusted")]
    if not facts.encrypted:
        found = [ok("edge", f"{where} answers, without TLS")]
    found += [_of_answer(facts, agent_id)]
    if facts.skew is not None:
        found.append(_of_clock(facts.skew))
    return found


def _of_tls(fault: TlsFault, host: str, where: str) -> Finding:
    seen = f"the certificate at {where} is not trusted: {fault.message}"
    code = fault.verify_code
    if code is None:
        return problem(
            "edge",
            f"no TLS at {where}: {fault.message}",
            "Set edge.url to the edge's agents.port; something else answers there.",
        )
    if code == _expired:
        return problem(
            "edge", seen, "Renew it at the edge; if it has not expired, set this clock right."
        )
    if code == _not_yet_valid:
        return problem("edge", seen, "Set this machine's clock right.")
    if code in _wrong_name:
        return problem(
            "edge",
            seen,
            f"Write edge.url with the name that the certificate is for, or get one for {host} "
            "at the edge.",
        )
    if code in _unknown_issuer:
        return problem(
            "edge",
            seen,
            "If the edge made its own, copy its state_dir/agents.pem here and name it as "
            "edge.ca_file; else the edge has to show its certificate with the whole chain.",
        )
    return problem("edge", seen, "Give the edge a certificate that agents can verify.")


def _of_answer(facts: DialFacts, agent_id: str) -> Finding:
    if facts.http_fault is not None:
        return problem(
            "token",
            f"the edge did not answer: {facts.http_fault}",
            "Set edge.url to the edge's agents.port, and let WebSockets through on the way.",
        )
    if facts.status == _token_taken and facts.token_of not in ("", agent_id):
        return problem(
            "token",
            f"it is {facts.token_of}'s, and this agent is called {agent_id}",
            f"Set agent.id to {facts.token_of}, or make a token at the edge with "
            f"`moonhost token agent {agent_id}`.",
        )
    if facts.status == _token_taken:
        return ok("token", "the edge takes this agent's token")
    if facts.status in _token_refused:
        return problem(
            "token",
            f"the edge does not take this agent's token ({facts.status})",
            f"Make a new one at the edge with `moonhost token agent {agent_id}`.",
        )
    if facts.status == _cannot_tell:
        return problem(
            "token",
            "the edge cannot look tokens up now",
            "Run `moonhost doctor` on the edge's machine: its store does not answer.",
        )
    return problem(
        "token",
        f"what answers is no edge (status {facts.status})",
        "Set edge.url to the edge's agents.port, and have proxies on the way pass everything on.",
    )


def _of_clock(skew: timedelta) -> Finding:
    seconds = skew.total_seconds()
    if abs(skew) <= tolerated_skew:
        return ok("clock", "it agrees with the edge's")
    seen = f"it is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the edge's"
    remedy = "Have both synchronised: `timedatectl set-ntp true`, or chrony."
    if abs(skew) >= harmful_skew:
        return problem("clock", seen, f"{remedy} Certificates are judged by it.")
    return warning("clock", seen, remedy)


def judge_host(facts: HostFacts) -> list[Finding]:
    """Say what of a host answers."""
    found = []
    closed = {port: fault for port, fault in facts.ports.items() if fault is not None}
    if closed:
        told = "; ".join(f"{port}: {fault}" for port, fault in closed.items())
        found.append(
            problem(
                "hosts",
                f"{facts.name} does not answer at {told}",
                "Start the host, or set its address and ports right in [[hosts]].",
            )
        )
    else:
        found.append(ok("hosts", f"{facts.name} answers at {', '.join(facts.ports)}"))
    if not facts.api:
        found.append(
            warning(
                "hosts",
                f"no API of {facts.name} is configured",
                f"Set {facts.api_setting}, or players cannot be paired there.",
            )
        )
    elif facts.api_fault is not None:
        found.append(
            problem(
                "hosts",
                f"{facts.api} of {facts.name} is of no use: {facts.api_fault}",
                f"Set {facts.api_setting} right, and let the agent's user reach it.",
            )
        )
    else:
        found.append(ok("hosts", f"{facts.api} of {facts.name} answers"))
    return found


def judge_gpus(facts: GpuFacts) -> Finding:
    """Say whether the edge will know how full a host's GPUs are."""
    if facts.missing:
        there = ", ".join(facts.there) or "none"
        return problem(
            "GPUs",
            f"{facts.host} names {', '.join(facts.missing)}, and this machine has {there}",
            "Set gpus of that host to ids that are there.",
        )
    if not facts.found:
        return warning(
            "GPUs",
            f"none is found for {facts.host}",
            "Give the agent access to /dev/dri and NVIDIA's driver (in a container: --gpus all), "
            "or state the GPU as `gpu`; without its memory the edge cannot see a full host.",
        )
    if facts.silent:
        return warning(
            "GPUs",
            f"how full {', '.join(facts.silent)} of {facts.host} is cannot be read",
            "Give the agent's user access to the driver's files; the edge goes by counts of "
            "sessions meanwhile.",
        )
    return ok("GPUs", f"{facts.host} uses {', '.join(facts.found)}")


def udp_is_not_checked(hosts: Sequence[str]) -> Finding:
    """Return that nobody knows of UDP before somebody plays."""
    return not_checked(
        "hosts", f"UDP ports of {', '.join(hosts)}", "a host opens them for a session only"
    )
