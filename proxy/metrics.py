"""Figures of a running edge for Prometheus, read from its parts when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backends.model import Health
from proxy.doors import Doors
from proxy.fleet import Fleet
from proxy.keeping_apart import KeepingApart
from proxy.media import Media
from proxy.sessions import SessionState, SessionTable
from proxy.waker import Waker
from revdial.observer import Counters

_namespace: Final = "moonhost"


class EdgeCollector(Collector):
    """Turns the edge's own counters into metrics; labels hold only names that the edge gives."""

    def __init__(
        self,
        *,
        sessions: SessionTable,
        fleet: Fleet,
        media: Media,
        doors: Doors,
        apart: KeepingApart,
        rtsp_refused: Counter[str],
        tunnels: Counters,
        waker: Waker,
    ) -> None:
        self._sessions = sessions
        self._fleet = fleet
        self._media = media
        self._doors = doors
        self._apart = apart
        self._rtsp_refused = rtsp_refused
        self._tunnels = tunnels
        self._waker = waker

    def collect(self) -> Iterator[Metric]:
        """Read everything once."""
        states = Counter(session.state for session in self._sessions)
        yield _gauge(
            "sessions",
            "Sessions by state.",
            "state",
            {state: states[state] for state in SessionState},
        )
        yield from self._of_backends()
        connections = GaugeMetricFamily(
            f"{_namespace}_client_connections", "TCP connections of clients."
        )
        connections.add_metric([], self._doors.open_connections)
        yield connections
        yield _counter(
            "connections_refused", "TCP connections of clients refused.", self._doors.refused
        )
        yield _counter(
            "rtsp_refused", "RTSP messages unreadable or no session's.", self._rtsp_refused
        )
        yield _counter(
            "kept_apart",
            "What hosts that cannot tell sessions apart were spared.",
            self._apart.refused,
        )
        yield _counter(
            "datagrams_dropped",
            "Datagrams that were not carried on.",
            self._media.drops() + self._waker.dropped,
        )
        yield _counter(
            "tunnel_refusals", "What the agents' port turned away.", self._tunnels.refusals
        )
        yield _counter("tunnel_losses", "What tunnels dropped or gave up.", self._tunnels.losses)
        yield _counter("tunnels_ended", "Tunnels that ended.", self._tunnels.downs)
        yield _counter(
            "wakes", "What came of wishes to wake hosts.", self._waker.wakes, label="outcome"
        )

    def _of_backends(self) -> Iterator[Metric]:
        backends = self._fleet.backends()
        yield _gauge(
            "backend_sessions",
            "Sessions and reservations of a backend.",
            "backend",
            {backend.id: backend.sessions for backend in backends},
        )
        yield _gauge(
            "backend_healthy",
            "1 for a backend that is healthy, 0 for one that is degraded or unhealthy.",
            "backend",
            {backend.id: int(backend.health is Health.HEALTHY) for backend in backends},
        )
        yield _gauge(
            "backend_draining",
            "1 for a backend that takes no new sessions.",
            "backend",
            {backend.id: int(backend.draining) for backend in backends},
        )
        yield _gauge(
            "backend_gpu_memory_share",
            "Memory in use of a backend's fullest GPU, 0-1; absent while it is not known.",
            "backend",
            {
                backend.id: backend.gpu_memory_share
                for backend in backends
                if backend.gpu_memory_share is not None
            },
        )
        yield _counter(
            "backend_transitions", "Changes of backends, by new state.", self._fleet.transitions
        )
        yield _counter("decisions", "Backends chosen, by reason.", self._fleet.decisions)
        yield _counter(
            "launches_without_backend", "Launches that no backend could take.", self._fleet.refusals
        )
        yield _counter(
            "failovers", "Backends that failed to start an app, by reason.", self._fleet.failovers
        )


def registry(collector: EdgeCollector) -> CollectorRegistry:
    """Return a registry of its own: a process may hold several edges, as tests do."""
    made = CollectorRegistry()
    made.register(collector)
    return made


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{_namespace}_{name}", text, labels=[label])
    for value_label, value in values.items():
        family.add_metric([str(value_label)], value)
    return family


def _counter(
    name: str, text: str, values: Counter[Any], label: str = "reason"
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{_namespace}_{name}", text, labels=[label])
    for reason, value in _sorted(values):
        family.add_metric([reason], value)
    return family


def _sorted(values: Counter[Any]) -> Iterable[tuple[str, int]]:
    return sorted((str(reason), value) for reason, value in values.items())
