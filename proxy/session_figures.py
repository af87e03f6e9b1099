"""What there is to read of a session: for metrics and for people, from the same places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from moonlight.flows import Flow
from proxy.client_flow import ClientFlow
from proxy.control_rtt import RoundTrips
from proxy.sessions import Session
from proxy.tallies import other
from revdial.backlog import Drop
from revdial.messages import FlowReport

_agents_reasons: Final = frozenset(map(str, Drop))


@dataclass(frozen=True, slots=True)
class SessionReading:
    """A session with what runs for it."""

    session: Session
    flows: list[ClientFlow]
    reports: Mapping[str, FlowReport]
    """Of its own agent, by kind of flow."""

    @property
    def labels(self) -> tuple[str, str]:
        """What metrics know it by."""
        return self.session.id, self.session.backend

    def report_of(self, flow: ClientFlow) -> FlowReport:
        """Return what its agent says of a flow; one that it is silent of lost nothing."""
        return self.reports.get(flow.kind) or FlowReport(self.session.id, flow.kind)

    def sides(self) -> Iterable[tuple[str, RoundTrips]]:
        """Give what control's passing messages tell of the client's and the host's side."""
        for flow in self.flows:
            if flow.watch is not None:
                yield "client", flow.watch.client
                yield "host", flow.watch.host


def read_session(
    session: Session,
    flows: list[ClientFlow],
    reports: Mapping[str, Mapping[str, FlowReport]],
) -> SessionReading:
    """Put together what is known of a session; `reports` are its backend's agent's.

    No other agent has a say in it.
    """
    return SessionReading(session, flows, reports.get(session.id, {}))


def jitter_s(flow: ClientFlow) -> float | None:
    """Return the jitter behind the tunnel; None for control, which does not come evenly."""
    return None if flow.kind is Flow.CONTROL else flow.jitter.seconds


def backlog_age_s(report: FlowReport) -> float:
    """Return how long the oldest datagram waited at the agent."""
    return report.backlog_age_ms / 1000


def drops(flow: ClientFlow) -> dict[str, int]:
    """Return what was dropped at the edge, by reason."""
    return dict(sorted((str(why), count) for why, count in flow.drops().items() if count))


def agent_drops(report: FlowReport) -> dict[str, int]:
    """Return what the agent dropped, by reason; those that are not known here as one."""
    known = {why: count for why, count in report.dropped.items() if why in _agents_reasons}
    unknown = sum(report.dropped.values()) - sum(known.values())
    return dict(sorted((why, n) for why, n in (known | {other: unknown}).items() if n))
