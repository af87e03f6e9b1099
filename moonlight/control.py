"""Messages of the control stream, sealed under the session's key.

On the wire (protocol §6, little-endian): 1, length, sequence, tag of AES-128-GCM, and sealed in it
type, length and payload. Version 2 tells the two directions apart in its nonce; version 1, which
clients use with hosts that do not offer version 2, does not, and keeps only eight bits of the
sequence. Sequences of one direction rise, but over several ENet channels they may arrive out of
order: repetition is prevented by ENet, not here.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, Literal, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moonlight.errors import AuthenticationFailed, Malformed

_HEADER: Final = struct.Struct("<HHI")
_INNER: Final = struct.Struct("<HH")
_SEALED: Final = 1
_TAG_BYTES: Final = 16
_KEY_BYTES: Final = 16
_MAX_PAYLOAD_BYTES: Final = 0xFFFF - 4 - _TAG_BYTES - _INNER.size

Role = Literal["client", "host"]


class ControlKind(IntEnum):
    """Types worth knowing. 0x5502 means something else in each direction."""

    TERMINATION = 0x0109
    RUMBLE = 0x010B
    HDR_MODE = 0x010E
    PERIODIC_PING = 0x0200
    LOSS_STATISTICS = 0x0201
    INPUT = 0x0206
    INVALIDATE_REFERENCE_FRAMES = 0x0301
    REQUEST_IDR = 0x0302
    START_B = 0x0307
    FRAME_FEC_STATUS = 0x5502


class TerminationReason(IntEnum):
    """Why a host ended a session, as the client understands it."""

    CLOSED = 0x80030023
    """The app ended: no error to the client, provided that it saw a picture."""
    PROTECTED_CONTENT = 0x800E9302
    FRAME_CONVERSION_FAILED = 0x800E9403


class ControlMessage(NamedTuple):
    """A message in the clear. `kind` may be one that ControlKind does not know."""

    kind: int
    payload: bytes

    def __repr__(self) -> str:
        """Show no payload: it may be what somebody types."""
        return f"ControlMessage(kind={self.kind:#06x}, {len(self.payload)} bytes)"


class ControlCipher:
    """Seals what one side sends, opens what it receives."""

    def __init__(self, rikey: bytes, role: Role, *, version: Literal[1, 2] = 1) -> None:
        """Take the session's key. Version 2 is used where `encryptionEnabled` has bit 1."""
        if len(rikey) != _KEY_BYTES:
            raise ValueError("rikey is 16 bytes")
        self._key = AESGCM(rikey)
        self._role = role
        self._version = version
        self._sequence = 0

    def seal(self, kind: int, payload: bytes = b"") -> bytes:
        """Make a message ready to be sent, under the next sequence number."""
        if len(payload) > _MAX_PAYLOAD_BYTES:
            raise ValueError(f"control payload of {len(payload)} bytes")
        sequence, self._sequence = self._sequence, (self._sequence + 1) & 0xFFFFFFFF
        plain = _INNER.pack(kind, len(payload)) + payload
        sealed = self._key.encrypt(self._nonce(sequence, self._role), plain, None)
        ciphertext, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
        return _HEADER.pack(_SEALED, 4 + len(sealed), sequence) + tag + ciphertext

    def open(self, data: bytes) -> ControlMessage:
        """Read a message of the other side. Raises Malformed, AuthenticationFailed."""
        if len(data) < _HEADER.size + _TAG_BYTES + _INNER.size:
            raise Malformed("control_short", "control message too short to be sealed")
        kind, length, sequence = _HEADER.unpack_from(data)
        if kind != _SEALED or length != len(data) - 4:
            raise Malformed("control_header", "control message that is not sealed, or cut short")
        sender: Role = "host" if self._role == "client" else "client"
        body = data[_HEADER.size + _TAG_BYTES :] + data[_HEADER.size :][:_TAG_BYTES]
        try:
            plain = self._key.decrypt(self._nonce(sequence, sender), body, None)
        except InvalidTag as error:
            raise AuthenticationFailed(
                "control_tag", "control message sealed with another key"
            ) from error
        inner_kind, inner_length = _INNER.unpack_from(plain)
        if inner_length != len(plain) - _INNER.size:
            raise Malformed("control_length", "control message that contradicts its length")
        return ControlMessage(inner_kind, plain[_INNER.size :])

    def _nonce(self, sequence: int, sender: Role) -> bytes:
        if self._version == 1:
            return bytes([sequence & 0xFF]) + bytes(15)
        letter = b"C" if sender == "client" else b"H"
        return struct.pack("<I", sequence) + bytes(6) + letter + b"C"


def sealed_sequence(data: bytes | memoryview) -> int | None:
    """Tell a sealed message's number without opening it; None for what cannot be sealed."""
    if len(data) < _HEADER.size + _TAG_BYTES + _INNER.size:
        return None
    kind, length, sequence = _HEADER.unpack_from(data)
    return sequence if kind == _SEALED and length == len(data) - 4 else None


def termination_payload(reason: int = TerminationReason.CLOSED) -> bytes:
    """Write the payload of a TERMINATION."""
    return struct.pack(">I", reason)


def termination_reason(payload: bytes) -> int:
    """Read the payload of a TERMINATION: four bytes, or two from old hosts. Raises Malformed."""
    if len(payload) >= 4:
        return int.from_bytes(payload[:4], "big")
    if len(payload) >= 2:
        return int.from_bytes(payload[:2], "little")
    raise Malformed("control_termination", "termination without a reason")
