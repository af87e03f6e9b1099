"""Metrics of single sessions: of a bounded number of them, the longest known first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from prometheus_client.metrics_core import Metric

from moonlight.flows import Flow
from proxy.client_flow import ClientFlow
from proxy.fleet import Fleet
from proxy.losses import FLOW_REASONS
from proxy.media import Media
from proxy.metric_families import Labels, Samples, counter, gauge, info, unlabelled
from proxy.session_figures import (
    SessionReading,
    agent_drops,
    backlog_age_s,
    drops,
    jitter_s,
    read_session,
)
from proxy.sessions import Session, SessionTable
from revdial.backlog import Drop
from revdial.messages import FlowReport

max_sessions_shown: Final = 256
"""Sessions that have series of their own; one edge process, one core, carries fewer."""
max_series_per_session: Final = (
    1 + 9 * len(Flow) + 4 + len(Flow) * (len(FLOW_REASONS) + 1 + len(Drop) + 1)
)
"""One for what it is, so many for each flow, two for each side of control, and every reason."""

_labels: Final = ("session", "backend")
_layouts: Final = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_flow_labels: Final = (*_labels, "flow")


def of_sessions(
    table: SessionTable, media: Media, fleet: Fleet, max_sessions: int
) -> Iterator[Metric]:
    """Give the families of sessions, of `max_sessions` at most."""
    shown = [
        read_session(one, media.flows_of(one.id), fleet.flow_reports(one.backend))
        for one in islice(table, max_sessions)
    ]
    yield gauge(
        "sessions_without_metrics",
        "Sessions that have no series of their own, since there are too many.",
        (),
        unlabelled(len(table) - len(shown)),
    )
    yield info(
        "session",
        "Always 1; the labels tell what a session is.",
        (*_labels, "mode", "codec", "audio"),
        [
            (*one.labels, one.session.mode, one.session.codec or "unknown", _audio(one.session))
            for one in shown
        ],
    )
    yield from _of_traffic(shown)
    yield from _of_losses(shown)
    yield from _of_delays(shown)


def _audio(session: Session) -> str:
    """Name the loudspeakers that a client has audio for."""
    channels = session.audio_channels
    return "unknown" if channels is None else _layouts.get(channels, f"{channels} channels")


def _of_traffic(shown: list[SessionReading]) -> Iterator[Metric]:
    yield _per_flow(
        "session_sent_bytes", "Bytes sent to the client.", shown, lambda one: one.bytes_to_client
    )
    yield _per_flow(
        "session_sent_datagrams",
        "Datagrams sent to the client.",
        shown,
        lambda one: one.datagrams_to_client,
    )
    yield _per_flow(
        "session_received_datagrams",
        "Datagrams of the client sent to its host.",
        shown,
        lambda one: one.datagrams_to_host,
    )
    yield _per_flow(
        "session_rtp_packets",
        "RTP packets that came through the tunnel.",
        shown,
        lambda one: one.gaps.received,
        media_only=True,
    )


def _of_losses(shown: list[SessionReading]) -> Iterator[Metric]:
    yield _per_flow(
        "session_rtp_gaps",
        "RTP packets that were missing, by their numbers, when later ones came out of the tunnel.",
        shown,
        lambda one: one.gaps.missing + one.gaps.late,
        media_only=True,
    )
    yield _per_flow(
        "session_rtp_late",
        "RTP packets among them that came after all.",
        shown,
        lambda one: one.gaps.late,
        media_only=True,
    )
    yield counter(
        "session_dropped_datagrams",
        "Datagrams dropped at the edge, after the tunnel or before it, by reason.",
        (*_flow_labels, "reason"),
        [
            ((*one.labels, str(flow.kind), reason), count)
            for one in shown
            for flow in one.flows
            for reason, count in drops(flow).items()
        ],
    )
    yield counter(
        "session_agent_dropped_datagrams",
        "Datagrams that the agent dropped before the tunnel, by reason.",
        (*_flow_labels, "reason"),
        [sample for one in shown for sample in _agent_drops(one)],
    )
    yield _per_report(
        "session_agent_dropped_frames",
        "Frames that the agent dropped whole.",
        shown,
        lambda report: report.dropped_frames,
        counter,
    )


def _of_delays(shown: list[SessionReading]) -> Iterator[Metric]:
    yield gauge(
        "session_jitter_seconds",
        "Jitter (RFC 3550) of what comes through the tunnel, by the sender's clock.",
        _flow_labels,
        [
            ((*one.labels, str(flow.kind)), jitter)
            for one in shown
            for flow in one.flows
            if (jitter := jitter_s(flow)) is not None
        ],
    )
    yield _per_report(
        "session_backlog_age_seconds",
        "How long the oldest datagram waited at the agent, at most since the heartbeat before.",
        shown,
        backlog_age_s,
        gauge,
    )
    yield gauge(
        "session_rtt_seconds",
        "Round trip on the control flow from the edge: to the client, or through the tunnel to "
        "the host.",
        (*_labels, "side"),
        [
            ((*one.labels, side), trips.rtt_s)
            for one in shown
            for side, trips in one.sides()
            if trips.rtt_s is not None
        ],
    )
    yield counter(
        "session_retransmissions",
        "Reliable control messages that passed again on their way to that side.",
        (*_labels, "side"),
        [
            ((*one.labels, side), trips.retransmissions)
            for one in shown
            for side, trips in one.sides()
        ],
    )


def _per_flow(
    name: str,
    text: str,
    shown: list[SessionReading],
    read: Callable[[ClientFlow], float],
    *,
    media_only: bool = False,
) -> Metric:
    return counter(
        name,
        text,
        _flow_labels,
        [
            ((*one.labels, str(flow.kind)), read(flow))
            for one in shown
            for flow in one.flows
            if not (media_only and flow.kind is Flow.CONTROL)
        ],
    )


def _per_report(
    name: str,
    text: str,
    shown: list[SessionReading],
    read: Callable[[FlowReport], float],
    family: Callable[[str, str, Labels, Samples], Metric],
) -> Metric:
    samples = []
    for one in shown:
        for flow in one.flows:
            value = read(one.report_of(flow))
            samples.append(((*one.labels, str(flow.kind)), float(value)))
    return family(name, text, _flow_labels, samples)


def _agent_drops(shown: SessionReading) -> Samples:
    for flow in shown.flows:
        labels = (*shown.labels, str(flow.kind))
        for reason, count in agent_drops(shown.report_of(flow)).items():
            yield (*labels, reason), count
