"""Opus packets to audio datagrams with encryption and parity, and back.

Blocks of four packets start at sequence numbers divisible by four; two parity packets follow each
block (protocol §6). Parity covers the payloads as sent, so after encryption, and only where the
four are equally long: hosts encode at a constant bitrate for that reason.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from moonlight import fec
from moonlight.errors import Malformed
from moonlight.rtp import (
    AUDIO_FEC_PAYLOAD_TYPE,
    AUDIO_PAYLOAD_TYPE,
    RTP_HEADER_BYTES,
    RtpHeader,
)

_RTP_FIRST: Final = 0x80
_FEC_HEADER: Final = struct.Struct(">BBHII")
_BLOCK: Final = fec.AUDIO_DATA_SHARDS
_KEY_BYTES: Final = 16
_PADDING: Final = PKCS7(128)


class AudioCipher:
    """AES-128-CBC under the session's rikey, with an IV that counts with the sequence number."""

    def __init__(self, rikey: bytes, rikeyid: int) -> None:
        if len(rikey) != _KEY_BYTES:
            raise ValueError("rikey is 16 bytes")
        self._key = algorithms.AES(rikey)
        self._rikeyid = rikeyid

    def seal(self, sequence: int, plain: bytes) -> bytes:
        """Pad and encrypt one Opus packet."""
        padder = _PADDING.padder()
        padded = padder.update(plain) + padder.finalize()
        encryptor = self._cipher(sequence).encryptor()
        return encryptor.update(padded) + encryptor.finalize()

    def open(self, sequence: int, sealed: bytes) -> bytes:
        """Decrypt one Opus packet. Raises Malformed where its padding is wrong."""
        decryptor, unpadder = self._cipher(sequence).decryptor(), _PADDING.unpadder()
        try:
            padded = decryptor.update(sealed) + decryptor.finalize()
            return unpadder.update(padded) + unpadder.finalize()
        except ValueError as error:
            raise Malformed("audio_padding", "audio packet that does not decrypt") from error

    def _cipher(self, sequence: int) -> Cipher[modes.CBC]:
        counter = (self._rikeyid + sequence) & 0xFFFFFFFF
        return Cipher(self._key, modes.CBC(counter.to_bytes(4, "big") + bytes(12)))


class AudioPacketiser:
    """Turns the Opus packets of one stream into datagrams; keeps the stream's numbers."""

    def __init__(self, cipher: AudioCipher | None, *, packet_ms: int = 5, ssrc: int = 0) -> None:
        """Take the cipher, or None for a client that did not ask for encrypted audio.

        `ssrc` is written into every datagram. Hosts leave it at 0.
        """
        self._cipher = cipher
        self._ssrc = ssrc
        self._packet_ms = packet_ms
        self._sequence = 0
        self._timestamp = 0
        self._block: list[bytes] = []

    def packetise(self, opus: bytes) -> list[bytes]:
        """Give the packet's datagram, followed by the block's parity after each fourth one."""
        sequence, timestamp = self._sequence, self._timestamp
        payload = self._cipher.seal(sequence, opus) if self._cipher else opus
        rtp = RtpHeader(_RTP_FIRST, AUDIO_PAYLOAD_TYPE, sequence, timestamp, self._ssrc)
        datagrams = [rtp.pack() + payload]
        self._sequence = (sequence + 1) & 0xFFFF
        self._timestamp = (timestamp + self._packet_ms) & 0xFFFFFFFF
        self._block.append(payload)
        if len(self._block) == _BLOCK:
            datagrams += self._parity(sequence, timestamp)
            self._block.clear()
        return datagrams

    def _parity(self, last_sequence: int, last_timestamp: int) -> list[bytes]:
        if len({len(payload) for payload in self._block}) > 1:
            return []
        base = last_sequence - _BLOCK + 1
        base_timestamp = (last_timestamp - (_BLOCK - 1) * self._packet_ms) & 0xFFFFFFFF
        datagrams = []
        for index, shard in enumerate(fec.encode(self._block, fec.AUDIO_ROWS)):
            # Wolf numbers parity on from the block's last packet, and gives it no timestamp.
            sequence = (last_sequence + index) & 0xFFFF
            rtp = RtpHeader(_RTP_FIRST, AUDIO_FEC_PAYLOAD_TYPE, sequence, 0, self._ssrc)
            place = _FEC_HEADER.pack(index, AUDIO_PAYLOAD_TYPE, base, base_timestamp, self._ssrc)
            datagrams.append(rtp.pack() + place + shard)
        return datagrams


@dataclass(frozen=True, slots=True)
class AudioPacket:
    """One Opus packet that arrived, or that parity gave back."""

    sequence: int
    opus: bytes = field(repr=False)
    recovered: bool


class AudioReceiver:
    """Puts one stream's datagrams in order, recovers and decrypts them.

    A missing packet is waited for until its parity solves it, or until a packet comes that is
    `max_wait_packets` behind it.
    """

    def __init__(self, cipher: AudioCipher | None, *, max_wait_packets: int = 8) -> None:
        self._cipher = cipher
        self._max_wait_packets = max_wait_packets
        self._next: int | None = None
        """The number to deliver next, counted on without wrapping; None before the first."""
        self._newest = 0
        self._shards: dict[int, dict[int, bytes]] = {}
        """Block number to payloads of its packets, 0 to 3 for data and 4, 5 for parity."""
        self._recovered: set[int] = set()
        self.lost_packets = 0
        """Packets given up."""
        self.undecipherable_packets = 0
        """Packets that another key sealed, or nobody."""

    def receive(self, datagram: bytes) -> list[AudioPacket]:
        """Take a datagram; give the packets that can be played now, in order. Raises Malformed."""
        rtp = RtpHeader.parse(datagram)
        if rtp.payload_type == AUDIO_PAYLOAD_TYPE:
            self._receive_data(rtp.sequence, datagram[RTP_HEADER_BYTES:])
        elif rtp.payload_type == AUDIO_FEC_PAYLOAD_TYPE:
            self._receive_parity(datagram)
        else:
            raise Malformed("audio_type", f"audio packet of payload type {rtp.payload_type}")
        return self._deliver()

    def _receive_data(self, sequence: int, payload: bytes) -> None:
        number = self._unwrap(sequence)
        if self._next is None:
            self._next = number
        self._newest = max(self._newest, number)
        if number >= self._next:
            self._shards.setdefault(number // _BLOCK, {}).setdefault(number % _BLOCK, payload)
            self._solve(number // _BLOCK)

    def _receive_parity(self, datagram: bytes) -> None:
        if len(datagram) <= RTP_HEADER_BYTES + _FEC_HEADER.size:
            raise Malformed("audio_fec", "audio parity packet cut short")
        index, _, base, _, _ = _FEC_HEADER.unpack_from(datagram, RTP_HEADER_BYTES)
        if index >= len(fec.AUDIO_ROWS) or base % _BLOCK:
            raise Malformed("audio_fec", "audio parity packet outside of a block")
        block = self._unwrap(base) // _BLOCK
        # Parity may overtake its block's data, but must not make the stream jump.
        if self._next is not None and self._next // _BLOCK <= block <= self._newest // _BLOCK + 1:
            payload = datagram[RTP_HEADER_BYTES + _FEC_HEADER.size :]
            self._shards.setdefault(block, {}).setdefault(_BLOCK + index, payload)
            self._solve(block)

    def _unwrap(self, sequence: int) -> int:
        if self._next is None:
            return sequence
        return self._newest + (sequence - self._newest + 0x8000 & 0xFFFF) - 0x8000

    def _solve(self, block: int) -> None:
        shards = self._shards[block]
        data = [shards.get(index) for index in range(_BLOCK)]
        if None not in data or len(shards) < _BLOCK or len({len(s) for s in shards.values()}) > 1:
            return
        parities = [shards.get(_BLOCK + index) for index in range(len(fec.AUDIO_ROWS))]
        for index, payload in enumerate(fec.recover(data, parities, fec.AUDIO_ROWS)):
            if index not in shards:
                shards[index] = payload
                self._recovered.add(block * _BLOCK + index)

    def _deliver(self) -> list[AudioPacket]:
        if self._next is None:
            return []
        packets = []
        waited_for = self._newest - self._max_wait_packets + 1
        while (payload := self._payload(self._next)) is not None or self._next < waited_for:
            if payload is None:
                # At once: one datagram may be thousands of numbers ahead.
                following = min(self._first_held(), waited_for)
                self.lost_packets += following - self._next
                self._next = following
                continue
            if packet := self._decrypt(self._next, payload):
                packets.append(packet)
            self._next += 1
        first_block = self._next // _BLOCK
        self._shards = {block: kept for block, kept in self._shards.items() if block >= first_block}
        self._recovered = {number for number in self._recovered if number >= self._next}
        return packets

    def _first_held(self) -> int:
        numbers = (
            block * _BLOCK + index
            for block, shards in self._shards.items()
            for index in shards
            if index < _BLOCK
        )
        return min((n for n in numbers if n >= (self._next or 0)), default=self._newest)

    def _payload(self, number: int) -> bytes | None:
        return self._shards.get(number // _BLOCK, {}).get(number % _BLOCK)

    def _decrypt(self, number: int, payload: bytes) -> AudioPacket | None:
        sequence = number & 0xFFFF
        if self._cipher:
            try:
                payload = self._cipher.open(sequence, payload)
            except Malformed:
                self.undecipherable_packets += 1
                return None
        return AudioPacket(sequence, payload, number in self._recovered)
