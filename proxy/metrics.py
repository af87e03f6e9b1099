"""Figures of a running edge for Prometheus, read from its parts when they are asked for.

Labels hold only names that the edge or its operator gives: no text of a client, and of agents and
hosts only what is known beforehand. How many series there can be is bounded: by the limits on
agents and hosts, by `proxy.metrics_sessions.max_sessions_shown`, and by `proxy.tallies.Tally`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proxy.doors import Doors
from proxy.edge_figures import EdgeFigures
from proxy.fleet import Fleet
from proxy.keeping_apart import KeepingApart
from proxy.media import Media
from proxy.metrics_backends import of_backends
from proxy.metrics_edge import EdgeParts, of_edge
from proxy.metrics_sessions import max_sessions_shown, of_sessions
from proxy.sessions import SessionTable
from proxy.waker import Waker
from revdial.observer import Counters


class EdgeCollector(Collector):
    """Turns the counters of an edge's parts into metrics."""

    def __init__(
        self,
        *,
        sessions: SessionTable,
        fleet: Fleet,
        media: Media,
        doors: Doors,
        admin_doors: Doors,
        apart: KeepingApart,
        rtsp_refused: Counter[str],
        tunnels: Counters,
        waker: Waker,
        figures: EdgeFigures | None = None,
        max_sessions: int = max_sessions_shown,
    ) -> None:
        self._edge = EdgeParts(
            sessions,
            fleet,
            media,
            doors,
            admin_doors,
            apart.refused,
            rtsp_refused,
            tunnels,
            waker,
            figures or EdgeFigures(),
        )
        self._max_sessions = max_sessions

    def collect(self) -> Iterator[Metric]:
        """Read everything once, family by family."""
        parts = self._edge
        yield from of_edge(parts)
        yield from of_backends(parts.fleet)
        yield from of_sessions(parts.sessions, parts.media, parts.fleet, self._max_sessions)


def registry(collector: EdgeCollector) -> CollectorRegistry:
    """Return a registry of its own: a process may hold several edges, as tests do."""
    made = CollectorRegistry()
    made.register(collector)
    return made


async def exposition(metrics: CollectorRegistry) -> bytes:
    """Write all metrics in Prometheus' text format, letting media pass after each family.

    The families are of moments that lie a little apart; those of a hundred sessions, written at
    once, would hold up every stream for longer than a frame takes.
    """
    parts = []
    for family in metrics.collect():
        parts.append(generate_latest(_One(family)))
        await trio.lowlevel.checkpoint()
    return b"".join(parts)


class _One(CollectorRegistry):
    def __init__(self, family: Metric) -> None:
        super().__init__()
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family
