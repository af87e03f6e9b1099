"""ENet 1.3 packets: reading their headers, writing them, and swapping the connect data.

A packet is a header and a run of commands; integers are big-endian. GameStream uses neither
checksums nor compression (protocol §6), so whoever stands between two peers may read all of this,
and may change CONNECT's data, which is how a session is recognised.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from moonlight.errors import Malformed, TooLarge

NO_PEER: Final = 0xFFF
"""The peer id of packets to a host that has not yet named one: only CONNECT uses it."""
NO_CHANNEL: Final = 0xFF
"""The channel of commands about the connection itself."""
ACKNOWLEDGE_FLAG: Final = 0x80
UNSEQUENCED_FLAG: Final = 0x40

_SENT_TIME: Final = 0x8000
_COMPRESSED: Final = 0x4000
_COMMAND_HEADER: Final = struct.Struct(">BBH")
_CONNECT_BYTES: Final = 48
_CONNECT_DATA_OFFSET: Final = 44


class CommandKind(IntEnum):
    """What a command says; its body follows the four common bytes."""

    ACKNOWLEDGE = 1
    CONNECT = 2
    VERIFY_CONNECT = 3
    DISCONNECT = 4
    PING = 5
    SEND_RELIABLE = 6
    SEND_UNRELIABLE = 7
    SEND_FRAGMENT = 8
    SEND_UNSEQUENCED = 9
    BANDWIDTH_LIMIT = 10
    THROTTLE_CONFIGURE = 11
    SEND_UNRELIABLE_FRAGMENT = 12


class Acknowledge(NamedTuple):
    """A command arrived, in a packet that named this time."""

    received_sequence: int
    received_sent_time: int


class Connect(NamedTuple):
    """What a client offers. `data` is X-SS-Connect-Data, a secret."""

    peer_id: int
    incoming_session: int
    outgoing_session: int
    mtu: int
    window_size: int
    channel_count: int
    incoming_bandwidth: int
    outgoing_bandwidth: int
    throttle_interval: int
    throttle_acceleration: int
    throttle_deceleration: int
    connect_id: int
    data: int


class VerifyConnect(NamedTuple):
    """What the host settles; session ids as the client sees them, throttle and id as offered."""

    peer_id: int
    incoming_session: int
    outgoing_session: int
    mtu: int
    window_size: int
    channel_count: int
    incoming_bandwidth: int
    outgoing_bandwidth: int
    throttle_interval: int
    throttle_acceleration: int
    throttle_deceleration: int
    connect_id: int


class Disconnect(NamedTuple):
    """The sender leaves."""

    data: int


class Ping(NamedTuple):
    """The sender wants an acknowledgement, no more."""


class SendReliable(NamedTuple):
    """A whole message, numbered by the command's reliable sequence."""


class SendUnreliable(NamedTuple):
    """A message to be dropped when it comes late."""

    sequence: int


class SendUnsequenced(NamedTuple):
    """A message with neither order nor guarantee."""

    group: int


class SendFragment(NamedTuple):
    """A piece of a message, reliable or not."""

    start_sequence: int
    fragment_count: int
    fragment_number: int
    total_length: int
    offset: int


class BandwidthLimit(NamedTuple):
    """Bytes a second that the sender can take and will send; 0 is any."""

    incoming: int
    outgoing: int


class ThrottleConfigure(NamedTuple):
    """How unreliable messages are thinned out; nothing for a middlebox."""

    interval: int
    acceleration: int
    deceleration: int


Body = (
    Acknowledge
    | Connect
    | VerifyConnect
    | Disconnect
    | Ping
    | SendReliable
    | SendUnreliable
    | SendUnsequenced
    | SendFragment
    | BandwidthLimit
    | ThrottleConfigure
)


class _Layout(NamedTuple):
    body: type[Body]
    fields: struct.Struct
    length_at: int | None = None
    """Which field, not part of the body, is the length of the payload behind the command."""


_LAYOUTS: Final[dict[CommandKind, _Layout]] = {
    CommandKind.ACKNOWLEDGE: _Layout(Acknowledge, struct.Struct(">HH")),
    CommandKind.CONNECT: _Layout(Connect, struct.Struct(">HBB10I")),
    CommandKind.VERIFY_CONNECT: _Layout(VerifyConnect, struct.Struct(">HBB9I")),
    CommandKind.DISCONNECT: _Layout(Disconnect, struct.Struct(">I")),
    CommandKind.PING: _Layout(Ping, struct.Struct(">")),
    CommandKind.SEND_RELIABLE: _Layout(SendReliable, struct.Struct(">H"), 0),
    CommandKind.SEND_UNRELIABLE: _Layout(SendUnreliable, struct.Struct(">HH"), 1),
    CommandKind.SEND_FRAGMENT: _Layout(SendFragment, struct.Struct(">HH4I"), 1),
    CommandKind.SEND_UNSEQUENCED: _Layout(SendUnsequenced, struct.Struct(">HH"), 1),
    CommandKind.BANDWIDTH_LIMIT: _Layout(BandwidthLimit, struct.Struct(">II")),
    CommandKind.THROTTLE_CONFIGURE: _Layout(ThrottleConfigure, struct.Struct(">III")),
    CommandKind.SEND_UNRELIABLE_FRAGMENT: _Layout(SendFragment, struct.Struct(">HH4I"), 1),
}


@dataclass(frozen=True, slots=True)
class EnetCommand:
    """One command. Bodies and payloads may be secret and stay out of repr."""

    kind: CommandKind
    flags: int
    channel: int
    reliable_sequence: int
    body: Body = field(repr=False)
    payload: memoryview | bytes = field(default=b"", repr=False)

    @property
    def wants_acknowledgement(self) -> bool:
        """Whether the sender repeats the command until it is acknowledged."""
        return bool(self.flags & ACKNOWLEDGE_FLAG)

    def encode(self) -> bytes:
        """Write the command."""
        layout = _LAYOUTS[self.kind]
        values: list[int] = list(self.body)
        if layout.length_at is not None:
            values.insert(layout.length_at, len(self.payload))
        header = _COMMAND_HEADER.pack(self.kind | self.flags, self.channel, self.reliable_sequence)
        return header + layout.fields.pack(*values) + self.payload


@dataclass(frozen=True, slots=True)
class EnetPacket:
    """One datagram. `peer_id` is the receiver's number for the sender."""

    peer_id: int
    session: int
    sent_time: int | None
    commands: tuple[EnetCommand, ...]

    def encode(self) -> bytes:
        """Write the datagram."""
        word = self.peer_id | self.session << 12
        commands = b"".join(command.encode() for command in self.commands)
        if self.sent_time is None:
            return struct.pack(">H", word) + commands
        return struct.pack(">HH", word | _SENT_TIME, self.sent_time) + commands


def parse_packet(datagram: bytes, *, max_commands: int = 256) -> EnetPacket:
    """Read a whole datagram; payloads are views of it. Raises Malformed, TooLarge."""
    word, at = _header(datagram)
    if word & _COMPRESSED:
        raise Malformed("enet_compressed", "compressed ENet packet")
    view = memoryview(datagram)
    commands: list[EnetCommand] = []
    sent_time = int.from_bytes(view[2:4], "big") if word & _SENT_TIME else None
    while at < len(view):
        if len(commands) == max_commands:
            raise TooLarge("enet_commands", f"ENet packet of more than {max_commands} commands")
        command, at = _parse_command(view, at)
        commands.append(command)
    return EnetPacket(word & NO_PEER, word >> 12 & 3, sent_time, tuple(commands))


def peer_id(datagram: bytes) -> int | None:
    """Tell whom the datagram is for, at the price of a look at two bytes; None where too short."""
    return int.from_bytes(datagram[:2], "big") & NO_PEER if len(datagram) > 1 else None


def connect_data(datagram: bytes) -> int | None:
    """Give the data of a datagram that begins with CONNECT; None for every other datagram."""
    at = _connect_at(datagram)
    if at is None:
        return None
    return int.from_bytes(datagram[at + _CONNECT_DATA_OFFSET : at + _CONNECT_BYTES], "big")


def rewrite_connect_data(datagram: bytes, new: int) -> bytes:
    """Give the same datagram with other connect data. ValueError where it is no CONNECT."""
    at = _connect_at(datagram)
    if at is None:
        raise ValueError("not a CONNECT packet")
    data = new.to_bytes(4, "big")
    return datagram[: at + _CONNECT_DATA_OFFSET] + data + datagram[at + _CONNECT_BYTES :]


def _header(datagram: bytes) -> tuple[int, int]:
    word = int.from_bytes(datagram[:2], "big")
    size = 4 if word & _SENT_TIME else 2
    if len(datagram) < size:
        raise Malformed("enet_header", "datagram too short for ENet")
    return word, size


def _connect_at(datagram: bytes) -> int | None:
    if len(datagram) < _CONNECT_BYTES + 2:
        return None
    word = int.from_bytes(datagram[:2], "big")
    at = 4 if word & _SENT_TIME else 2
    if word & NO_PEER != NO_PEER or word & _COMPRESSED or len(datagram) < at + _CONNECT_BYTES:
        return None
    return at if datagram[at] & 0x0F == CommandKind.CONNECT else None


def _parse_command(view: memoryview, at: int) -> tuple[EnetCommand, int]:
    if len(view) - at < _COMMAND_HEADER.size:
        raise Malformed("enet_truncated", "ENet packet ends inside a command")
    first, channel, reliable_sequence = _COMMAND_HEADER.unpack_from(view, at)
    at += _COMMAND_HEADER.size
    if first & 0x0F not in _KINDS or first & 0x30:
        raise Malformed("enet_command", f"unknown ENet command {first:#04x}")
    kind = CommandKind(first & 0x0F)
    layout = _LAYOUTS[kind]
    if len(view) - at < layout.fields.size:
        raise Malformed("enet_truncated", "ENet packet ends inside a command")
    values = list(layout.fields.unpack_from(view, at))
    at += layout.fields.size
    length = 0 if layout.length_at is None else values.pop(layout.length_at)
    if len(view) - at < length:
        raise Malformed("enet_truncated", "ENet packet ends inside a message")
    body = layout.body(*values)
    flags = first & (ACKNOWLEDGE_FLAG | UNSEQUENCED_FLAG)
    command = EnetCommand(kind, flags, channel, reliable_sequence, body, view[at : at + length])
    return command, at + length


_KINDS: Final = frozenset(_LAYOUTS)
