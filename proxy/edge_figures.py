"""What the parts of an edge count, gathered for `proxy.metrics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from moonlight.flows import Flow
from proxy.client_flow import FlowEnd
from proxy.loop_lag import bounds_s as lag_bounds_s
from proxy.measured_store import StoreFigures
from proxy.outcomes import PlayOutcomes
from proxy.rtsp import RtspOutcome
from proxy.tallies import Histogram
from settings.reloading import ReloadFigures


def _nothing() -> None:
    return None


@dataclass(slots=True)
class EdgeFigures:
    """Counters that live in the edge's parts, each under the name that it has there."""

    play: PlayOutcomes = field(default_factory=PlayOutcomes)
    pairings: Counter[str] = field(default_factory=Counter)
    rtsp_messages: Counter[tuple[str, RtspOutcome]] = field(default_factory=Counter)
    rtsp_malformed: Counter[str] = field(default_factory=Counter)
    http_refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    admin_logins: Counter[str] = field(default_factory=Counter)
    admin_refused: Counter[str] = field(default_factory=Counter)
    flow_ends: Counter[tuple[Flow, FlowEnd]] = field(default_factory=Counter)
    """Flows that ended by themselves, by kind and why."""
    store: StoreFigures = field(default_factory=StoreFigures)
    loop_lag: Histogram = field(default_factory=lambda: Histogram(lag_bounds_s))
    certificates: Mapping[str, float] = field(default_factory=dict)
    """By name, until when each one is valid, in seconds since 1970."""
    reloads: ReloadFigures = field(default_factory=ReloadFigures)
    log_lines_suppressed: Counter[str] = field(default_factory=Counter)
    """Lines that strangers brought about and that the log had no room for, by event."""
    why_not_ready: Callable[[], str | None] = _nothing
    """What ``/readyz`` tells."""
