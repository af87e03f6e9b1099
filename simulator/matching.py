"""Which session is this? Decided as real hosts decide it, wrong decisions included.

Wolf tells sessions apart by what the client brings back: the random host name of its
``sessionUrl0`` in RTSP, the ping payload on the media ports, the connect data on the control
port. Clients do not always bring these back, and older hosts never hand them out. What is left
then is the address the message came from, which clients behind one router share. All functions
take the sessions in the order of their launch, and give None where there is nobody to take.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from simulator.config import Traps
from simulator.ids import SessionId


@dataclass(frozen=True, slots=True)
class Claim:
    """What one session can be recognised by."""

    session: SessionId
    client_address: str
    rtsp_host: str
    ping_payload: str | None = field(default=None, repr=False)
    connect_data: int | None = field(default=None, repr=False)
    played: bool = False
    launched: bool = False
    """Whether it waits for its client to play."""


def match_rtsp(
    claims: Sequence[Claim], *, host: str, source: str, traps: Traps
) -> SessionId | None:
    """The session of an RTSP message that names `host` and came from `source`."""
    if traps.rtsp_for_last_launch:
        return next((claim.session for claim in claims if claim.launched), None)
    if traps.fake_address:
        for claim in claims:
            if claim.rtsp_host == host:
                return claim.session
    nearby = [claim for claim in claims if claim.client_address == source]
    if not nearby:
        return None
    if traps.first_from_source:
        return nearby[0].session
    waiting = [claim for claim in nearby if not claim.played]
    return (waiting or nearby)[-1].session


def match_ping(
    claims: Sequence[Claim], *, payload: str | None, source: str, traps: Traps
) -> SessionId | None:
    """The session of a ping; a client older than payloads is known by its address alone."""
    if not traps.ping_payloads or payload is None:
        return _first_from(claims, source)
    for claim in claims:
        if claim.ping_payload is not None and hmac.compare_digest(
            claim.ping_payload.encode(), payload.encode()
        ):
            return claim.session
    return None


def match_connect(
    claims: Sequence[Claim], *, data: int, source: str, traps: Traps
) -> SessionId | None:
    """The session of an ENet CONNECT; data of 0 is what a client older than it sends."""
    if not traps.ping_payloads or data == 0:
        return _first_from(claims, source)
    for claim in claims:
        if claim.connect_data == data:
            return claim.session
    return None


def _first_from(claims: Sequence[Claim], source: str) -> SessionId | None:
    return next((claim.session for claim in claims if claim.client_address == source), None)
