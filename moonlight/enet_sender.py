"""The sending side of an ENet connection: numbers, repetitions, acknowledgements, round trips.

What may be lost is repeated until it is acknowledged, after a time that ENet derives from the
measured round trip and doubles, triples, … with each attempt. An acknowledgement of anything shows
that the peer lives; a peer that gives none for a while after a loss does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from moonlight.enet import (
    ACKNOWLEDGE_FLAG,
    Acknowledge,
    Body,
    CommandKind,
    EnetCommand,
    SendFragment,
    SendReliable,
    SendUnreliable,
)
from moonlight.enet_channel import MAX_SEQUENCES_AHEAD
from moonlight.errors import TooLarge

MAX_WINDOW_BYTES: Final = 65_536
_FIRST_ROUND_TRIP_MS: Final = 500
_MAX_COMMANDS: Final = 32
"""What one packet of ENet's own peers has at most."""
_MAX_ACKNOWLEDGEMENTS: Final = 4096
_PACKET_HEADER_BYTES: Final = 4
_FRAGMENT_HEADER_BYTES: Final = 24
_MAX_UNRELIABLE: Final = 0xFFFF


class RoundTrip:
    """ENet's smoothed estimate of the round trip."""

    def __init__(self) -> None:
        self.mean_ms = _FIRST_ROUND_TRIP_MS
        self._variance_ms = 0
        self._measured = False

    def measured(self, sample_ms: int) -> None:
        """Take one measurement into account."""
        sample_ms = max(sample_ms, 1)
        if not self._measured:
            self._measured = True
            self.mean_ms, self._variance_ms = sample_ms, (sample_ms + 1) // 2
            return
        difference = abs(sample_ms - self.mean_ms)
        step = (difference + 7) // 8
        self._variance_ms += (difference + 3) // 4 - (self._variance_ms + 3) // 4
        self.mean_ms += step if sample_ms >= self.mean_ms else -step

    @property
    def patience_ms(self) -> int:
        """After how long a command is taken for lost the first time."""
        return self.mean_ms + min(self.mean_ms, 4 * max(1, self._variance_ms))


@dataclass(slots=True)
class _Outgoing:
    """A command on its way, and when it went last."""

    command: EnetCommand
    attempts: int = 0
    sent_ms: int = 0
    patience_ms: int = 0
    overdue: bool = False


@dataclass(slots=True)
class _Channel:
    reliable: int = 0
    unreliable: int = 0
    unacknowledged: dict[int, _Outgoing] = field(default_factory=dict)
    """By number, oldest first: repeating a command does not move it."""

    def has_room(self, sequence: int) -> bool:
        """Whether the peer can still tell this number from an old one."""
        oldest = next(iter(self.unacknowledged), sequence)
        return (sequence - oldest) & 0xFFFF < MAX_SEQUENCES_AHEAD - 1


class Sender:
    """Queues commands, and says which of them to send when."""

    def __init__(self, *, mtu: int, timeout_ms: int, max_queued_bytes: int) -> None:
        self.mtu = mtu
        self.window_bytes = MAX_WINDOW_BYTES
        self.round_trip = RoundTrip()
        self._timeout_ms = timeout_ms
        self._max_queued_bytes = max_queued_bytes
        self._channels: dict[int, _Channel] = {}
        self._queue: deque[EnetCommand] = deque()
        self._queued_bytes = 0
        # Losing an acknowledgement costs a repetition: the oldest make room.
        self._acknowledgements: deque[EnetCommand] = deque(maxlen=_MAX_ACKNOWLEDGEMENTS)
        self._unanswered_since_ms: int | None = None

    @property
    def idle(self) -> bool:
        """Whether everything was sent and acknowledged."""
        return not self._queue and next(self._unacknowledged(), None) is None

    def send_message(self, channel: int, data: bytes, *, reliable: bool) -> None:
        """Queue a message. Raises TooLarge where too much is queued already."""
        if self._queued_bytes + len(data) > self._max_queued_bytes:
            raise TooLarge("enet_backlog", "too much waits to be sent on an ENet connection")
        piece = self.mtu - _PACKET_HEADER_BYTES - _FRAGMENT_HEADER_BYTES
        numbers = self._channels.setdefault(channel, _Channel())
        if len(data) > piece:
            self._send_fragments(channel, (numbers.reliable + 1) & 0xFFFF, data, piece)
        elif reliable or numbers.unreliable == _MAX_UNRELIABLE:
            self.send_reliable(CommandKind.SEND_RELIABLE, channel, SendReliable(), data)
        else:
            numbers.unreliable += 1
            body = SendUnreliable(numbers.unreliable)
            kind = CommandKind.SEND_UNRELIABLE
            self.send_once(EnetCommand(kind, 0, channel, numbers.reliable, body, data))

    def send_reliable(
        self, kind: CommandKind, channel: int, body: Body, payload: bytes = b""
    ) -> None:
        """Queue a command that is repeated until it is acknowledged."""
        numbers = self._channels.setdefault(channel, _Channel())
        numbers.reliable = (numbers.reliable + 1) & 0xFFFF
        numbers.unreliable = 0
        self.send_once(
            EnetCommand(kind, ACKNOWLEDGE_FLAG, channel, numbers.reliable, body, payload)
        )

    def send_once(self, command: EnetCommand) -> None:
        """Queue a command as it is."""
        self._queue.append(command)
        self._queued_bytes += len(command.payload)

    def acknowledge(self, command: EnetCommand, sent_time: int) -> None:
        """Queue the acknowledgement of a command that came in a packet of that time."""
        sequence = command.reliable_sequence
        body = Acknowledge(sequence, sent_time)
        self._acknowledgements.append(
            EnetCommand(CommandKind.ACKNOWLEDGE, 0, command.channel, sequence, body)
        )

    def acknowledged(self, channel: int, body: Acknowledge, now_ms: int) -> CommandKind | None:
        """Note an acknowledgement; tell what it was for, None for one that is not waited for."""
        elapsed_ms = (now_ms - body.received_sent_time) & 0xFFFF
        if elapsed_ms >= 0x8000:
            return None  # from the future: not of our clock
        self.round_trip.measured(elapsed_ms)
        self._unanswered_since_ms = None
        return self.settled(channel, body.received_sequence)

    def settled(self, channel: int, sequence: int) -> CommandKind | None:
        """Stop repeating a command."""
        numbers = self._channels.get(channel)
        sent = numbers.unacknowledged.pop(sequence, None) if numbers else None
        return sent.command.kind if sent else None

    def drop_all(self) -> None:
        """Forget everything but acknowledgements."""
        self._channels.clear()
        self._queue.clear()
        self._queued_bytes = 0
        self._unanswered_since_ms = None

    def find_overdue(self, now_ms: int) -> bool:
        """Mark what must be repeated; tell whether the peer has been silent for too long."""
        for sent in self._unacknowledged():
            if sent.overdue or now_ms - sent.sent_ms < sent.patience_ms:
                continue
            if self._unanswered_since_ms is None:
                self._unanswered_since_ms = sent.sent_ms
            sent.overdue = True
            sent.patience_ms = self._patience_ms() * sent.attempts
        since_ms = self._unanswered_since_ms
        return since_ms is not None and now_ms - since_ms >= self._timeout_ms

    def next_timeout_ms(self) -> int | None:
        """Tell at what time `find_overdue` will find something; None where nothing is awaited."""
        times = [
            sent.sent_ms + (0 if sent.overdue else sent.patience_ms)
            for sent in self._unacknowledged()
        ]
        if self._unanswered_since_ms is not None:
            times.append(self._unanswered_since_ms + self._timeout_ms)
        return min(times, default=None)

    def packets(self, now_ms: int) -> list[list[EnetCommand]]:
        """Take what may be sent now, cut into packets."""
        packets: list[list[EnetCommand]] = []
        room = 0
        for command in self._due(now_ms):
            size = len(command.encode())
            if size > room or len(packets[-1]) == _MAX_COMMANDS:
                packets.append([])
                room = self.mtu - _PACKET_HEADER_BYTES
            packets[-1].append(command)
            room -= size
        return packets

    def _due(self, now_ms: int) -> Iterator[EnetCommand]:
        while self._acknowledgements:
            yield self._acknowledgements.popleft()
        in_flight = 0
        for sent in self._unacknowledged():
            in_flight += len(sent.command.payload)
            if sent.overdue:
                self._note_sent(sent, now_ms)
                yield sent.command
        while self._queue:
            command = self._queue[0]
            if command.wants_acknowledgement:
                numbers = self._channels[command.channel]
                in_flight += len(command.payload)
                too_much = in_flight > max(self.window_bytes, self.mtu)
                if too_much or not numbers.has_room(command.reliable_sequence):
                    return
                sent = _Outgoing(command, patience_ms=self._patience_ms())
                numbers.unacknowledged[command.reliable_sequence] = sent
                self._note_sent(sent, now_ms)
            self._queue.popleft()
            self._queued_bytes -= len(command.payload)
            yield command

    def _note_sent(self, sent: _Outgoing, now_ms: int) -> None:
        sent.attempts += 1
        sent.sent_ms = now_ms
        sent.overdue = False

    def _patience_ms(self) -> int:
        return min(self.round_trip.patience_ms, self._timeout_ms // 5)

    def _unacknowledged(self) -> Iterator[_Outgoing]:
        for numbers in self._channels.values():
            yield from numbers.unacknowledged.values()

    def _send_fragments(self, channel: int, first: int, data: bytes, piece: int) -> None:
        count = -(-len(data) // piece)
        for number in range(count):
            offset = number * piece
            body = SendFragment(first, count, number, len(data), offset)
            payload = data[offset : offset + piece]
            self.send_reliable(CommandKind.SEND_FRAGMENT, channel, body, payload)
