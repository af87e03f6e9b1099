"""Order, duplicates and fragments of the messages that arrive on one ENet channel.

Reliable messages are numbered from 1 and delivered in order; a message in fragments takes one
number a fragment. Unreliable messages name the reliable one they follow, and are dropped where
they come late, or before that one.
"""

from __future__ import annotations

from typing import Final

from moonlight.enet import CommandKind, EnetCommand, SendFragment, SendUnreliable
from moonlight.errors import Malformed, TooLarge

MAX_SEQUENCES_AHEAD: Final = 7 * 0x1000
"""What is further ahead than this is taken for old: numbers have 16 bits."""
_UNSEQUENCED_WINDOW: Final = 1024
_UNSEQUENCED_GROUPS_AHEAD: Final = 32 * _UNSEQUENCED_WINDOW


class _Message:
    """A message, whole or with fragments missing."""

    def __init__(self, length: int, fragments: int) -> None:
        self.data = bytearray(length)
        self.fragments = fragments
        self.missing = fragments
        self._there = bytearray(fragments)

    def add(self, number: int, offset: int, payload: memoryview | bytes) -> None:
        """Put a fragment in its place, once."""
        if not self._there[number]:
            self._there[number] = 1
            self.missing -= 1
            self.data[offset : offset + len(payload)] = payload


class IncomingChannel:
    """One channel's receiving side."""

    def __init__(self, *, max_message_bytes: int, max_held_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._reliable = 0
        """Number of the last reliable message (or fragment) delivered."""
        self._unreliable = 0
        """Number of the last unreliable message delivered since then."""
        self._held: dict[int, _Message] = {}
        """Reliable messages by first number: incomplete, or waiting for earlier ones."""
        self._partial: tuple[int, int, _Message] | None = None
        """The newest unreliable message in fragments, by the numbers it has."""

    def receive(self, command: EnetCommand) -> list[bytes]:
        """Take a message or a piece of one; give what can be delivered now, in order.

        Nothing comes of duplicates; they want another acknowledgement all the same. Raises
        Malformed for fragments that contradict each other, TooLarge where more would have to be
        held than is allowed: such commands must not be acknowledged.
        """
        body = command.body
        if isinstance(body, SendUnreliable):
            return self._unreliable_message(
                command.reliable_sequence, body.sequence, bytes(command.payload)
            )
        if not isinstance(body, SendFragment):
            self._hold(command.reliable_sequence, 0, len(command.payload), 1, 0, command.payload)
            return self._advance()
        self._check(body, len(command.payload))
        if command.kind is CommandKind.SEND_UNRELIABLE_FRAGMENT:
            return self._unreliable_fragment(command.reliable_sequence, body, command.payload)
        self._hold(
            body.start_sequence,
            body.fragment_number,
            body.total_length,
            body.fragment_count,
            body.offset,
            command.payload,
        )
        return self._advance()

    def _check(self, body: SendFragment, length: int) -> None:
        if body.total_length > self._max_message_bytes:
            raise TooLarge("enet_message", f"ENet message of {body.total_length} bytes")
        if (
            body.fragment_number >= body.fragment_count
            or body.fragment_count > min(body.total_length, MAX_SEQUENCES_AHEAD)
            or not 0 < length <= body.total_length - body.offset
        ):
            raise Malformed("enet_fragment", "ENet fragment outside of its message")

    def _hold(
        self,
        sequence: int,
        number: int,
        length: int,
        fragments: int,
        offset: int,
        payload: memoryview | bytes,
    ) -> None:
        if not 0 < (sequence - self._reliable) & 0xFFFF < MAX_SEQUENCES_AHEAD:
            return
        message = self._held.get(sequence)
        if message is None:
            if self._held_bytes + length > self._max_held_bytes:
                raise TooLarge("enet_held", "ENet channel holds too much out of order")
            message = self._held[sequence] = _Message(length, fragments)
            self._held_bytes += length
        if (message.fragments, len(message.data)) != (fragments, length):
            raise Malformed("enet_fragment", "ENet fragments disagree on their message")
        message.add(number, offset, payload)

    def _advance(self) -> list[bytes]:
        ready = []
        while (message := self._held.get((self._reliable + 1) & 0xFFFF)) and not message.missing:
            ready.append(bytes(message.data))
            # All its numbers are used up, also where another message claimed one of them.
            for _ in range(message.fragments):
                self._reliable = (self._reliable + 1) & 0xFFFF
                if (used := self._held.pop(self._reliable, None)) is not None:
                    self._held_bytes -= len(used.data)
            self._unreliable = 0
        return ready

    def _unreliable_message(self, reliable: int, sequence: int, data: bytes) -> list[bytes]:
        if reliable != self._reliable or sequence <= self._unreliable:
            return []
        self._unreliable = sequence
        return [data]

    def _unreliable_fragment(
        self, reliable: int, body: SendFragment, payload: memoryview | bytes
    ) -> list[bytes]:
        if reliable != self._reliable or body.start_sequence <= self._unreliable:
            return []
        partial = self._partial
        if partial is None or partial[:2] != (reliable, body.start_sequence):
            message = _Message(body.total_length, body.fragment_count)
            self._partial = partial = (reliable, body.start_sequence, message)
        message = partial[2]
        if (message.fragments, len(message.data)) != (body.fragment_count, body.total_length):
            raise Malformed("enet_fragment", "ENet fragments disagree on their message")
        message.add(body.fragment_number, body.offset, payload)
        if message.missing:
            return []
        self._partial = None
        return self._unreliable_message(reliable, body.start_sequence, bytes(message.data))


class UnsequencedWindow:
    """Remembers which unsequenced messages came already, as ENet does: a window of 1024 groups."""

    def __init__(self) -> None:
        self._first = 0
        self._seen: set[int] = set()

    def is_new(self, group: int) -> bool:
        """Tell whether the group was not seen before, and remember it."""
        if (group - self._first) & 0xFFFF >= _UNSEQUENCED_GROUPS_AHEAD:
            return False
        first = group - group % _UNSEQUENCED_WINDOW
        if first != self._first:
            self._first = first
            self._seen.clear()
        elif group in self._seen:
            return False
        self._seen.add(group)
        return True
