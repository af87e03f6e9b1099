"""A look at the headers of an ENet packet, for whoever counts and times what passes.

`moonlight.enet` reads a whole packet into values; this tells, at a fifth of the price, which
commands are in it. Whatever `parse_packet` would refuse has no commands here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from moonlight.enet import CommandKind

_SENT_TIME: Final = 0x8000
_COMPRESSED: Final = 0x4000
_RESERVED: Final = 0x30
_WANTS_ACKNOWLEDGEMENT: Final = 0x80
_max_commands: Final = 256

_HEAD_BYTES: Final = {
    CommandKind.ACKNOWLEDGE: 8,
    CommandKind.CONNECT: 48,
    CommandKind.VERIFY_CONNECT: 44,
    CommandKind.DISCONNECT: 8,
    CommandKind.PING: 4,
    CommandKind.SEND_RELIABLE: 6,
    CommandKind.SEND_UNRELIABLE: 8,
    CommandKind.SEND_FRAGMENT: 24,
    CommandKind.SEND_UNSEQUENCED: 8,
    CommandKind.BANDWIDTH_LIMIT: 12,
    CommandKind.THROTTLE_CONFIGURE: 16,
    CommandKind.SEND_UNRELIABLE_FRAGMENT: 24,
}
"""Of a command without its payload."""
_LENGTH_AT: Final = {
    CommandKind.SEND_RELIABLE: 4,
    CommandKind.SEND_UNRELIABLE: 6,
    CommandKind.SEND_FRAGMENT: 6,
    CommandKind.SEND_UNSEQUENCED: 6,
    CommandKind.SEND_UNRELIABLE_FRAGMENT: 6,
}
# Indexed by the low four bits of a command; 0 is no kind, or no payload.
_heads: Final = tuple(_HEAD_BYTES.get(kind, 0) for kind in range(16))  # type: ignore[call-overload]
_lengths: Final = tuple(_LENGTH_AT.get(kind, 0) for kind in range(16))  # type: ignore[call-overload]


class Seen(NamedTuple):
    """One command in passing."""

    kind: int
    """A `CommandKind`."""
    reliable: bool
    """Whether its sender repeats it until it is acknowledged."""
    channel: int
    sequence: int
    """Its reliable sequence; of an acknowledgement that of what it acknowledges."""
    sent_time: int | None
    """Milliseconds of its sender's clock; of an acknowledgement those of what it acknowledges."""


def glance(datagram: bytes | memoryview) -> list[Seen]:
    """Tell which commands are in a packet; none where it is not a packet of ENet's."""
    size = len(datagram)
    word = datagram[0] << 8 | datagram[1] if size > 1 else _COMPRESSED
    at = 4 if word & _SENT_TIME else 2
    if word & _COMPRESSED or size < at:
        return []
    sent_time = datagram[2] << 8 | datagram[3] if word & _SENT_TIME else None
    seen: list[Seen] = []
    while at < size:
        first = datagram[at]
        kind = first & 0x0F
        end = at + _heads[kind]
        if end == at or end > size or first & _RESERVED or len(seen) == _max_commands:
            return []
        if length := _lengths[kind]:
            end += datagram[at + length] << 8 | datagram[at + length + 1]
            if end > size:
                return []
        # An acknowledgement names what it is for in its body; its head may say the same.
        number = at + 4 if kind == CommandKind.ACKNOWLEDGE else at + 2
        sequence = datagram[number] << 8 | datagram[number + 1]
        time = sent_time
        if kind == CommandKind.ACKNOWLEDGE:
            time = datagram[at + 6] << 8 | datagram[at + 7]
        reliable = first & _WANTS_ACKNOWLEDGEMENT != 0
        seen.append(Seen(kind, reliable, datagram[at + 1], sequence, time))
        at = end
    return seen
