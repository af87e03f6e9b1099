"""Judges what stands behind an edge, and before it: agents, hosts, drains, wakes, places, UDP."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from backends.registry import launches_fail, telemetry_stale, tunnel_down
from moonhost.checks.finding import Finding, not_checked, ok, problem, warning

slow_tunnel_ms: Final = 150
old_database: Final = timedelta(days=60)
reached: Final = "reached"
_services: Final = ("http", "https", "rtsp")


@dataclass(frozen=True, slots=True)
class Place:
    """What the edge has to tell where players are."""

    edge_region: str | None
    has_regions: bool
    databases: tuple[GeoFile, ...]


@dataclass(frozen=True, slots=True)
class GeoFile:
    """One file of places; `fault` says why it is of no use."""

    path: Path
    fault: str | None
    built_at: datetime | None


@dataclass(frozen=True, slots=True)
class WakeWish:
    """A host that sleeps, and the agent that is to wake it (None: the webhook)."""

    backend: str
    via_agent: str | None


@dataclass(frozen=True, slots=True)
class ProbeFacts:
    """What an agent's probes of the UDP ports showed."""

    agent: str
    sent_to: str
    hostname: str
    ports: Mapping[str, tuple[int, bool]]
    """Number, and whether probes came out there, by flow."""
    is_near: bool = False
    """Whether the agent is in a private network, and so perhaps behind the edge's firewall."""


def judge_agents(agents: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Say of each agent whether it is connected, as the admin API tells of it."""
    if not agents:
        return [
            warning(
                "agents",
                "no agent holds a token",
                "Make one with `moonhost token agent NAME`, and run `moonhost agent` with it "
                "beside the hosts.",
            )
        ]
    return [_agent(agent) for agent in agents]


def _agent(agent: Mapping[str, Any]) -> Finding:
    name, rtt_ms = agent["id"], agent["rtt_ms"]
    if not agent["connected"]:
        return warning(
            "agents",
            f"{name} is not connected",
            "Run `moonhost doctor agent` on its machine; it says what keeps it away.",
        )
    if rtt_ms is not None and rtt_ms > slow_tunnel_ms:
        return warning(
            "agents",
            f"{name} is connected, with a round trip of {rtt_ms:.0f} ms",
            "Players will feel it: put an edge nearer to it, or see what fills its uplink.",
        )
    version = agent["version"] or "it does not tell its version"
    return ok("agents", f"{name} is connected since {agent['connected_at']} ({version})")


def judge_backends(
    backends: Sequence[Mapping[str, Any]], sleepers: Collection[str]
) -> list[Finding]:
    """Say which hosts cannot be played on and why; those of agents that are away are told there."""
    found = []
    fine = []
    for backend in backends:
        name, trouble = backend["id"], backend["trouble"]
        if trouble == tunnel_down:
            continue
        if trouble is None and backend["draining"]:
            found.append(
                ok("hosts", f"{name} drains: it takes nobody new until `moonhost undrain`")
            )
        elif trouble is None and not backend["apps"]:
            found.append(
                warning(
                    "hosts",
                    f"{name} has no apps, so nobody can play there",
                    "Run `moonhost doctor agent` on its machine: the host's API does not answer, "
                    "or the host has none.",
                )
            )
        elif trouble is None:
            fine.append(name)
        elif trouble == telemetry_stale:
            found.append(
                warning(
                    "hosts",
                    f"nothing was heard of {name} for a while, though its agent is connected",
                    "Look at its agent's log: heartbeats fail there.",
                )
            )
        elif name in sleepers:
            found.append(ok("hosts", f"{name} does not answer, and is one that is woken"))
        else:
            found.append(
                problem(
                    "hosts",
                    f"{name} is down: {_why(trouble)}",
                    "Start the host, or set its ports right in the agent's configuration; "
                    "`moonhost doctor agent` there says more.",
                )
            )
    return [ok("hosts", f"{', '.join(fine)} can be played on"), *found] if fine else found


def _why(trouble: str) -> str:
    if trouble in _services:
        return f"its {trouble} port does not answer its agent"
    if trouble == launches_fail:
        return "its agent could not connect to it for a launch"
    return "it does not answer its agent"


def judge_drains(drains: Sequence[Mapping[str, Any]], now: datetime) -> list[Finding]:
    """Say which drains are over and were not lifted."""
    return [
        warning(
            "drains",
            f"{drain['target']} has drained since {drain['since']}; its deadline is over",
            f"Run `moonhost undrain {drain['target']}` once the maintenance is done.",
        )
        for drain in drains
        if drain["deadline"] is not None and datetime.fromisoformat(drain["deadline"]) <= now
    ]


def judge_wakes(wishes: Sequence[WakeWish], agents: Collection[str]) -> list[Finding]:
    """Say which hosts nobody can wake, since the agent named for it holds no token."""
    found = []
    for wish in wishes:
        owner = wish.backend.partition("/")[0]
        unknown = sorted({wish.via_agent or owner, owner} - set(agents))
        if unknown:
            found.append(
                problem(
                    "wake",
                    f"wake.hosts has {wish.backend}, and no agent {' or '.join(unknown)} "
                    "holds a token",
                    "Write backend and via_agent as the agents are called, or make the token "
                    "with `moonhost token agent NAME`.",
                )
            )
    if wishes and not found:
        found.append(ok("wake", f"the agents of {len(wishes)} sleeping hosts are known"))
    return found


def judge_place(place: Place, now: datetime) -> list[Finding]:
    """Say whether players can be sent to the nearest host."""
    check = "geography"
    found = []
    for file in place.databases:
        if file.fault is not None:
            found.append(
                problem(
                    check,
                    f"{file.path} is of no use: {file.fault}",
                    "Get the file anew, readable by the edge's user, or take it out of "
                    "geography.databases.",
                )
            )
        elif file.built_at is not None and now - file.built_at > old_database:
            found.append(
                warning(
                    check,
                    f"{file.path} is of {file.built_at:%Y-%m-%d}",
                    "Get a newer one, as with geoipupdate: addresses move.",
                )
            )
    if place.edge_region is None and (place.has_regions or place.databases):
        found.append(
            warning(
                check,
                "geography.edge_region is not set",
                "Set it to the region that this edge is in: players whom no database knows "
                "count as being there.",
            )
        )
    if found:
        return found
    if place.edge_region is None:
        return [ok(check, "no regions are configured: the quickest tunnel decides")]
    return [ok(check, f"the edge is in {place.edge_region}; {len(place.databases)} databases")]


def judge_probe(facts: ProbeFacts) -> list[Finding]:
    """Say which UDP ports players can reach, as far as an agent's way here is like theirs."""
    check = "UDP from outside"
    open_ports = [f"{flow} {port}" for flow, (port, came) in facts.ports.items() if came]
    closed = [f"{flow} {port}" for flow, (port, came) in facts.ports.items() if not came]
    found = []
    if open_ports:
        near = " (it is near: a firewall before both is not seen)" if facts.is_near else ""
        found.append(ok(check, f"{facts.agent} reaches {', '.join(open_ports)}{near}"))
    if closed and _plain(facts.sent_to) != _plain(facts.hostname):
        found.append(
            warning(
                check,
                f"{facts.agent} does not reach {', '.join(closed)} at {facts.sent_to}, which it "
                f"dials instead of {facts.hostname}",
                f"If players come in at {facts.sent_to}, open these UDP ports there; else set "
                f"the agent's edge.url to wss://{facts.hostname} and try again.",
            )
        )
    elif closed:
        found.append(
            problem(
                check,
                f"{facts.agent} does not reach {', '.join(closed)} at {facts.sent_to}",
                "Open these UDP ports in the firewalls before the edge (the provider's, too), "
                "and forward them to it where it is behind NAT; or the agent's own network lets "
                "no UDP out.",
            )
        )
    return found


def is_near(address: str) -> bool:
    """Tell whether an agent's ``address:port`` is none of the Internet's."""
    return not ip_address(address.rpartition(":")[0].strip("[]").partition("%")[0]).is_global


def _plain(hostname: str) -> str:
    return hostname.lower().rstrip(".")


def no_probe(why: str) -> Finding:
    """Return that nothing is known of UDP from outside."""
    return not_checked("UDP from outside", "the ports for video, audio and control", why)
