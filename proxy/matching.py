"""Which session an RTSP message belongs to: decided from what every client is sure to send.

A client obeys the port of its ``sessionUrl0`` always, and repeats the URL's host only at high
bitrates (``protocol.md`` §5). So the label decides where it is present, and must then agree with
the port; else the port together with the client's address decides, and only if exactly one
session fits (`proxy.sessions.SessionTable` sees to it that one does). What stays ambiguous is
refused, never guessed: a guess would hand one player's stream to another.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy.sessions import Session, SessionState, is_label


class NoMatch(enum.StrEnum):
    """Why a message was refused."""

    UNKNOWN = "unknown_session"
    """No session of that address awaits RTSP on that port."""

    AMBIGUOUS = "ambiguous_session"
    """Several sessions fit, and nothing in the message tells them apart."""

    WRONG_PORT = "label_of_another_port"
    """The label is a session's, but that session was told another port."""

    ENDED = "session_ended"
    """The label can only be that of a session that is no more."""


@dataclass(frozen=True, slots=True)
class RtspOrigin:
    """What is known of an RTSP message before its session is."""

    local_port: int
    client_address: str
    host: str = field(repr=False)
    """Host text of the message's target or ``Host`` header, without port: perhaps a label."""


def match_rtsp(
    origin: RtspOrigin, sessions: Iterable[Session], *, now: float, launch_window_s: float
) -> Session | NoMatch:
    """Return the session of an RTSP message, or why there is none.

    Args:
        origin: where the message came from and what it names.
        sessions: all sessions of the edge.
        now: seconds of the edge's clock.
        launch_window_s: how long after launch or resume a handshake may begin or go on when
            the message does not name its session.

    """
    candidates = []
    for session in sessions:
        if session.label == origin.host:
            return session if session.rtsp_port == origin.local_port else NoMatch.WRONG_PORT
        if (
            session.rtsp_port == origin.local_port
            and session.client_address == origin.client_address
            and session.state is SessionState.LAUNCHED
            and now - session.since <= launch_window_s
        ):
            candidates.append(session)
    if is_label(origin.host):
        # Whoever awaits its handshake at that port, it is not the one who is meant.
        return NoMatch.ENDED
    if len(candidates) == 1:
        return candidates[0]
    return NoMatch.AMBIGUOUS if candidates else NoMatch.UNKNOWN
