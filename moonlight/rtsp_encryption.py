"""Sealed RTSP messages, for sessions whose URL begins with ``rtspenc://``.

Each message is ``u32 (0x80000000 | length), u32 sequence, tag, ciphertext``, big-endian, under
AES-128-GCM with the session's key (protocol §5). Sequences rise over all connections of a session,
though each connection carries one message and its answer.
"""

from __future__ import annotations

import struct
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moonlight.errors import AuthenticationFailed, Malformed, TooLarge

_HEADER: Final = struct.Struct(">II")
_SEALED: Final = 0x80000000
_TAG_BYTES: Final = 16
_KEY_BYTES: Final = 16

Role = Literal["client", "host"]


class EncryptedRtsp:
    """One side of a session's sealed RTSP."""

    def __init__(self, key: bytes, role: Role, *, max_message_bytes: int = 65_536) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError("the key is 16 bytes")
        self._key = AESGCM(key)
        self._role: Role = role
        self._peer: Role = "host" if role == "client" else "client"
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()
        self._sent = 0
        self._received = 0

    def seal(self, plain: bytes) -> bytes:
        """Make one whole message ready to be sent, under the next sequence number."""
        self._sent += 1
        sealed = self._key.encrypt(_nonce(self._sent, self._role), plain, None)
        header = _HEADER.pack(_SEALED | len(plain), self._sent)
        return header + sealed[-_TAG_BYTES:] + sealed[:-_TAG_BYTES]

    def open(self, data: bytes) -> list[bytes]:
        """Take bytes of the peer, however they were segmented; give the messages now whole.

        Raises Malformed for what is not sealed, TooLarge, and AuthenticationFailed for wrong tags
        and for sequences that came before.
        """
        self._buffer += data
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def new_connection(self) -> None:
        """Forget an unfinished message: the connection that carried it is gone."""
        self._buffer.clear()

    def _next(self) -> bytes | None:
        if len(self._buffer) < _HEADER.size:
            return None
        word, sequence = _HEADER.unpack_from(self._buffer)
        length = word & ~_SEALED
        if not word & _SEALED:
            raise Malformed("rtsp_not_sealed", "RTSP message in the clear where it must be sealed")
        if length > self._max_message_bytes:
            raise TooLarge("rtsp_message", f"sealed RTSP message of {length} bytes")
        end = _HEADER.size + _TAG_BYTES + length
        if len(self._buffer) < end:
            return None
        tag = bytes(self._buffer[_HEADER.size : _HEADER.size + _TAG_BYTES])
        ciphertext = bytes(self._buffer[_HEADER.size + _TAG_BYTES : end])
        del self._buffer[:end]
        if sequence <= self._received:
            raise AuthenticationFailed("rtsp_replay", "RTSP message that came before")
        try:
            plain = self._key.decrypt(_nonce(sequence, self._peer), ciphertext + tag, None)
        except InvalidTag as error:
            raise AuthenticationFailed(
                "rtsp_tag", "RTSP message sealed with another key"
            ) from error
        self._received = sequence
        return plain


def _nonce(sequence: int, sender: Role) -> bytes:
    letter = b"C" if sender == "client" else b"H"
    return struct.pack("<I", sequence) + bytes(6) + letter + b"R"
