"""Metrics of the edge as a whole: what clients asked, what was refused or lost, how it runs."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, product

from prometheus_client.metrics_core import Metric

from backends.model import State
from backends.selection import Reason
from backends.selection import Refusal as NoBackendReason
from moonlight.flows import Flow
from proxy.admin.denials import Denial
from proxy.admin.token_check import LoginOutcome
from proxy.client_flow import FlowEnd
from proxy.doors import Doors
from proxy.edge_figures import EdgeFigures
from proxy.fleet import Fleet, LaunchFailure
from proxy.keeping_apart import KeptApart
from proxy.losses import FLOW_REASONS, PORT_REASONS, DoorRefusal
from proxy.matching import NoMatch
from proxy.media import Media
from proxy.metric_families import (
    Samples,
    by_reason,
    counter,
    gauge,
    histogram,
    info,
    unlabelled,
)
from proxy.outcomes import PAIRING_ENDS
from proxy.rtsp import METHODS, RtspOutcome
from proxy.sealed_rtsp import SealRefusal
from proxy.sessions import SessionState, SessionTable
from proxy.tallies import other
from proxy.version import version
from proxy.wake_plan import WakeOutcome
from proxy.waker import Waker
from revdial.observer import Counters, Loss, Refusal
from revdial.proxy_protocol import HeaderFault
from settings.reloading import ReloadOutcome

_max_malformed = 64
"""Kinds of rubbish that are told apart."""


@dataclass(frozen=True, slots=True)
class EdgeParts:
    """What there is to read from."""

    sessions: SessionTable
    fleet: Fleet
    media: Media
    doors: Doors
    admin_doors: Doors
    kept_apart: Counter[str]
    rtsp_refused: Counter[str]
    tunnels: Counters
    waker: Waker
    figures: EdgeFigures


def of_edge(parts: EdgeParts) -> Iterator[Metric]:
    """Give all families that are of no backend's and no session's."""
    yield from _of_process(parts)
    yield from _of_play(parts)
    yield from _of_refusals(parts)
    yield from _of_losses(parts)


def _of_process(parts: EdgeParts) -> Iterator[Metric]:
    figures = parts.figures
    yield info(
        "build",
        "Always 1; the labels tell what runs.",
        ("version", "python"),
        [(version(), platform.python_version())],
    )
    yield gauge(
        "ready",
        "1 while the edge takes launches, 0 while it drains or its store is down.",
        (),
        unlabelled(float(figures.why_not_ready() is None)),
    )
    yield histogram(
        "event_loop_lag_seconds",
        "How much later than asked a sleep ended; media waits for as long.",
        (),
        [((), figures.loop_lag)],
    )
    yield gauge(
        "certificate_expiry_timestamp_seconds",
        "Until when a certificate that the edge shows is valid.",
        ("certificate",),
        [((name,), until) for name, until in sorted(figures.certificates.items())],
    )
    yield counter(
        "configuration_reloads",
        "How often the configuration was read again, by what came of it.",
        ("outcome",),
        by_reason(figures.reloads.outcomes, ReloadOutcome),
    )
    yield gauge(
        "configuration_last_reload_successful",
        "0 if the configuration was unusable when it was last read again.",
        (),
        unlabelled(float(figures.reloads.last_successful)),
    )
    yield counter(
        "log_lines_suppressed",
        "Lines left out of the log since strangers brought about too many, by event.",
        ("event",),
        by_reason(figures.log_lines_suppressed),
    )
    yield gauge(
        "store_up", "1 if the store's last operation succeeded.", (), unlabelled(figures.store.up)
    )
    yield histogram(
        "store_operation_seconds",
        "How long operations of the store took, those that failed included.",
        ("kind",),
        [((kind,), taken) for kind, taken in figures.store.seconds.items()],
    )
    yield counter(
        "store_failures",
        "Operations of the store that failed.",
        ("kind",),
        by_reason(figures.store.failures),
    )
    yield counter(
        "errors", "What went wrong here and should not, by kind.", ("kind",), _kinds(parts)
    )


def _kinds(parts: EdgeParts) -> Samples:
    return by_reason(
        {
            "agent_handler_failed": parts.tunnels.downs["handler_failed"],
            "connection_failed": parts.doors.failed + parts.admin_doors.failed,
            "flow_failed": parts.media.failures,
            "store_failed": sum(parts.figures.store.failures.values()),
            "webhook_failed": parts.waker.wakes[WakeOutcome.WEBHOOK_FAILED],
        }
    )


def _of_play(parts: EdgeParts) -> Iterator[Metric]:
    figures, fleet = parts.figures, parts.fleet
    states = Counter(session.state for session in parts.sessions)
    yield gauge("sessions", "Sessions by state.", ("state",), by_reason(states, SessionState))
    yield counter(
        "launches",
        "What clients asked to play, by request, outcome and reason.",
        ("request", "outcome", "reason"),
        figures.play.counts,
    )
    yield histogram(
        "launch_seconds",
        "How long clients waited for an app that was started.",
        (),
        [((), figures.play.seconds)],
    )
    yield counter(
        "decisions", "Backends chosen, by reason.", ("reason",), by_reason(fleet.decisions, Reason)
    )
    yield counter(
        "launches_without_backend",
        "Launches that no backend could take.",
        ("reason",),
        by_reason(fleet.refusals, NoBackendReason),
    )
    yield counter(
        "failovers",
        "Backends that failed to start an app, by reason.",
        ("reason",),
        by_reason(fleet.failovers, LaunchFailure),
    )
    yield counter(
        "pairings",
        "Pairings of clients with the edge that are over, by outcome.",
        ("outcome",),
        by_reason(figures.pairings, PAIRING_ENDS),
    )
    expected = dict.fromkeys(product((*METHODS, other), RtspOutcome), 0)
    yield counter(
        "rtsp_messages",
        "RTSP messages that were a session's, by method and outcome.",
        ("method", "outcome"),
        [
            ((method, str(outcome)), count)
            for (method, outcome), count in (expected | figures.rtsp_messages).items()
        ],
    )
    flows = dict.fromkeys(product(Flow, FlowEnd), 0) | figures.flow_ends
    yield counter(
        "flows_ended",
        "Flows of sessions that ended by themselves, by why.",
        ("flow", "reason"),
        [((str(kind), str(end)), count) for (kind, end), count in flows.items()],
    )
    yield counter(
        "admin_logins",
        "Long-lived tokens shown to the admin API, to log in or for a JWT, by outcome.",
        ("outcome",),
        by_reason(figures.admin_logins, LoginOutcome),
    )
    yield counter(
        "wakes",
        "What came of wishes to wake hosts.",
        ("outcome",),
        by_reason(parts.waker.wakes, WakeOutcome),
    )


def _of_refusals(parts: EdgeParts) -> Iterator[Metric]:
    figures = parts.figures
    yield gauge(
        "client_connections",
        "TCP connections of clients.",
        (),
        unlabelled(parts.doors.open_connections),
    )
    yield counter(
        "refused_input",
        "What came to a port and was not taken: connections, messages and datagrams.",
        ("port", "reason"),
        _refused_input(parts, figures),
    )
    yield counter(
        "kept_apart",
        "What hosts that cannot tell sessions apart were spared.",
        ("reason",),
        by_reason(parts.kept_apart, KeptApart),
    )
    yield counter(
        "tunnel_refusals",
        "What the agents' port turned away.",
        ("reason",),
        by_reason(parts.tunnels.refusals, Refusal),
    )
    yield counter(
        "tunnels_ended", "Tunnels that ended.", ("reason",), _bounded(parts.tunnels.downs)
    )


def _refused_input(parts: EdgeParts, figures: EdgeFigures) -> Samples:
    for (reason,), count in by_reason(parts.doors.refused, chain(DoorRefusal, HeaderFault)):
        yield ("tcp", reason), count
    for (reason,), count in by_reason(parts.rtsp_refused, chain(NoMatch, SealRefusal)):
        yield ("rtsp", reason), count
    for (reason,), count in _bounded(figures.rtsp_malformed):
        yield ("rtsp_malformed", reason), count
    for (reason,), count in by_reason(parts.waker.dropped):
        yield ("wake", reason), count
    for (reason,), count in by_reason(figures.admin_refused, Denial):
        yield ("admin", reason), count
    for (reason,), count in by_reason(parts.admin_doors.refused, DoorRefusal):
        yield ("admin", reason), count
    yield from figures.http_refused.items()
    yield from parts.media.refused.items()


def _of_losses(parts: EdgeParts) -> Iterator[Metric]:
    carried = parts.media.carried()
    for name, text, field in (
        ("media_sent_bytes", "Bytes of datagrams sent to clients.", "bytes_to_client"),
        ("media_sent_datagrams", "Datagrams sent to clients.", "datagrams_to_client"),
        ("media_received_datagrams", "Datagrams of clients sent to hosts.", "datagrams_to_host"),
    ):
        yield counter(
            name,
            text,
            ("flow",),
            [((str(kind),), getattr(total, field)) for kind, total in carried.items()],
        )
    yield counter(
        "datagrams_dropped",
        "Datagrams that were not carried on.",
        ("reason",),
        by_reason(parts.media.drops() + parts.waker.dropped, chain(PORT_REASONS, FLOW_REASONS)),
    )
    yield counter(
        "tunnel_losses",
        "What the edge's ends of tunnels dropped or gave up.",
        ("reason",),
        by_reason(parts.tunnels.losses, Loss),
    )
    yield counter(
        "backend_transitions",
        "Changes of backends, by new state.",
        ("reason",),
        by_reason(parts.fleet.transitions, (*State, "gone")),
    )


def _bounded(counts: Counter[str]) -> Samples:
    """Give the first so many reasons, and the rest as one: a library may know more of them."""
    tally: Counter[str] = Counter()
    for reason, count in counts.items():
        known = reason in tally or len(tally) < _max_malformed
        tally[reason if known else other] += count
    return by_reason(tally)
