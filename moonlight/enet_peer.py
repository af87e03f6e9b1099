"""One end of an ENet 1.3 connection as a state machine, for hosts and for clients.

It does no I/O and reads no clock: datagrams and times come in, events and datagrams go out. It
speaks enough of ENet for a GameStream control stream: what ENet's own peers do beyond it (thinning
out unreliable messages, limiting bandwidth) is accepted and has no effect.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Literal

from moonlight.enet import (
    NO_CHANNEL,
    NO_PEER,
    UNSEQUENCED_FLAG,
    Acknowledge,
    CommandKind,
    Connect,
    Disconnect,
    EnetCommand,
    EnetPacket,
    Ping,
    SendFragment,
    SendReliable,
    SendUnreliable,
    SendUnsequenced,
    VerifyConnect,
    parse_packet,
)
from moonlight.enet_channel import IncomingChannel, UnsequencedWindow
from moonlight.enet_sender import MAX_WINDOW_BYTES, Sender
from moonlight.errors import OutOfOrder, ProtocolError, TooLarge

PING_INTERVAL_MS: Final = 500
_MIN_MTU: Final = 576
_MIN_WINDOW_BYTES: Final = 4096
_MAX_CHANNELS: Final = 255
_NO_SESSION: Final = 0xFF
_THROTTLE: Final = (5000, 2, 2)
"""ENet's default interval, acceleration and deceleration; a host repeats what the client said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnetLimits:
    """What one connection may cost, and how long its peer may be silent."""

    mtu: int = 900
    max_channels: int = 255
    timeout_ms: int = 10_000
    max_message_bytes: int = 65_536
    max_held_bytes: int = 262_144
    """Of messages that wait for earlier ones or for fragments, on each channel."""
    max_queued_bytes: int = 1_048_576
    """Of messages that wait to be sent."""


@dataclass(frozen=True, slots=True)
class Connected:
    """Both sides agree that the connection is there. `connect_data` is a secret."""

    connect_data: int = field(repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """A message arrived."""

    channel: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is over: the other side left, this one did, or nobody answered in time."""

    reason: Literal["remote", "local", "timeout", "refused"]
    data: int = 0


EnetEvent = Connected | Received | Disconnected


class _State(Enum):
    LISTENING = auto()
    CONNECTING = auto()
    VERIFYING = auto()
    CONNECTED = auto()
    DISCONNECTING = auto()
    CLOSED = auto()


class EnetPeer:
    """One connection. Make one with `server` or `client`.

    After every `receive`, `send`, `tick` or `disconnect`, send what `datagrams` gives; call
    `tick` when `next_timeout` has passed.
    """

    def __init__(self, *, peer_id: int, limits: EnetLimits, state: _State) -> None:
        self._peer_id = peer_id
        self._limits = limits
        self._state = state
        self._channel_count = limits.max_channels
        self._remote_id = NO_PEER
        self._incoming_session = 0
        self._outgoing_session = 0
        self._connect_id = 0
        self._connect_data = 0
        self._incoming: dict[int, IncomingChannel] = {}
        self._unsequenced = UnsequencedWindow()
        self._sender = Sender(
            mtu=limits.mtu,
            timeout_ms=limits.timeout_ms,
            max_queued_bytes=limits.max_queued_bytes,
        )
        self._answered_ms = 0
        self._leave_data: int | None = None
        self._events: list[EnetEvent] = []
        self.refused_commands = 0
        """Commands that could not be right, or would have made this side hold too much."""

    @classmethod
    def server(cls, peer_id: int = 0, *, limits: EnetLimits | None = None) -> EnetPeer:
        """Await one client's CONNECT.

        `peer_id` is what the client will address its packets with: a host that serves several
        clients on one port gives each another one, and looks at `enet.peer_id` to tell them apart.
        """
        return cls(peer_id=peer_id, limits=limits or EnetLimits(), state=_State.LISTENING)

    @classmethod
    def client(
        cls,
        *,
        connect_data: int,
        connect_id: int | None = None,
        channels: int = 48,
        limits: EnetLimits | None = None,
    ) -> EnetPeer:
        """Begin a connection; CONNECT is the first of `datagrams`."""
        peer = cls(peer_id=0, limits=limits or EnetLimits(), state=_State.CONNECTING)
        peer._channel_count = channels
        peer._connect_id = secrets.randbits(32) if connect_id is None else connect_id
        peer._connect_data = connect_data
        sessions_and_sizes = (_NO_SESSION, _NO_SESSION, peer._limits.mtu, MAX_WINDOW_BYTES)
        offer = Connect(
            peer._peer_id,
            *sessions_and_sizes,
            channels,
            *(0, 0),
            *_THROTTLE,
            peer._connect_id,
            connect_data,
        )
        peer._sender.send_reliable(CommandKind.CONNECT, NO_CHANNEL, offer)
        return peer

    @property
    def connected(self) -> bool:
        """Whether messages can be sent."""
        return self._state is _State.CONNECTED and self._leave_data is None

    @property
    def closed(self) -> bool:
        """Whether the connection is over. What `datagrams` still gives should be sent."""
        return self._state is _State.CLOSED

    @property
    def connect_id(self) -> int:
        """The client's random number for this connection; 0 before its CONNECT."""
        return self._connect_id

    @property
    def round_trip_ms(self) -> int:
        """The smoothed round trip."""
        return self._sender.round_trip.mean_ms

    def send(self, channel: int, data: bytes, *, reliable: bool = True) -> None:
        """Queue a message; long ones go in fragments, which are always reliable.

        Raises OutOfOrder where there is no connection, TooLarge where the message is too long or
        too much waits already, ValueError for a channel that was not agreed on.
        """
        if not self.connected:
            raise OutOfOrder("enet_not_connected", "no ENet connection to send on")
        if not 0 <= channel < self._channel_count:
            raise ValueError(f"no channel {channel} of {self._channel_count}")
        if len(data) > self._limits.max_message_bytes:
            raise TooLarge("enet_message", f"ENet message of {len(data)} bytes")
        self._sender.send_message(channel, data, reliable=reliable)

    def disconnect(self, data: int = 0) -> None:
        """Leave, after everything queued so far was acknowledged. Does nothing when closed."""
        if self._state is _State.CONNECTED:
            self._leave_data = data
        elif self._state is not _State.DISCONNECTING and not self.closed:
            known = self._state is not _State.LISTENING
            self._close(Disconnected("local"))
            if known:
                kind, body = CommandKind.DISCONNECT, Disconnect(data)
                self._sender.send_once(EnetCommand(kind, UNSEQUENCED_FLAG, NO_CHANNEL, 0, body))

    def receive(self, datagram: bytes, now_ms: int) -> list[EnetEvent]:
        """Take a datagram. Raises Malformed or TooLarge where it is no ENet packet.

        Packets of other connections have no effect.
        """
        packet = parse_packet(datagram)
        if self._is_ours(packet):
            for command in packet.commands:
                if not self._handle(command, now_ms):
                    self.refused_commands += 1
                    break
                if command.wants_acknowledgement and packet.sent_time is not None:
                    self._acknowledge(command, packet.sent_time)
        return self._take_events()

    def tick(self, now_ms: int) -> list[EnetEvent]:
        """Let time pass: notices a peer that does not answer any more."""
        self._notice_silence(now_ms)
        return self._take_events()

    def next_timeout(self, now_ms: int) -> int | None:
        """Tell in how many milliseconds `tick` and `datagrams` have something to do."""
        if self._events:
            return 0
        at_ms = self._sender.next_timeout_ms()
        if at_ms is None and self._state is _State.CONNECTED:
            at_ms = self._answered_ms + PING_INTERVAL_MS
        return None if at_ms is None else max(0, at_ms - now_ms)

    def datagrams(self, now_ms: int) -> list[bytes]:
        """Give what must be sent now: acknowledgements, repetitions, new messages, pings."""
        self._notice_silence(now_ms)
        if self._state is _State.CONNECTED and self._sender.idle:
            if self._leave_data is not None:
                self._state = _State.DISCONNECTING
                body = Disconnect(self._leave_data)
                self._sender.send_reliable(CommandKind.DISCONNECT, NO_CHANNEL, body)
            elif now_ms - self._answered_ms >= PING_INTERVAL_MS:
                self._sender.send_reliable(CommandKind.PING, NO_CHANNEL, Ping())
        return [self._encode(commands, now_ms) for commands in self._sender.packets(now_ms)]

    # -- packets and time ------------------------------------------------------------------------

    def _encode(self, commands: list[EnetCommand], now_ms: int) -> bytes:
        timed = any(command.wants_acknowledgement for command in commands)
        sent_time = now_ms & 0xFFFF if timed else None
        return EnetPacket(
            self._remote_id, self._outgoing_session, sent_time, tuple(commands)
        ).encode()

    def _is_ours(self, packet: EnetPacket) -> bool:
        if packet.peer_id == NO_PEER:
            first = packet.commands[0].kind if packet.commands else None
            return self._state is _State.LISTENING and first is CommandKind.CONNECT
        session_known = self._remote_id != NO_PEER
        return (
            packet.peer_id == self._peer_id
            and self._state is not _State.LISTENING
            and (not session_known or packet.session == self._incoming_session)
        )

    def _notice_silence(self, now_ms: int) -> None:
        if self._sender.find_overdue(now_ms):
            self._close(Disconnected("timeout"))

    def _close(self, event: Disconnected) -> None:
        self._state = _State.CLOSED
        self._sender.drop_all()
        self._incoming.clear()
        self._events.append(event)

    def _take_events(self) -> list[EnetEvent]:
        events, self._events = self._events, []
        return events

    def _acknowledge(self, command: EnetCommand, sent_time: int) -> None:
        # A CONNECT is answered by VERIFY_CONNECT; one that leaves awaits nothing but the end.
        handshake = command.kind is CommandKind.CONNECT or self._state is _State.VERIFYING
        if not handshake and (not self.closed or command.kind is CommandKind.DISCONNECT):
            self._sender.acknowledge(command, sent_time)

    # -- commands: each tells whether the command may stand ---------------------------------------

    def _handle(self, command: EnetCommand, now_ms: int) -> bool:
        body = command.body
        if isinstance(body, Acknowledge):
            return self._handle_acknowledge(command.channel, body, now_ms)
        if isinstance(body, Connect):
            return self._handle_connect(body)
        if isinstance(body, VerifyConnect):
            return self._handle_verify(body, now_ms)
        if isinstance(body, Disconnect):
            return self._handle_disconnect(body)
        if self._state is not _State.CONNECTED:
            return False
        if isinstance(body, SendReliable | SendUnreliable | SendUnsequenced | SendFragment):
            return self._handle_message(command)
        # Pings want their acknowledgement; limits and throttles concern what this side never does.
        return True

    def _handle_acknowledge(self, channel: int, body: Acknowledge, now_ms: int) -> bool:
        kind = self._sender.acknowledged(channel, body, now_ms)
        self._answered_ms = now_ms
        if self._state is _State.VERIFYING and kind is CommandKind.VERIFY_CONNECT:
            self._state = _State.CONNECTED
            self._events.append(Connected(self._connect_data))
        elif self._state is _State.DISCONNECTING and kind is CommandKind.DISCONNECT:
            self._close(Disconnected("local"))
        return True

    def _handle_connect(self, offer: Connect) -> bool:
        possible = 0 < offer.channel_count <= _MAX_CHANNELS and offer.peer_id < NO_PEER
        if self._state is not _State.LISTENING or not possible:
            return False
        self._state = _State.VERIFYING
        self._remote_id = offer.peer_id
        self._connect_id, self._connect_data = offer.connect_id, offer.data
        self._settle(offer.channel_count, offer.mtu, offer.window_size)
        # The client counts sessions from its side: what comes in there goes out here.
        self._outgoing_session = _next_session(offer.incoming_session)
        self._incoming_session = _next_session(offer.outgoing_session)
        answer = VerifyConnect(
            self._peer_id,
            self._outgoing_session,
            self._incoming_session,
            self._sender.mtu,
            self._sender.window_bytes,
            self._channel_count,
            *(0, 0),
            *(offer.throttle_interval, offer.throttle_acceleration, offer.throttle_deceleration),
            offer.connect_id,
        )
        self._sender.send_reliable(CommandKind.VERIFY_CONNECT, NO_CHANNEL, answer)
        return True

    def _handle_verify(self, answer: VerifyConnect, now_ms: int) -> bool:
        if self._state is not _State.CONNECTING:
            return self._state is _State.CONNECTED
        throttle = (
            answer.throttle_interval,
            answer.throttle_acceleration,
            answer.throttle_deceleration,
        )
        if (
            not 0 < answer.channel_count <= _MAX_CHANNELS
            or answer.peer_id >= NO_PEER
            or answer.connect_id != self._connect_id
            or throttle != _THROTTLE
        ):
            self._close(Disconnected("refused"))
            return False
        self._sender.settled(NO_CHANNEL, 1)
        self._state = _State.CONNECTED
        self._answered_ms = now_ms
        self._remote_id = answer.peer_id
        self._incoming_session = answer.incoming_session & 3
        self._outgoing_session = answer.outgoing_session & 3
        self._settle(answer.channel_count, answer.mtu, answer.window_size)
        self._events.append(Connected(self._connect_data))
        return True

    def _settle(self, channel_count: int, mtu: int, window_size: int) -> None:
        self._channel_count = min(self._channel_count, channel_count)
        self._sender.mtu = min(self._sender.mtu, max(mtu, _MIN_MTU))
        self._sender.window_bytes = min(
            self._sender.window_bytes, max(window_size, _MIN_WINDOW_BYTES)
        )

    def _handle_disconnect(self, body: Disconnect) -> bool:
        if not self.closed:
            reason: Literal["remote", "refused"] = (
                "refused" if self._state is _State.CONNECTING else "remote"
            )
            self._close(Disconnected(reason, body.data))
        return True

    def _handle_message(self, command: EnetCommand) -> bool:
        if command.channel >= self._channel_count:
            return False
        if len(command.payload) > self._limits.max_message_bytes:
            return False
        if isinstance(command.body, SendUnsequenced):
            if self._unsequenced.is_new(command.body.group):
                self._events.append(Received(command.channel, bytes(command.payload)))
            return True
        channel = self._incoming.get(command.channel)
        if channel is None:
            channel = self._incoming[command.channel] = IncomingChannel(
                max_message_bytes=self._limits.max_message_bytes,
                max_held_bytes=self._limits.max_held_bytes,
            )
        try:
            messages = channel.receive(command)
        except ProtocolError:
            return False
        self._events += [Received(command.channel, message) for message in messages]
        return True


def _next_session(offered: int) -> int:
    """Count a session id on, so that packets of an earlier connection are told apart."""
    return (offered + 1) & 3
