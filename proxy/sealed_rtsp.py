"""Encrypted RTSP at the edge: whose message it is, whether it came before, what numbers it uses.

A client and the edge, and the edge and a host, seal under one key: that of the client's launch.
AES-GCM forbids two messages under one number, key and direction, and what the edge passes on is
never quite what it got. So the edge numbers its own messages after the client's, in the upper half
of the number space: where the client says n, the edge says n with the first bit set, to the host
as to the client. No counter of the edge's own can then fall behind in a restart, and the numbers
rise as the client's do. Neither Moonlight nor Sunshine minds where they begin. From others the
edge takes the lower half only: what it said on one leg cannot be played back to it on the other.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from moonlight.errors import AuthenticationFailed
from moonlight.launch import RtspUrl
from moonlight.rtsp_encryption import Role, SealedMessage, check_rises, seal, unseal
from proxy.matching import RtspOrigin
from proxy.sessions import Session, SessionState, StreamKey

max_keys_tried: Final = 64
"""Sessions whose key one message is tried with: those at its port, the likeliest first."""
_own_half: Final = 0x80000000


class SealRefusal(enum.StrEnum):
    """Why a message was refused for how it was sealed, or was not."""

    WRONG_TAG = "rtsp_tag"
    """No session at that port has the key."""

    REPLAY = "rtsp_replay"
    """Its number is not above those that came before under that key."""

    OWN_NUMBER = "rtsp_own_number"
    """Its number is one that only the edge may use."""

    UNASKED = "rtsp_sealed_unasked"
    """It is sealed, and its session was told ``rtsp://``."""

    IN_THE_CLEAR = "rtsp_not_sealed"
    """It is not sealed, and its session was told ``rtspenc://``."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A message of a session, opened with its key."""

    session: Session
    plain: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A client's message on its way to the host and back, under what held when it came."""

    session: Session
    key: StreamKey
    host_rtsp: RtspUrl
    sequence: int
    """Of whatever the edge seals in this exchange: one message a direction."""

    @classmethod
    def of(cls, session: Session, client_sequence: int) -> Exchange:
        """Begin the exchange that the client's message of that number asks for."""
        return cls(session, session.key, session.host_rtsp, client_sequence | _own_half)

    @property
    def is_over(self) -> bool:
        """Whether the session was resumed meanwhile."""
        return (self.session.key, self.session.host_rtsp) != (self.key, self.host_rtsp)

    def seal(self, sender: Role, plain: bytes) -> bytes:
        """Seal what the edge says as a client to the host, or as a host to the client."""
        return seal(self.key.rikey, sender, self.sequence, plain)


def open_answer(exchange: Exchange, answer: SealedMessage) -> bytes:
    """Open what a host answered.

    Raises AuthenticationFailed: wrong tag, a number that came before, or one of the edge's own.
    """
    plain = unseal(exchange.key.rikey, "host", answer)
    if answer.sequence >= _own_half:
        raise AuthenticationFailed(SealRefusal.OWN_NUMBER, "RTSP message under the edge's number")
    check_rises(answer.sequence, exchange.session.host_rtsp_sequence)
    return plain


def open_sealed(
    message: SealedMessage, origin: RtspOrigin, sessions: Iterable[Session]
) -> Opened | SealRefusal:
    """Find the session of a sealed message by the key that opens it: exact, and never a guess.

    Nothing is changed; whoever goes on with the message notes its number.

    Args:
        message: what a client sent.
        origin: where it came from; what it names cannot be read yet.
        sessions: all sessions of the edge.

    """
    if message.sequence >= _own_half:
        return SealRefusal.OWN_NUMBER
    for session in _candidates(origin, sessions):
        try:
            plain = unseal(session.key.rikey, "client", message)
        except AuthenticationFailed:
            continue
        if not session.rtsp_encrypted:
            return SealRefusal.UNASKED
        if message.sequence <= session.rtsp_sequence:
            return SealRefusal.REPLAY
        return Opened(session, plain)
    return SealRefusal.WRONG_TAG


def _candidates(origin: RtspOrigin, sessions: Iterable[Session]) -> list[Session]:
    """Give the sessions that were told a port, those first that are likely to speak now."""

    def unlikeliness(session: Session) -> tuple[bool, bool, bool, float]:
        return (
            not session.rtsp_encrypted,
            session.client_address != origin.client_address,
            session.state is not SessionState.LAUNCHED,
            -session.since,
        )

    there = [session for session in sessions if session.rtsp_port == origin.local_port]
    return sorted(there, key=unlikeliness)[:max_keys_tried]
