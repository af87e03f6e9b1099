"""The links that a stream is sent through: what is wrong with each, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from bench.link_model import Blackout, LinkConfig, RateStep
from bench.traffic import FrameShape

mbps: Final = 20.0
fps: Final = 60
datagram_bytes: Final = 1088
names: Final = ("clean", "loss-1", "loss-0.1", "bottleneck", "step", "blackout", "jitter")
quick_names: Final = ("clean", "loss-1", "bottleneck", "blackout")
blackout_s: Final = 2.0
bottleneck_share: Final = 0.8
"""Of what the stream takes on the wire."""
step_mbps: Final = (50.0, 10.0, 50.0)

_mtu_bytes: Final = 1500
_header_bytes: Final = 52
"""IP and TCP with timestamps, of every packet."""
_message_bytes: Final = 96
"""TLS records, WebSocket and batch headers of a message that is one frame."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of link. Times count from the start of its clock."""

    name: str
    rtt_ms: float
    """Without queues; where there is jitter, on average."""
    link: LinkConfig
    """Each way."""
    ended_s: float | None = None
    """When the impairment is over; None where it never is."""

    def ways(self, seed: int) -> tuple[LinkConfig, LinkConfig]:
        """Return both directions, which lose different packets."""
        return replace(self.link, seed=2 * seed), replace(self.link, seed=2 * seed + 1)


def shape() -> FrameShape:
    """Return what the frames of every case look like."""
    return FrameShape.of_rate(mbps, fps, datagram_bytes)


def wire_mbps(frame: FrameShape) -> float:
    """Return what a stream takes of a link: parity, TLS, and the headers of full packets."""
    carried = frame.datagrams * frame.datagram_bytes + _message_bytes
    packets = -(-carried // (_mtu_bytes - _header_bytes))
    return (carried + packets * _header_bytes) * 8 * fps / 1e6


def case_of(name: str, seconds: float) -> Case:
    """Return a case for a run of so many seconds. Raises `ValueError` for an unknown name."""
    match name:
        case "clean":
            return Case(name, 40, LinkConfig(delay_ms=20))
        case "loss-1":
            return Case(name, 100, LinkConfig(delay_ms=50, loss=0.01))
        case "loss-0.1":
            return Case(name, 40, LinkConfig(delay_ms=20, loss=0.001))
        case "bottleneck":
            rate_mbps = round(bottleneck_share * wire_mbps(shape()), 2)
            return Case(name, 40, LinkConfig(delay_ms=20, rate_mbps=rate_mbps, queue_ms=100))
        case "step":
            begin_s, end_s = seconds / 3, seconds * 2 / 3
            before, between, after = step_mbps
            steps = (RateStep(begin_s, between), RateStep(end_s, after))
            link = LinkConfig(delay_ms=20, rate_mbps=before, queue_ms=100, rate_steps=steps)
            return Case(name, 40, link, end_s)
        case "blackout":
            begin_s = seconds * 0.35
            link = LinkConfig(delay_ms=20, blackouts=(Blackout(begin_s, blackout_s),))
            return Case(name, 40, link, begin_s + blackout_s)
        case "jitter":
            # Jitter only adds: 75 to 125 ms each way are 200 ms there and back, give or take 50.
            return Case(name, 200, LinkConfig(delay_ms=75, jitter_ms=50))
    raise ValueError(f"there is no case {name}; there are {', '.join(names)}")
