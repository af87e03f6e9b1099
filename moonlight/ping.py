"""The datagrams by which a client shows where it wants its video and audio.

Protocol §6: every 500 ms, on the socket that shall receive the media, either 16 characters that
the RTSP answer gave and a counter, or the four bytes ``PING`` where it gave none.
"""

from __future__ import annotations

import base64
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

PING_PAYLOAD_LENGTH: Final = 16
_LEGACY_PING: Final = b"PING"
_PING_BYTES: Final = PING_PAYLOAD_LENGTH + 4
_ENTROPY_BYTES: Final = 12  # base64 makes 16 characters of these


@dataclass(frozen=True, slots=True)
class Ping:
    """One ping. `payload` proves the session and is a secret; None is the old form without one."""

    payload: str | None = field(repr=False)
    counter: int


def is_ping_payload(text: str) -> bool:
    """Tell whether `text` is what ``X-SS-Ping-Payload`` may hold: 16 printable ASCII characters."""
    return len(text) == PING_PAYLOAD_LENGTH and text.isascii() and text.isprintable()


def parse_ping(datagram: bytes) -> Ping | None:
    """Read a ping, or None where the datagram is anything else.

    The caller compares the payload with what it expects, in constant time.
    """
    if len(datagram) == _PING_BYTES:
        payload = datagram[:PING_PAYLOAD_LENGTH].decode("latin-1")
        if is_ping_payload(payload):
            return Ping(payload, int.from_bytes(datagram[PING_PAYLOAD_LENGTH:], "big"))
        return None
    return Ping(None, 0) if datagram == _LEGACY_PING else None


def build_ping(payload: str | None, counter: int) -> bytes:
    """Write a ping; the counter starts at 1 and wraps at 32 bits. The old form has no counter."""
    if payload is None:
        return _LEGACY_PING
    if not is_ping_payload(payload):
        raise ValueError("a ping payload is 16 printable ASCII characters")
    return payload.encode() + struct.pack(">I", counter & 0xFFFFFFFF)


def new_ping_payload(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Make an unguessable payload: 96 random bits as 16 URL-safe characters."""
    return base64.urlsafe_b64encode(random_bytes(_ENTROPY_BYTES)).decode()
