"""Which flow follows a datagram from an address where no flow is bound, and which does not.

It knows all flows that run and where they are, and asks `roaming` about pings and `control_proof`
about control. Of the datagrams of strangers it looks into those alone that come from an address
where some session is known, and into a bounded number of them.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from moonlight.flows import Flow
from proxy.control_proof import ControlTrail, Verdict
from proxy.roaming import (
    PingTrail,
    Place,
    ProofBudget,
    Refusal,
    RoamingLimits,
    Whereabouts,
    refusal_of_ping,
)
from proxy.sessions import SessionId


class Source(Protocol):
    """An address and a port."""

    @property
    def ip(self) -> str:
        """The address."""

    def __hash__(self) -> int: ...


class Followed(Protocol):
    """What has to be known of a flow."""

    @property
    def session(self) -> SessionId:
        """Whose flow it is."""

    @property
    def kind(self) -> Flow:
        """Video, audio or control."""

    @property
    def client_address(self) -> str:
        """Where the session was launched from, or where its control was last proven to be."""

    @property
    def bound_to(self) -> Source | None:
        """Where its client is."""

    @property
    def trail(self) -> PingTrail | ControlTrail:
        """What was heard of its client."""


class Stray(enum.StrEnum):
    """Why a control datagram from an unknown source was not taken for some session's."""

    UNKNOWN = "control_of_unknown"
    """No session is known at that address, or none with the numbers in the packet's header."""

    TOO_MANY = "control_proofs_exhausted"
    """Too many of them have been looked into within a second."""

    UNPROVEN = "control_unproven"
    """The key of no session at that address has sealed it."""

    REPLAYED = "control_replayed"
    """It was heard before, or is older than what was heard."""

    AMBIGUOUS = "control_ambiguous"
    """It fits several sessions, and is not guessed to be any one's."""


_Flow = TypeVar("_Flow", bound=Followed)


class Following(Generic[_Flow]):
    """Decides about datagrams from elsewhere.

    Args:
        flows_of: gives the flows of a session that run now.
        limits: how sure to be, and how much to look into.

    """

    def __init__(
        self, flows_of: Callable[[SessionId], Mapping[Flow, _Flow]], limits: RoamingLimits
    ) -> None:
        self._flows_of = flows_of
        self._limits = limits
        self._where = Whereabouts()
        # A flood behind a crowd's address asks for all of its control flows, datagram by datagram.
        self._controls: dict[SessionId, _Flow] = {}
        self._budget: ProofBudget[Source] = ProofBudget(limits)

    def note_place(self, flow: _Flow) -> None:
        """Note where a flow is known, each time that this changes."""
        if flow.kind is Flow.CONTROL:
            self._controls[flow.session] = flow
            # Where it is bound proves nothing until its client shows the session's key.
            self._where.note(flow.session, flow.kind, flow.client_address)
        elif flow.bound_to is not None:
            self._where.note(flow.session, flow.kind, flow.bound_to.ip)

    def forget(self, flow: _Flow) -> None:
        """Note that a flow has ended."""
        self._where.forget(flow.session, flow.kind)
        if flow.kind is Flow.CONTROL:
            self._controls.pop(flow.session, None)

    def refusal(self, flow: _Flow, datagram: bytes, source: Source, now: float) -> Refusal | None:
        """Tell why a datagram that carries a flow's secret does not bind or move it, or None."""
        bound, trail = flow.bound_to, flow.trail
        if bound is None or bound == source:
            return None
        if isinstance(trail, ControlTrail):
            if trail.sealed:
                return Refusal.CONNECTED
            return Refusal.HEARD_ELSEWHERE if self._is_heard(flow, now) else None
        if flow.kind is Flow.CONTROL:
            return None  # nothing is known of its client
        place = self._place(flow, bound.ip)
        return refusal_of_ping(trail, datagram, source.ip, place, now=now, limits=self._limits)

    def control_of(self, datagram: bytes, source: Source, now: float) -> _Flow | Stray | Refusal:
        """Find the control flow whose client sent a datagram without CONNECT from elsewhere."""
        if self._budget.is_spent(source, now):
            return Stray.TOO_MANY
        candidates = [
            (flow, flow.trail)
            for flow in map(self._controls.get, self._where.at(source.ip))
            if flow is not None
            and isinstance(flow.trail, ControlTrail)
            and flow.trail.may_know(datagram)
        ]
        if not candidates:
            return Stray.UNKNOWN
        if all(self._is_heard(flow, now) for flow, _ in candidates):
            return Refusal.HEARD_ELSEWHERE  # whatever it is: no proof would change that
        self._budget.spend(source, len(candidates))
        verdicts = [(flow, trail.judge(datagram)) for flow, trail in candidates]
        fitting = [flow for flow, verdict in verdicts if verdict is Verdict.OURS] or [
            flow
            for flow, verdict in verdicts
            if verdict is Verdict.PLAUSIBLE and self._is_vouched_for(flow, source.ip, now)
        ]
        if len(fitting) == 1:
            return Refusal.HEARD_ELSEWHERE if self._is_heard(fitting[0], now) else fitting[0]
        if fitting:
            return Stray.AMBIGUOUS
        replayed = any(verdict is Verdict.REPLAYED for _, verdict in verdicts)
        return Stray.REPLAYED if replayed else Stray.UNPROVEN

    def _is_heard(self, flow: _Flow, now: float) -> bool:
        return now - flow.trail.heard_at < self._limits.min_silence_s

    def _is_vouched_for(self, control: _Flow, ip: str, now: float) -> bool:
        """Tell whether a ping has just come from an address where control is said to be."""
        return now - self._others_heard_at(control, ip) < self._limits.max_proof_age_s

    def _others_heard_at(self, flow: _Flow, ip: str) -> float:
        """Tell when another flow of the same session was last heard from an address."""
        return max(
            (
                other.trail.heard_at
                for other in self._flows_of(flow.session).values()
                if other is not flow and other.bound_to is not None and other.bound_to.ip == ip
            ),
            default=-math.inf,
        )

    def _place(self, flow: _Flow, bound_ip: str) -> Place:
        others_heard_at = self._others_heard_at(flow, bound_ip)
        control = self._controls.get(flow.session)
        if control is None:
            return Place(bound_ip, flow.client_address, others_heard_at)
        if control.bound_to is not None and getattr(control.trail, "sealed", False):
            return Place(bound_ip, control.bound_to.ip, others_heard_at, control.trail.heard_at)
        return Place(bound_ip, control.client_address, others_heard_at)
