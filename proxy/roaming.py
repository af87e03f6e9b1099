"""When a flow follows its client to a new address: the rules, without sockets and clocks.

A ping shows its payload to everybody on the way, so whoever saw one can send it, or one like it,
from elsewhere. Three things tell the client from such a copy:

- its pings count upwards, so a ping that was heard before is worth nothing;
- a client that has moved is silent where it was, so nobody is followed away from an address that
  is still heard from;
- its control stream is sealed under the session's key, so where that comes from is its *home*:
  video and audio come back to it at once, whoever has drawn them away, and while control is heard
  there also whatever was counted meanwhile.

The client pings every 500 ms. It is therefore followed by its first or second ping.
"""

from __future__ import annotations

import enum
import math
from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from moonlight.flows import Flow
from moonlight.ping import parse_ping
from moonlight.serial import is_newer
from proxy.sessions import SessionId

_Source = TypeVar("_Source", bound=Hashable)


class Refusal(enum.StrEnum):
    """Why a datagram that proves a flow did not move it."""

    REPLAYED = "ping_replayed"
    """Its counter is not above what was heard from the client."""

    HEARD_ELSEWHERE = "client_heard_elsewhere"
    """The client was heard from its present address a moment ago."""

    CONNECTED = "connected_elsewhere"
    """A CONNECT of a connection that stands: it can only be a repeated one."""


@dataclass(frozen=True, slots=True)
class RoamingLimits:
    """How sure to be that a client has left an address."""

    min_silence_s: float = 0.75
    """Of the flow. More than the 0.5 s between two pings, less than two of them."""

    min_lone_silence_s: float = 2.0
    """Of the flow, while the session's other flows are heard from the address."""

    max_proof_age_s: float = 2.0
    """How old the last ping from an address may be to vouch for control that is not sealed, and
    how old sealed control may be to vouch for pings."""

    max_proofs_per_s: int = 4_000
    """Seals of datagrams of unknown sources that are tried, each with one session's key: some
    50 µs."""

    max_proofs_per_source_per_s: int = 100
    """A client sends some 20 datagrams a second, and a gamer's mouse more; one is enough."""


class PingTrail:
    """What was heard of one video or audio flow's client, at the address the flow is bound to."""

    def __init__(self) -> None:
        self.heard_at = -math.inf
        self._highest: int | None = None
        self._at_home: int | None = None
        """The highest counter when the flow last left home."""

    def note(self, datagram: bytes, now: float) -> None:
        """Note a datagram from the bound address that had the right payload."""
        ping = parse_ping(datagram)
        if ping is None:
            return
        if ping.payload is None:
            self.heard_at = now
        elif is_newer(ping.counter, self._highest):
            self._highest = ping.counter
            self.heard_at = now

    def is_newer(self, datagram: bytes, *, coming_home: bool) -> bool:
        """Tell whether a ping was sent after all that were heard from the client.

        What somebody elsewhere has sent meanwhile does not count against one that comes home.
        """
        ping = parse_ping(datagram)
        if ping is None:
            return False
        highest = self._at_home if coming_home else self._highest
        return ping.payload is None or is_newer(ping.counter, highest)

    def begin_anew(self) -> None:
        """Forget what was counted: it may have been forged."""
        self._highest = self._at_home = None

    def leave_home(self) -> None:
        """Note that the flow is about to move away from home."""
        self._at_home = self._highest

    def come_home(self) -> None:
        """Note that it is about to move back: what was heard elsewhere was not its client."""
        self._highest = self._at_home


@dataclass(frozen=True, slots=True)
class Place:
    """What there is to know about where a bound flow is."""

    bound_ip: str
    home_ip: str
    """Where the session's control comes from, or where it was launched from before that."""
    others_heard_at: float = -math.inf
    """When another flow of the session was last heard from the bound address."""
    home_heard_at: float = -math.inf
    """When control that is sealed was last heard from home."""


def refusal_of_ping(
    trail: PingTrail,
    datagram: bytes,
    source_ip: str,
    place: Place,
    *,
    now: float,
    limits: RoamingLimits,
) -> Refusal | None:
    """Tell why a ping with the right payload from elsewhere does not move its flow, or None.

    The caller moves the flow where it is None, or changes nothing.

    Args:
        trail: what was heard of the flow's client.
        datagram: the ping.
        source_ip: where it came from.
        place: where the flow is bound.
        now: seconds of the edge's clock.
        limits: how sure to be.

    """
    coming_home = source_ip == place.home_ip != place.bound_ip
    if coming_home and now - place.home_heard_at < limits.max_proof_age_s:
        trail.begin_anew()
    if not trail.is_newer(datagram, coming_home=coming_home):
        return Refusal.REPLAYED
    if coming_home:
        trail.come_home()
    else:
        silence_s = now - trail.heard_at
        others_silence_s = math.inf if source_ip == place.bound_ip else now - place.others_heard_at
        if silence_s < limits.min_silence_s or (
            others_silence_s < limits.min_silence_s and silence_s < limits.min_lone_silence_s
        ):
            return Refusal.HEARD_ELSEWHERE
        if place.bound_ip == place.home_ip != source_ip:
            trail.leave_home()
    return None


class Whereabouts:
    """Which sessions are known at an IP address, found without looking at every session."""

    def __init__(self) -> None:
        self._known: defaultdict[str, dict[SessionId, set[Flow]]] = defaultdict(dict)
        self._ip_of: dict[tuple[SessionId, Flow], str] = {}

    def note(self, session: SessionId, flow: Flow, ip: str) -> None:
        """Note that one of a session's flows is at an address, and nowhere else."""
        self.forget(session, flow)
        self._ip_of[session, flow] = ip
        self._known[ip].setdefault(session, set()).add(flow)

    def forget(self, session: SessionId, flow: Flow) -> None:
        """Forget where a flow is."""
        ip = self._ip_of.pop((session, flow), None)
        if ip is None:
            return
        sessions = self._known[ip]
        sessions[session].discard(flow)
        if not sessions[session]:
            del sessions[session]
        if not sessions:
            del self._known[ip]

    def at(self, ip: str) -> tuple[SessionId, ...]:
        """Return the sessions of which some flow is at an address."""
        return tuple(self._known.get(ip, ()))


class ProofBudget(Generic[_Source]):
    """How often datagrams of unknown sources are held against a session, in each second.

    What it remembers is bounded: it is at most one source for each proof of one second.
    """

    def __init__(self, limits: RoamingLimits) -> None:
        self._limits = limits
        self._second = -math.inf
        self._spent: Counter[_Source] = Counter()
        self._spent_by_all = 0

    def is_spent(self, source: _Source, now: float) -> bool:
        """Tell whether none is left for this source, or for all."""
        if math.floor(now) != self._second:
            self._second = math.floor(now)
            self._spent.clear()
            self._spent_by_all = 0
        return (
            self._spent[source] >= self._limits.max_proofs_per_source_per_s
            or self._spent_by_all >= self._limits.max_proofs_per_s
        )

    def spend(self, source: _Source, proofs: int) -> None:
        """Take the proofs of one datagram, after `is_spent` was asked about its source.

        It gets all that it needs, so that no crowd is too large for a single one.
        """
        self._spent[source] += proofs
        self._spent_by_all += proofs
