"""Whether a control datagram from an unknown source belongs to a connection that stands.

After a NAT rebinding the client's ENet packets come from a new port, or a new address, and no
CONNECT announces them. Peer and session number are in every packet, but they are 14 bits that
anybody can guess. What an outsider cannot make is a message sealed under the session's key, and
what one cannot copy is a message newer than all that were heard: the sequence number of the seal
rises with every message. Version 2 of the seal covers the whole number; version 1 covers its
lowest byte (see `moonlight.control`), and is that much weaker against somebody who sees the
client's traffic and alters it.

Clients of old that do not seal their control stream are recognised by ENet's own numbers, and only
where a ping from the same address vouches for them.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from typing import Final

from moonlight.control import ControlCipher, sealed_sequence
from moonlight.enet import NO_PEER, EnetCommand, EnetPacket, parse_packet
from moonlight.errors import ProtocolError
from moonlight.serial import is_newer

max_packet_bytes: Final = 1_500
"""More than ENet's MTU here (900): how much of an unknown source's datagram is ever read."""
max_reliable_lead: Final = 4_096
"""ENet's own window: no peer is further ahead of what was acknowledged."""
_HEADER_BYTES: Final = 4
_RELIABLE_SEQUENCES: Final = 1 << 16


class Verdict(enum.Enum):
    """What a datagram is to a connection."""

    OURS = "ours"
    """Its client sent it, after everything that was heard from it."""

    PLAUSIBLE = "plausible"
    """It fits a connection that is not sealed: its numbers are right, and nothing is proven."""

    REPLAYED = "replayed"
    """Its client sent it once, and it, or a later one, has been heard already."""

    FOREIGN = "foreign"


class ControlTrail:
    """What was heard of one control connection's client, at the address the flow is bound to."""

    def __init__(self, rikey: bytes) -> None:
        # Which version is used was settled in the handshake; the one that opens a message goes
        # first from then on.
        self._ciphers = [ControlCipher(rikey, "host", version=2), ControlCipher(rikey, "host")]
        self._highest: int | None = None
        self._numbers: tuple[int, int] | None = None
        """Peer and session number of the client's packets."""
        self._reliable: dict[int, int] = {}
        """Of each channel the newest reliable sequence, while nothing was sealed."""
        self.heard_at = -math.inf

    @property
    def sealed(self) -> bool:
        """Whether the client has proven that it has the session's key."""
        return self._highest is not None

    def note(self, datagram: bytes, now: float) -> None:
        """Note a datagram from the bound address."""
        packet = _parse(datagram)
        if packet is None or packet.peer_id == NO_PEER:
            return
        sequence = self._sequence(packet)
        if sequence is not None:
            if is_newer(sequence, self._highest):
                self._highest = sequence
                self._numbers = (packet.peer_id, packet.session)
                self.heard_at = now
        elif not self.sealed:
            self._numbers = (packet.peer_id, packet.session)
            for command in _reliable(packet):
                self._reliable[command.channel] = command.reliable_sequence
            self.heard_at = now

    def may_know(self, datagram: bytes) -> bool:
        """Tell by a look at the first bytes whether `judge` is worth its price."""
        if not _HEADER_BYTES <= len(datagram) <= max_packet_bytes:
            return False
        word = int.from_bytes(datagram[:2], "big")
        numbers = (word & NO_PEER, word >> 12 & 3)
        return numbers[0] != NO_PEER and self._numbers in {None, numbers}

    def judge(self, datagram: bytes) -> Verdict:
        """Tell what a datagram from elsewhere is, of which `may_know` holds; changes nothing."""
        packet = _parse(datagram)
        if packet is None:
            return Verdict.FOREIGN
        sequence = self._sequence(packet)
        if sequence is not None:
            newer = is_newer(sequence, self._highest)
            return Verdict.OURS if newer else Verdict.REPLAYED
        if self.sealed or self._numbers is None:
            return Verdict.FOREIGN
        return Verdict.PLAUSIBLE if self._continues(packet) else Verdict.FOREIGN

    def _sequence(self, packet: EnetPacket) -> int | None:
        """Give the newest number that the session's key has sealed; None where there is none."""
        newest: int | None = None
        for command in packet.commands:
            sequence = sealed_sequence(command.payload)
            if sequence is None or not (newest is None or is_newer(sequence, newest)):
                continue
            if not self._opens(bytes(command.payload)):
                break
            newest = sequence
        return newest

    def _opens(self, sealed: bytes) -> bool:
        for cipher in self._ciphers:
            try:
                cipher.open(sealed)
            except ProtocolError:
                continue
            self._ciphers.sort(key=lambda other: other is not cipher)
            return True
        return False

    def _continues(self, packet: EnetPacket) -> bool:
        """Tell whether some reliable command comes next, or soon, after those that were heard."""
        return any(
            command.channel in self._reliable
            and 0
            < (command.reliable_sequence - self._reliable[command.channel]) % _RELIABLE_SEQUENCES
            < max_reliable_lead
            for command in _reliable(packet)
        )


def _parse(datagram: bytes) -> EnetPacket | None:
    try:
        return parse_packet(datagram)
    except ProtocolError:
        return None


def _reliable(packet: EnetPacket) -> Iterator[EnetCommand]:
    return (command for command in packet.commands if command.wants_acknowledgement)
