"""Video datagrams sealed shard by shard, after FEC, under the session's key (protocol §6).

On the wire: ``iv[12], u32 frame number, tag[16]``, then the whole RTP packet under AES-128-GCM,
header included. The IV is a 64-bit counter, zeros and ``V`` at its end, all little-endian; the
other streams under the same key have other letters there. Receivers take the IV as it comes, and
may pass a packet over by its frame number before they open it, unless that is 0: it is in the
clear and proves nothing.
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moonlight.errors import AuthenticationFailed, Malformed
from moonlight.rtp import RTP_HEADER_BYTES, Bytes

ENCRYPTION_OVERHEAD_BYTES: Final = 32
"""What sealing adds to a datagram. Clients that encrypt ask for packets so much smaller."""
COUNTERS: Final = 1 << 64

_IV: Final = struct.Struct("<Q3xB")
_LETTER: Final = ord("V")
_TAG_AT: Final = 16
_TAG_BYTES: Final = 16
_KEY_BYTES: Final = 16
_FRAME_AT: Final = 20
_FRAME_END: Final = _FRAME_AT + 4
_NO_FRAME: Final = bytes(4)


class VideoSealer:
    """Seals the packets of one stream, each under the next counter.

    Args:
        rikey: the session's key, 16 bytes.
        first_counter: the first one to use. Under one key no two packets may have the same: who
            makes a second sealer for a key has it begin beyond all that the first may have used.

    """

    def __init__(self, rikey: bytes, first_counter: int) -> None:
        if not 0 <= first_counter < COUNTERS:
            raise ValueError("a counter has 64 bits")
        self._seal = _cipher(rikey).encrypt
        self._counter = first_counter

    def seal(self, data: Bytes, packet_bytes: int) -> bytes:
        """Seal packets of `packet_bytes` that stand back to back, the last perhaps shorter.

        Returns datagrams that are `ENCRYPTION_OVERHEAD_BYTES` longer and stand back to back too.
        Some ten thousand packets a second come by here.
        """
        seal, pack, counter = self._seal, _IV.pack, self._counter
        parts: list[Bytes] = []
        for start in range(0, len(data), packet_bytes):
            packet = data[start : start + packet_bytes]
            iv = pack(counter, _LETTER)
            counter += 1
            sealed = seal(iv, packet, None)
            frame = packet[_FRAME_AT:_FRAME_END]
            parts += (
                iv,
                frame if len(frame) == len(_NO_FRAME) else _NO_FRAME,
                sealed[-_TAG_BYTES:],
                sealed[:-_TAG_BYTES],
            )
        self._counter = counter
        return b"".join(parts)


class VideoOpener:
    """Opens what a `VideoSealer` with the same key has sealed."""

    def __init__(self, rikey: bytes) -> None:
        self._key = _cipher(rikey)

    def open(self, datagram: Bytes) -> bytes:
        """Give the RTP packet. Raises Malformed where there can be none, AuthenticationFailed."""
        if len(datagram) < ENCRYPTION_OVERHEAD_BYTES + RTP_HEADER_BYTES:
            raise Malformed("video_short", "video datagram too short to be sealed")
        iv = datagram[: _IV.size]
        tag = datagram[_TAG_AT:ENCRYPTION_OVERHEAD_BYTES]
        sealed = b"".join((datagram[ENCRYPTION_OVERHEAD_BYTES:], tag))
        try:
            return self._key.decrypt(iv, sealed, None)
        except InvalidTag as error:
            raise AuthenticationFailed(
                "video_tag", "video datagram that is not sealed with this key"
            ) from error


def _cipher(rikey: bytes) -> AESGCM:
    if len(rikey) != _KEY_BYTES:
        raise ValueError("rikey is 16 bytes")
    return AESGCM(rikey)
