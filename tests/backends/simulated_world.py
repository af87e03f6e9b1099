"""The hosts and the players of `simulated_day`: where they are, how busy, and what games need."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from backends.apps import AppOffer
from backends.geography import Place
from backends.offerings import AgentOffering, GpuMemory, HostOffering, HostStatus
from backends.registry import ConnectionId
from backends.slots import Reservation

GIB = 1 << 30
HOUR_S, DAY_S = 3_600.0, 86_400.0

HEARTBEAT_S = 360.0
GROWTH_S = 600.0
MOST_OF_GPU = 0.97
REGIONS = {
    "frankfurt": Place(50.11, 8.68),
    "virginia": Place(38.95, -77.45),
    "oregon": Place(45.6, -121.18),
    "singapore": Place(1.35, 103.82),
    "sao-paulo": Place(-23.55, -46.63),
}
CITIES = {
    "London": (51.5, -0.1, 9),
    "Paris": (48.9, 2.4, 9),
    "Berlin": (52.5, 13.4, 8),
    "Warsaw": (52.2, 21.0, 5),
    "Lagos": (6.5, 3.4, 3),
    "New York": (40.7, -74.0, 12),
    "Chicago": (41.9, -87.6, 7),
    "Denver": (39.7, -105.0, 4),
    "Los Angeles": (34.1, -118.2, 12),
    "Vancouver": (49.3, -123.1, 4),
    "São Paulo": (-23.6, -46.6, 12),
    "Buenos Aires": (-34.6, -58.4, 6),
    "Tokyo": (35.7, 139.7, 8),
    "Jakarta": (-6.2, 106.8, 7),
    "Mumbai": (19.1, 72.9, 6),
    "Sydney": (-33.9, 151.2, 4),
}
GAMES = {"Desktop": 0.4, "Chess": 0.6, "Racing": 1.4, "Open World": 2.0}
"""What each comes to need of GPU memory, in GiB: a session is taken to need two at most."""


@dataclass(eq=False)
class Session:
    """A player at a host, from the decision on."""

    player: str
    host: Host
    reservation: Reservation
    gpu_bytes: float
    started_at: float = math.inf

    def memory(self, now: float) -> float:
        """A fifth at the start, and all of it after `GROWTH_S`."""
        if now < self.started_at:
            return 0.0
        return self.gpu_bytes * (0.2 + 0.8 * min(1.0, (now - self.started_at) / GROWTH_S))


@dataclass(eq=False)
class Host:
    """A machine with a GPU."""

    name: str
    slots: int
    gpu_bytes: int
    base_bytes: float
    tells_memory: bool
    sessions: set[Session] = field(default_factory=set)
    broken: bool = False
    drained: bool = False

    def memory(self, now: float) -> float:
        return self.base_bytes + sum(session.memory(now) for session in self.sessions)

    def status(self, now: float) -> HostStatus:
        memory = GpuMemory(math.ceil(self.memory(now)), self.gpu_bytes)
        return HostStatus(
            self.name,
            "http" if self.broken else None,
            sum(session.started_at <= now for session in self.sessions),
            None,
            memory if self.tells_memory else None,
        )


@dataclass(eq=False)
class Agent:
    """Beside some hosts."""

    name: str
    region: str
    hosts: list[Host]
    rtt_s: float
    connection: ConnectionId | None = None
    cut: bool = False

    @property
    def offering(self) -> AgentOffering:
        apps = tuple(AppOffer(title, number) for number, title in enumerate(GAMES))
        hosts = tuple(HostOffering(host.name, "wolf", host.slots, apps) for host in self.hosts)
        return AgentOffering(self.name, self.region, None, None, hosts)


def busyness(when: float, longitude: float) -> float:
    """How many play at a time of day, of those who do at eight in the evening: 0-1."""
    local_hour = (when / HOUR_S + longitude / 15) % 24
    return 0.5 + 0.5 * math.cos((local_hour - 20) / 24 * 2 * math.pi)
