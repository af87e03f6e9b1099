"""Judges what DNS says of the edge's public name, beside where the edge listens."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

from moonhost.checks.finding import Finding, ok, problem, warning


@dataclass(frozen=True, slots=True)
class NameFacts:
    """A name, and what this machine knows of its addresses."""

    hostname: str
    addresses: tuple[str, ...]
    """What it stands for; empty where nobody knows."""
    own: frozenset[str]
    """This machine's addresses."""
    listens_on_ipv6: bool
    """Both for players and for agents."""


def judge_name(facts: NameFacts) -> list[Finding]:
    """Say whether whoever asks for the name comes here."""
    if not facts.addresses:
        return [
            problem(
                "DNS",
                f"{facts.hostname} cannot be looked up",
                "Make an A record for it (and AAAA if the edge has IPv6), or set hostname to the "
                "name that players and agents use.",
            )
        ]
    parsed = {text: ip_address(text) for text in facts.addresses}
    found = []
    if not facts.listens_on_ipv6 and any(one.version == 6 for one in parsed.values()):
        found.append(
            problem(
                "DNS",
                f"{facts.hostname} has an AAAA record, and the edge does not listen on IPv6",
                'Add "::" to listen.addresses and agents.addresses, or take the AAAA record away.',
            )
        )
    elsewhere = [text for text in facts.addresses if text not in facts.own]
    listed = ", ".join(facts.addresses)
    if _is_literal(facts.hostname):
        pass
    elif all(one.is_loopback for one in parsed.values()):
        found.append(
            warning(
                "DNS",
                f"{facts.hostname} is {listed} here, which nobody else reaches",
                "Take it out of this machine's /etc/hosts to see what others see.",
            )
        )
    if elsewhere:
        found.append(_elsewhere(facts.hostname, elsewhere, facts.own))
    return found or [ok("DNS", f"{facts.hostname} is {listed}: this machine")]


def _elsewhere(hostname: str, addresses: list[str], own: Collection[str]) -> Finding:
    shown = (text for text in own if not ip_address(text).is_loopback)
    mine = ", ".join(sorted(text for text in shown if not ip_address(text).is_link_local))
    return warning(
        "DNS",
        f"{hostname} is {', '.join(addresses)}, and this machine has {mine or 'no address'}",
        "That is right behind NAT or a load balancer, if it forwards all ports of the edge to "
        "this machine unchanged; if there is none, set the record right.",
    )


def _is_literal(hostname: str) -> bool:
    try:
        ip_address(hostname)
    except ValueError:
        return False
    return True
