"""What a load test is asked to do, and what each of its clients then asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.config import ProxyConfig
from simulator.light_client import AUDIO_PACKET_MS, StreamWish, parse_mode
from simulator.light_control import PING_INTERVAL_S as CONTROL_PING_INTERVAL_S
from simulator.light_rtsp import TARGET_BITRATE_KBPS

default_mbps: Final = 10.0
default_mode: Final = "1280x720x60"
crowd_mbps: Final = 0.5
crowd_mode: Final = "640x360x30"
crowd_audio_packet_ms: Final = 10
"""What Moonlight asks for at low bitrates."""
own_crowd_slowdown: Final = 15.0
"""Of hosts of the test's own: 64 sessions and all that they pass through then run on two cores."""
crowd_control_ping_interval_s: Final = 0.5
max_unnamed_kbps: Final = 10_000
"""Clients of a crowd that RTSP shall not name ask for no more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What the command line says."""

    sessions: int
    mbps: float
    """What each client asks for. In a crowd: what hosts of the test's own send to each."""
    seconds: float
    as_json: bool
    mode: str
    app: str | None
    edge: tuple[str, int] | None
    """Name or address and HTTP port of a running edge; None: start one."""
    config: ProxyConfig | None
    """Of the running edge."""
    one_address: bool = False
    """A crowd: all clients come from one address, and their launches overlap."""

    @property
    def fps(self) -> int:
        """Frames a second."""
        return parse_mode(self.mode)[2]

    @property
    def audio_packet_ms(self) -> int:
        """How much sound is in a packet."""
        return crowd_audio_packet_ms if self.one_address else AUDIO_PACKET_MS

    @property
    def slowdown(self) -> float:
        """How many times slower than asked for the hosts of the test's own are."""
        return own_crowd_slowdown if self.one_address and self.edge is None else 1.0

    def asked_kbps(self, number: int) -> int:
        """Return what client `number` asks for.

        From 15 Mbit/s on a client's RTSP names its session, below that it does not
        (``protocol.md`` §5); of a crowd every second client is of either kind.
        """
        kbps = round(self.mbps * 1000)
        if not self.one_address:
            return kbps
        if number % 2:
            return max(kbps, TARGET_BITRATE_KBPS)
        return min(kbps, max_unnamed_kbps)

    def wish(self, number: int, app_id: int) -> StreamWish:
        """Return what client `number` wants to play."""
        return StreamWish(
            app_id=app_id,
            mode=self.mode,
            bitrate_kbps=self.asked_kbps(number),
            # Of a crowd every second pair speaks RTSP in the clear, as old clients do: those are
            # told apart by label and port, the others by their keys.
            corever=1 - number // 2 % 2 if self.one_address else 1,
            audio_packet_ms=self.audio_packet_ms,
            control_ping_interval_s=crowd_control_ping_interval_s
            if self.one_address
            else CONTROL_PING_INTERVAL_S,
        )
