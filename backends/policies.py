"""Which region's backend takes a launch: one small type a policy.

Each region offers its least loaded backend; a policy chooses among these offers. Differences that
say nothing are ties, and the next criterion decides: 50 km, or 5 ms of tunnel round trip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import ClassVar, NamedTuple, Protocol

from backends.candidates import Load
from backends.model import Backend

tie_km = 50.0
tie_rtt_s = 0.005


class PolicyName(StrEnum):
    """The policies, as the configuration names them."""

    GEO = "geo"
    RTT = "rtt"
    LOAD = "load"


class Offer(NamedTuple):
    """A region's least loaded backend that can take the launch."""

    backend: Backend
    load: Load
    distance_km: float
    """From the client; infinite while one of the two places is not known."""

    @property
    def rtt_s(self) -> float:
        """The tunnel's round trip; infinite while that is not known."""
        return math.inf if self.backend.rtt_s is None else self.backend.rtt_s


class Policy(Protocol):
    """Chooses among regions that all can take the launch."""

    name: ClassVar[PolicyName]

    def select(self, offers: Sequence[Offer]) -> Offer:
        """Choose one of `offers`, never empty; the same one whatever order they are in."""


class ByDistance:
    """The region nearest to the client; near-ties by the tunnel's round trip, then by load."""

    name: ClassVar[PolicyName] = PolicyName.GEO

    def select(self, offers: Sequence[Offer]) -> Offer:
        """See `Policy`."""
        return _least_loaded(_quickest(_nearest(offers)))


class ByRoundTrip:
    """The quickest tunnel; near-ties by distance from the client, then by load."""

    name: ClassVar[PolicyName] = PolicyName.RTT

    def select(self, offers: Sequence[Offer]) -> Offer:
        """See `Policy`."""
        return _least_loaded(_nearest(_quickest(offers)))


class ByLoad:
    """The least loaded backend anywhere; ties by distance, then by the tunnel's round trip."""

    name: ClassVar[PolicyName] = PolicyName.LOAD

    def select(self, offers: Sequence[Offer]) -> Offer:
        """See `Policy`."""
        # All but the id, which only settles what nothing else does.
        least = min(offer.load[:-1] for offer in offers)
        return _least_loaded(_quickest(_nearest([o for o in offers if o.load[:-1] == least])))


policies: dict[PolicyName, Policy] = {
    policy.name: policy for policy in (ByDistance(), ByRoundTrip(), ByLoad())
}


def _nearest(offers: Sequence[Offer]) -> Sequence[Offer]:
    return _within(offers, lambda offer: offer.distance_km, tie_km)


def _quickest(offers: Sequence[Offer]) -> Sequence[Offer]:
    return _within(offers, lambda offer: offer.rtt_s, tie_rtt_s)


def _least_loaded(offers: Sequence[Offer]) -> Offer:
    return min(offers, key=lambda offer: offer.load)


def _within(
    offers: Sequence[Offer], measure: Callable[[Offer], float], tie: float
) -> Sequence[Offer]:
    """Leave out those that are worse than the best by more than a tie."""
    if len(offers) == 1:
        return offers
    most = min(measure(offer) for offer in offers) + tie
    return [offer for offer in offers if measure(offer) <= most]
