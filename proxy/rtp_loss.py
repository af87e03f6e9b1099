"""Counts what is missing from an RTP stream, by its sequence numbers and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_sequence_modulus: Final = 1 << 16
_rtp_header_bytes: Final = 12
_rtp_version: Final = 2
# A jump by more than this is a stream that began anew, not a loss.
max_gap_packets: Final = 4_096
_gap_bits: Final = (1 << max_gap_packets) - 1


class SequenceGaps:
    """How many packets of one stream never came, as far as their numbers tell.

    With `payload_type` only packets of that type are counted (audio's parity has numbers of its
    own). A packet that comes late fills the gap it left, so `missing` can fall again; one that
    comes twice does not.
    """

    def __init__(self, payload_type: int | None = None) -> None:
        self.received = 0
        self.missing = 0
        self.late = 0
        """How many came after all: `missing` and these together only ever grow."""
        self._payload_type = payload_type
        self._next: int | None = None
        self._gaps = 0
        """Numbers that may still come late: bit n stands for the one n + 1 before the next.

        One integer, so that a jump costs the same however far it goes.
        """

    def note(self, datagrams: Iterable[bytes | memoryview]) -> None:
        """Count packets in the order of their arrival; what is no RTP is passed over."""
        for datagram in datagrams:
            is_rtp = len(datagram) >= _rtp_header_bytes and datagram[0] >> 6 == _rtp_version
            if is_rtp and self._payload_type in (None, datagram[1] & 0x7F):
                self._note(datagram[2] << 8 | datagram[3])

    def note_run(self, data: memoryview, size: int) -> None:
        """Count packets of `size` bytes that stand back to back, the last perhaps shorter.

        A run whose last number is as far from its first as it is long is taken for what it seems:
        at one look, where `note` takes one a packet.
        """
        count = -(-len(data) // size) if size else 1
        last = (count - 1) * size
        if (
            count == 1
            or self._payload_type is not None
            or len(data) - last < _rtp_header_bytes
            or (data[0] | data[last]) >> 6 != _rtp_version
            or ((data[last + 2] - data[2] << 8) + data[last + 3] - data[3] - count + 1)
            % _sequence_modulus
        ):
            self.note(data[start : start + size] for start in range(0, last + 1, size or 1))
            return
        self._note(data[2] << 8 | data[3])
        if self._next != (data[2] << 8 | data[3]) + 1 & 0xFFFF:
            # It was one that came late, so the others are looked at one by one.
            self.note(data[start : start + size] for start in range(size, last + 1, size))
            return
        self.received += count - 1
        self._next = (self._next + count - 1) % _sequence_modulus
        self._gaps = self._gaps << count - 1 & _gap_bits

    def _note(self, sequence: int) -> None:
        self.received += 1
        ahead = 0 if self._next is None else (sequence - self._next) % _sequence_modulus
        if ahead >= _sequence_modulus - max_gap_packets:
            bit = 1 << (_sequence_modulus - ahead - 1)
            if self._gaps & bit:
                self._gaps ^= bit
                self.missing -= 1
                self.late += 1
            return
        if ahead >= max_gap_packets:
            self._gaps = 0
        elif ahead or self._gaps:
            self.missing += ahead
            passed_over = (1 << ahead) - 1
            self._gaps = (self._gaps << ahead | passed_over) << 1 & _gap_bits
        self._next = (sequence + 1) % _sequence_modulus
