"""Sealed RTSP messages, for sessions whose URL begins with ``rtspenc://``.

Each message is ``u32 (0x80000000 | length), u32 sequence, tag, ciphertext``, big-endian, under
AES-128-GCM with the session's key (protocol §5). Sequences rise over all connections of a session,
though each connection carries one message and its answer. They need not begin with 1 nor follow
closely: Moonlight's counter goes on from one stream of a process to its next. A number must never
seal two messages of one direction under one key, which would give both away.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moonlight.errors import AuthenticationFailed, Malformed, TooLarge

_HEADER: Final = struct.Struct(">II16s")
_SEALED: Final = 0x80000000
_FIRST_BIT: Final = 0x80
_TAG_BYTES: Final = 16
_KEY_BYTES: Final = 16

Role = Literal["client", "host"]


@dataclass(frozen=True, slots=True)
class SealedMessage:
    """One whole message that nobody has opened yet."""

    sequence: int
    tag: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


def is_sealed(data: bytes | bytearray) -> bool:
    """Tell by its first byte whether a message is sealed; one in the clear begins with ASCII."""
    return bool(data) and data[0] & _FIRST_BIT != 0


class SealedReader:
    """Cuts the bytes of one connection into sealed messages, however they were segmented.

    Give bytes to `receive`, then call `next` until it gives None. An error is final.
    """

    def __init__(self, *, max_message_bytes: int = 65_536) -> None:
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()
        self._ended = False

    @property
    def idle(self) -> bool:
        """Whether no message has begun: a connection may end here without being cut short."""
        return not self._buffer

    def receive(self, data: bytes | bytearray) -> None:
        """Take what the peer sent."""
        self._buffer += data

    def end(self) -> None:
        """Note that the peer sends no more."""
        self._ended = True

    def next(self) -> SealedMessage | None:
        """Give the next whole message; None while more bytes are needed, or after the last one.

        Raises Malformed for what is not sealed or was cut short, and TooLarge.
        """
        if self._buffer and not is_sealed(self._buffer):
            raise Malformed("rtsp_not_sealed", "RTSP message in the clear where it must be sealed")
        message = self._take()
        if message is None and self._ended and self._buffer:
            raise Malformed("rtsp_truncated", "sealed RTSP message that was cut short")
        return message

    def _take(self) -> SealedMessage | None:
        if len(self._buffer) < _HEADER.size:
            return None
        word, sequence, tag = _HEADER.unpack_from(self._buffer)
        length = word & ~_SEALED
        if length > self._max_message_bytes:
            raise TooLarge("rtsp_message", f"sealed RTSP message of {length} bytes")
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        ciphertext = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        return SealedMessage(sequence, tag, ciphertext)


def seal(key: bytes, sender: Role, sequence: int, plain: bytes) -> bytes:
    """Make one whole message ready to be sent. `key` is 16 bytes, `sequence` a u32."""
    sealed = _cipher(key).encrypt(_nonce(sequence, sender), plain, None)
    header = _HEADER.pack(_SEALED | len(plain), sequence, sealed[-_TAG_BYTES:])
    return header + sealed[:-_TAG_BYTES]


def unseal(key: bytes, sender: Role, message: SealedMessage) -> bytes:
    """Open a message, whatever its number. Raises AuthenticationFailed: not sealed with `key`."""
    sealed = message.ciphertext + message.tag
    try:
        return _cipher(key).decrypt(_nonce(message.sequence, sender), sealed, None)
    except InvalidTag as error:
        raise AuthenticationFailed("rtsp_tag", "RTSP message sealed with another key") from error


def check_rises(sequence: int, highest: int) -> None:
    """Raise AuthenticationFailed for a number that is not above the `highest` that came."""
    if sequence <= highest:
        raise AuthenticationFailed("rtsp_replay", "RTSP message that came before")


class EncryptedRtsp:
    """One side of a session's sealed RTSP, which counts what it sends and what it has received."""

    def __init__(self, key: bytes, role: Role) -> None:
        _cipher(key)
        self._key = key
        self._role: Role = role
        self._peer: Role = "host" if role == "client" else "client"
        self._sent = 0
        self._received = 0

    def seal(self, plain: bytes) -> bytes:
        """Make one whole message ready to be sent, under the next sequence number."""
        self._sent += 1
        return seal(self._key, self._role, self._sent, plain)

    def unseal(self, message: SealedMessage) -> bytes:
        """Open a message of the peer.

        Raises AuthenticationFailed for a wrong tag and for a sequence that came before. Nothing
        is remembered of a message that is refused.
        """
        plain = unseal(self._key, self._peer, message)
        check_rises(message.sequence, self._received)
        self._received = message.sequence
        return plain


def _cipher(key: bytes) -> AESGCM:
    if len(key) != _KEY_BYTES:
        raise ValueError("the key is 16 bytes")
    return AESGCM(key)


def _nonce(sequence: int, sender: Role) -> bytes:
    letter = b"C" if sender == "client" else b"H"
    return struct.pack("<I", sequence) + bytes(6) + letter + b"R"
