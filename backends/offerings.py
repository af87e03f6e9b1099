"""What agents tell of their hosts: offers when they connect, and how they are from then on."""

from __future__ import annotations

from dataclasses import dataclass

from backends.apps import AppOffer


@dataclass(frozen=True, slots=True)
class HostOffering:
    """A host as its agent offers it when it connects."""

    name: str
    kind: str
    max_sessions: int
    apps: tuple[AppOffer, ...] = ()
    own_addresses: bool = True
    """It sees each session come from an address of its own."""
    by_address: bool = False
    """It tells sessions apart by address alone, says its operator."""


@dataclass(frozen=True, slots=True)
class AgentOffering:
    """An agent as it introduces itself; `agent_id` is the one that its token proves."""

    agent_id: str
    region: str
    latitude: float | None
    longitude: float | None
    hosts: tuple[HostOffering, ...]


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Of the fullest GPU that a host uses, in bytes."""

    used: int
    total: int


@dataclass(frozen=True, slots=True)
class HostStatus:
    """What a heartbeat says of a host; None is for what the agent cannot tell."""

    name: str
    down: str | None = None
    """A service that did not answer."""
    sessions: int | None = None
    apps: tuple[AppOffer, ...] | None = None
    gpu_memory: GpuMemory | None = None
