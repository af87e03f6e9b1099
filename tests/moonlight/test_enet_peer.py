from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import datagrams, needs_captures

from moonlight.enet import (
    ACKNOWLEDGE_FLAG,
    NO_CHANNEL,
    NO_PEER,
    Acknowledge,
    BandwidthLimit,
    Body,
    CommandKind,
    Connect,
    Disconnect,
    EnetCommand,
    EnetPacket,
    Ping,
    SendFragment,
    SendReliable,
    SendUnsequenced,
    ThrottleConfigure,
    VerifyConnect,
    parse_packet,
)
from moonlight.enet_peer import (
    Connected,
    Disconnected,
    EnetEvent,
    EnetLimits,
    EnetPeer,
    Received,
)
from moonlight.errors import Malformed, OutOfOrder, ProtocolError, TooLarge


class Link:
    """Client and server with a network between them that delays, loses and repeats."""

    def __init__(
        self,
        *,
        seed: int = 0,
        loss: float = 0,
        duplicates: float = 0,
        jitter_ms: int = 0,
        limits: EnetLimits | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.loss, self.duplicates, self.jitter_ms = loss, duplicates, jitter_ms
        self.now_ms = 65_000  # the 16 bits of the sent time wrap soon
        self.client = EnetPeer.client(connect_data=0xC0FFEE, limits=limits)
        self.server = EnetPeer.server(3, limits=limits)
        self.events: dict[EnetPeer, list[EnetEvent]] = {self.client: [], self.server: []}
        self._in_flight: list[tuple[int, int, EnetPeer, bytes]] = []
        self._count = 0

    def flush(self) -> None:
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            for datagram in sender.datagrams(self.now_ms):
                assert len(datagram) <= 900
                for _ in range(1 + (self.random.random() < self.duplicates)):
                    if self.random.random() >= self.loss:
                        self._count += 1
                        at = self.now_ms + 5 + self.random.randint(0, self.jitter_ms)
                        heapq.heappush(self._in_flight, (at, self._count, receiver, datagram))

    def step(self) -> bool:
        """Go to the next moment at which something happens; False where nothing ever will."""
        self.flush()
        times = [self._in_flight[0][0]] if self._in_flight else []
        for peer in (self.client, self.server):
            wait_ms = peer.next_timeout(self.now_ms)
            if wait_ms is not None:
                times.append(self.now_ms + wait_ms)
        if not times:
            return False
        self.now_ms = max(self.now_ms, min(times))
        while self._in_flight and self._in_flight[0][0] <= self.now_ms:
            _, _, receiver, datagram = heapq.heappop(self._in_flight)
            self.events[receiver] += receiver.receive(datagram, self.now_ms)
        for peer in (self.client, self.server):
            self.events[peer] += peer.tick(self.now_ms)
        return True

    def run(self, duration_ms: int) -> None:
        end_ms = self.now_ms + duration_ms
        while self.now_ms < end_ms and self.step():
            pass

    def connect(self) -> None:
        self.run(100)
        assert self.events == {
            self.client: [Connected(0xC0FFEE)],
            self.server: [Connected(0xC0FFEE)],
        }
        for events in self.events.values():
            events.clear()

    def until(self, done: Callable[[], bool], limit_ms: int = 10_000_000) -> None:
        end_ms = self.now_ms + limit_ms
        while not done():
            assert self.now_ms < end_ms
            assert self.step()

    def exchange(self) -> None:
        """Let both sides hear all that was sent, in no time and without loss."""
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            for datagram in sender.datagrams(self.now_ms):
                self.events[receiver] += receiver.receive(datagram, self.now_ms)

    def received(self, peer: EnetPeer) -> list[tuple[int, bytes]]:
        return [(e.channel, e.data) for e in self.events[peer] if isinstance(e, Received)]


MESSAGES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3000)), max_size=15, unique_by=lambda m: m[1]
)


@settings(max_examples=50, deadline=None)
@given(
    MESSAGES,
    MESSAGES,
    st.integers(0, 2**32),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.integers(0, 300),
)
def test_everything_reliable_arrives_once_and_in_order(
    to_server: list[tuple[int, int]],
    to_client: list[tuple[int, int]],
    seed: int,
    loss: float,
    duplicates: float,
    jitter_ms: int,
) -> None:
    link = Link(
        seed=seed,
        loss=loss,
        duplicates=duplicates,
        jitter_ms=jitter_ms,
        limits=EnetLimits(timeout_ms=10_000_000),
    )
    link.until(lambda: link.client.connected and link.server.connected)
    for sender, messages in ((link.client, to_server), (link.server, to_client)):
        for channel, size in messages:
            sender.send(channel, size.to_bytes(2, "big") + bytes(size))
    link.client.disconnect(5)
    link.until(lambda: link.client.closed and link.server.closed)
    for receiver, messages in ((link.server, to_server), (link.client, to_client)):
        got = link.received(receiver)
        for wanted in range(3):
            sent = [size.to_bytes(2, "big") + bytes(size) for ch, size in messages if ch == wanted]
            arrived = [data for channel, data in got if channel == wanted]
            # The client leaves once all of its own arrived; the host's may be cut short by that.
            assert arrived == sent if receiver is link.server else arrived == sent[: len(arrived)]
    assert link.events[link.client][-1] == Disconnected("local")
    assert link.events[link.server][-1] == Disconnected("remote", 5)


@settings(max_examples=40, deadline=None)
@given(MESSAGES, st.integers(0, 2**32), st.floats(0, 0.3), st.integers(0, 300))
def test_a_host_that_leaves_says_everything_first(
    messages: list[tuple[int, int]], seed: int, loss: float, jitter_ms: int
) -> None:
    limits = EnetLimits(timeout_ms=10_000_000)
    link = Link(seed=seed, loss=loss, jitter_ms=jitter_ms, limits=limits)
    link.until(lambda: link.client.connected and link.server.connected)
    for channel, size in messages:
        link.server.send(channel, bytes(size))
    link.server.disconnect()
    link.until(lambda: link.client.closed and link.server.closed)
    assert sorted((ch, len(data)) for ch, data in link.received(link.client)) == sorted(messages)


def test_a_connection_survives_the_wrap_of_its_numbers() -> None:
    link = Link()
    link.connect()
    link.client.send(1, b"x")
    link.exchange()
    link.exchange()
    link.client._sender._channels[1].reliable = link.server._incoming[1]._reliable = 65_000
    for number in range(1000):
        link.client.send(1, number.to_bytes(2, "big"))
    link.run(1000)
    got = [data for _, data in link.received(link.server)]
    assert got == [b"x", *(number.to_bytes(2, "big") for number in range(1000))]


def test_the_window_of_numbers_is_respected_while_one_is_missing() -> None:
    link = Link()
    link.connect()
    link.client.send(0, b"first")
    assert len(link.client.datagrams(link.now_ms)) == 1  # and lost
    for _ in range(30):
        for _ in range(1000):
            link.client.send(0, b"")
        link.exchange()
    link.exchange()
    assert len(link.client._sender._channels[0].unacknowledged) == 1
    assert link.received(link.server) == []
    assert len(link.client._sender._queue) == 30_001 - 28_671
    link.run(2000)
    assert len(link.received(link.server)) == 30_001


def test_the_window_of_bytes_is_respected() -> None:
    link = Link()
    link.connect()
    for _ in range(4):
        link.client.send(0, bytes(50_000))
    sent = sum(len(datagram) for datagram in link.client.datagrams(link.now_ms))
    assert 60_000 < sent < 72_000
    link.run(3000)
    assert [len(data) for _, data in link.received(link.server)] == [50_000] * 4


def test_unreliable_messages_arrive_or_are_dropped_when_late() -> None:
    link = Link()
    link.connect()
    client, server = link.client, link.server
    first, second, third = (
        (client.send(2, data, reliable=reliable), client.datagrams(link.now_ms)[0])[1]
        for data, reliable in ((b"a", False), (b"b", False), (b"c", True))
    )
    client.send(2, b"d", reliable=False)
    fourth = client.datagrams(link.now_ms)[0]
    late = [*server.receive(second, 0), *server.receive(first, 0), *server.receive(fourth, 0)]
    assert late == [Received(2, b"b")]
    in_order = [*server.receive(third, 0), *server.receive(fourth, 0), *server.receive(fourth, 0)]
    assert in_order == [Received(2, b"c"), Received(2, b"d")]


def test_unreliable_numbers_run_out_into_a_reliable_message() -> None:
    link = Link()
    link.connect()
    link.client._sender._channels.clear()
    link.client.send(0, b"x", reliable=False)
    link.client._sender._channels[0].unreliable = 0xFFFF
    link.client.datagrams(link.now_ms)
    link.client.send(0, b"y", reliable=False)
    command = parse_packet(link.client.datagrams(link.now_ms)[0]).commands[-1]
    assert command.kind is CommandKind.SEND_RELIABLE


# -- life and death ------------------------------------------------------------------------------


def test_an_idle_connection_is_kept_alive_by_pings() -> None:
    link = Link()
    link.connect()
    link.run(120_000)
    assert link.client.connected
    assert link.server.connected
    assert link.client.round_trip_ms < 50


def test_a_peer_that_falls_silent_is_noticed() -> None:
    link = Link()
    link.connect()
    link.loss = 1
    started_ms = link.now_ms
    while link.step():
        pass
    assert link.events[link.client] == [Disconnected("timeout")]
    assert link.events[link.server] == [Disconnected("timeout")]
    assert 10_000 <= link.now_ms - started_ms <= 13_000
    assert link.client.closed
    assert link.client.next_timeout(link.now_ms) is None


def test_a_host_that_never_answers_is_noticed() -> None:
    link = Link(loss=1)
    while link.step():
        pass
    assert link.events[link.client] == [Disconnected("timeout")]
    assert link.events[link.server] == []


def test_each_repetition_waits_longer() -> None:
    client, now_ms, times = EnetPeer.client(connect_data=1), 0, []
    while (wait_ms := client.next_timeout(now_ms)) is not None or not times:
        now_ms += wait_ms or 0
        times += [now_ms] * len(client.datagrams(now_ms))
        if client.tick(now_ms):
            break
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == [504, 504, 1008, 1512, 2016, 2520]


def test_any_answer_shows_that_the_peer_lives() -> None:
    link = Link()
    link.connect()
    link.client.send(0, b"LOST")
    for _ in range(200):
        link.now_ms += 100
        link.client.send(1, b"heard")
        for datagram in link.client.datagrams(link.now_ms):
            if b"LOST" not in datagram:
                link.server.receive(datagram, link.now_ms)
        for datagram in link.server.datagrams(link.now_ms):
            link.client.receive(datagram, link.now_ms)
        assert link.client.tick(link.now_ms) == []


def test_time_outs_are_told_at_once_when_datagrams_find_them() -> None:
    client = EnetPeer.client(connect_data=1)
    client.datagrams(0)
    assert client.next_timeout(0) == 504
    client.tick(2000)
    assert client.next_timeout(2000) == 0
    assert client.datagrams(20_000) == []
    assert client.next_timeout(20_000) == 0
    assert client.tick(20_000) == [Disconnected("timeout")]


def test_leaving_waits_for_what_was_sent() -> None:
    link = Link()
    link.connect()
    link.server.send(0, b"goodbye")
    link.server.disconnect(9)
    assert not link.server.connected
    with pytest.raises(OutOfOrder):
        link.server.send(0, b"too late")
    link.run(1000)
    assert link.events[link.client] == [Received(0, b"goodbye"), Disconnected("remote", 9)]
    assert link.events[link.server] == [Disconnected("local")]
    link.server.disconnect()
    assert link.server.tick(link.now_ms) == []


def test_a_repeated_goodbye_is_acknowledged_again() -> None:
    link = Link()
    link.connect()
    link.client.disconnect()
    goodbye = link.client.datagrams(link.now_ms)[0]
    assert link.server.receive(goodbye, link.now_ms) == [Disconnected("remote")]
    assert len(link.server.datagrams(link.now_ms)) == 1
    assert link.server.receive(goodbye, link.now_ms) == []
    (answer,) = link.server.datagrams(link.now_ms)
    assert link.client.receive(answer, link.now_ms) == [Disconnected("local")]


def test_leaving_before_the_connection_is_there() -> None:
    client = EnetPeer.client(connect_data=1)
    client.disconnect()
    assert client.tick(0) == [Disconnected("local")]
    (goodbye,) = client.datagrams(0)
    assert parse_packet(goodbye).commands[0].kind is CommandKind.DISCONNECT
    server = EnetPeer.server()
    server.disconnect()
    assert server.tick(0) == [Disconnected("local")]
    assert server.datagrams(0) == []
    client = EnetPeer.client(connect_data=1)
    refusal = packet(CommandKind.DISCONNECT, Disconnect(4), peer_id=0)
    assert client.receive(refusal, 0) == [Disconnected("refused", 4)]


# -- odd peers -----------------------------------------------------------------------------------


def packet(
    kind: CommandKind,
    body: Body,
    *,
    channel: int = NO_CHANNEL,
    sequence: int = 1,
    payload: bytes = b"",
    peer_id: int = 3,
    session: int = 0,
    flags: int = ACKNOWLEDGE_FLAG,
) -> bytes:
    command = EnetCommand(kind, flags, channel, sequence, body, payload)
    return EnetPacket(peer_id, session, 7, (command,)).encode()


OFFER = Connect(0, 255, 255, 900, 65536, 48, 0, 0, 5000, 2, 2, 77, 88)


def server_with(offer: Connect) -> EnetPeer:
    server = EnetPeer.server(3)
    server.receive(packet(CommandKind.CONNECT, offer, peer_id=NO_PEER), 0)
    return server


def connected_server(limits: EnetLimits | None = None) -> EnetPeer:
    link = Link(limits=limits)
    link.connect()
    return link.server


@pytest.mark.parametrize(
    "offer",
    [
        OFFER._replace(channel_count=0),
        OFFER._replace(channel_count=256),
        OFFER._replace(peer_id=NO_PEER),
    ],
)
def test_impossible_offers_are_ignored(offer: Connect) -> None:
    server = server_with(offer)
    assert server.datagrams(0) == []
    assert server.refused_commands == 1
    assert server.connect_id == 0


def test_terms_are_settled_within_limits() -> None:
    server = server_with(OFFER._replace(mtu=100, window_size=1, incoming_session=2))
    answer = parse_packet(server.datagrams(0)[0])
    assert (answer.peer_id, answer.session) == (0, 3)
    terms = answer.commands[0].body
    assert isinstance(terms, VerifyConnect)
    assert (terms.mtu, terms.window_size, terms.channel_count) == (576, 4096, 48)
    assert (terms.incoming_session, terms.outgoing_session) == (3, 0)
    assert server.connect_id == terms.connect_id == 77


def test_a_repeated_connect_changes_nothing() -> None:
    server = server_with(OFFER)
    assert len(server.datagrams(0)) == 1
    assert server.receive(packet(CommandKind.CONNECT, OFFER, peer_id=NO_PEER), 1) == []
    assert server.receive(packet(CommandKind.CONNECT, OFFER), 1) == []
    assert server.datagrams(1) == []


@pytest.mark.parametrize(
    "change",
    [{"connect_id": 1}, {"throttle_interval": 1}, {"channel_count": 0}, {"peer_id": NO_PEER}],
)
def test_a_client_refuses_terms_it_did_not_offer(change: dict[str, int]) -> None:
    client = EnetPeer.client(connect_data=88, connect_id=77)
    terms = VerifyConnect(3, 0, 0, 900, 65536, 48, 0, 0, 5000, 2, 2, 77)._replace(**change)
    answer = packet(CommandKind.VERIFY_CONNECT, terms, peer_id=0)
    assert client.receive(answer, 0) == [Disconnected("refused")]
    assert client.closed


def test_packets_of_other_connections_have_no_effect() -> None:
    server = connected_server()
    message = SendReliable()
    for stray in (
        packet(CommandKind.SEND_RELIABLE, message, channel=0, payload=b"x", peer_id=4),
        packet(CommandKind.SEND_RELIABLE, message, channel=0, payload=b"x", session=1),
        packet(CommandKind.PING, Ping(), peer_id=NO_PEER),
        b"\x0f\xff",
    ):
        assert server.receive(stray, 70_000) == []
        assert server.datagrams(65_100) == []
    listening = EnetPeer.server(3)
    assert listening.receive(packet(CommandKind.PING, Ping()), 0) == []
    assert listening.datagrams(0) == []


def test_messages_before_the_connection_are_not_acknowledged() -> None:
    server = server_with(OFFER)
    server.datagrams(0)
    early = packet(CommandKind.SEND_RELIABLE, SendReliable(), channel=0, payload=b"x")
    assert server.receive(early, 1) == []
    assert server.receive(packet(CommandKind.VERIFY_CONNECT, VerifyConnect(*OFFER[:-1])), 1) == []
    assert server.datagrams(1) == []
    assert server.refused_commands == 2


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CommandKind.PING, Ping()),
        (CommandKind.BANDWIDTH_LIMIT, BandwidthLimit(0, 0)),
        (CommandKind.THROTTLE_CONFIGURE, ThrottleConfigure(1, 2, 3)),
        (CommandKind.VERIFY_CONNECT, VerifyConnect(*OFFER[:-1])),
    ],
)
def test_commands_without_effect_are_acknowledged(kind: CommandKind, body: Body) -> None:
    server = connected_server()
    assert server.receive(packet(kind, body, sequence=5), 65_100) == []
    (answer,) = server.datagrams(65_100)
    assert parse_packet(answer).sent_time is None
    acknowledgement = parse_packet(answer).commands[0]
    assert (acknowledgement.kind, acknowledgement.reliable_sequence) == (CommandKind.ACKNOWLEDGE, 5)
    assert acknowledgement.body == (5, 7)


def test_commands_without_a_time_cannot_be_acknowledged() -> None:
    server = connected_server()
    ping = parse_packet(packet(CommandKind.PING, Ping()))
    assert server.receive(replace(ping, sent_time=None).encode(), 65_100) == []
    assert server.datagrams(65_100) == []


def test_acknowledgements_of_nothing_and_from_the_future_are_ignored() -> None:
    server = connected_server()
    before = server.round_trip_ms
    future = packet(CommandKind.ACKNOWLEDGE, Acknowledge(1, 40), flags=0)
    assert server.receive(future, 10) == []
    assert server.round_trip_ms == before
    for channel in (9, NO_CHANNEL):
        nothing = packet(CommandKind.ACKNOWLEDGE, Acknowledge(99, 5), channel=channel, flags=0)
        assert server.receive(nothing, 10) == []


def test_unsequenced_messages_arrive_once() -> None:
    server = connected_server()

    def group(number: int) -> list[EnetEvent]:
        body = SendUnsequenced(number)
        kind = CommandKind.SEND_UNSEQUENCED
        return server.receive(packet(kind, body, channel=1, payload=b"u", flags=0x40), 0)

    assert [bool(group(n)) for n in (1, 2, 1, 2, 3, 1500, 1500, 2, 34_000, 1501)] == [
        *(True, True, False, False, True, True, False, False, False, True)
    ]


def test_what_cannot_be_right_is_refused_without_harm() -> None:
    server = connected_server(EnetLimits(max_message_bytes=1000))
    kind, body = CommandKind.SEND_RELIABLE, SendReliable()
    for bad in (
        packet(kind, body, channel=48, payload=b"x"),
        packet(kind, body, channel=0, payload=bytes(1001)),
        packet(CommandKind.SEND_FRAGMENT, SendFragment(1, 2, 2, 10, 0), channel=0, payload=b"x"),
    ):
        assert server.receive(bad, 65_100) == []
    assert server.refused_commands == 3
    assert server.datagrams(65_100) == []


def test_sending_has_limits() -> None:
    link = Link(limits=EnetLimits(max_message_bytes=100, max_queued_bytes=150))
    link.connect()
    with pytest.raises(TooLarge, match="101 bytes"):
        link.client.send(0, bytes(101))
    link.client.send(0, bytes(100))
    with pytest.raises(TooLarge, match="waits"):
        link.client.send(0, bytes(51))
    for channel in (-1, 48):
        with pytest.raises(ValueError, match="no channel"):
            link.client.send(channel, b"")
    assert link.server.connected


def test_secrets_stay_out_of_repr() -> None:
    assert "4711" not in repr(Connected(4711))
    assert "secret" not in repr(Received(0, b"secret"))


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=80), max_size=20), st.randoms(use_true_random=False))
def test_any_bytes_are_taken_or_a_protocol_error(tails: list[bytes], chance: random.Random) -> None:
    link = Link()
    link.connect()
    server = link.server
    for tail in tails:
        kind = chance.randrange(13) | chance.choice([0, 0x80])
        head = b"\x80\x03\x00\x00" + bytes([kind, chance.choice([0, 1, 255]), 0, 1])
        for datagram in (tail, head + tail):
            try:
                server.receive(datagram, link.now_ms)
            except ProtocolError:
                continue
            server.datagrams(link.now_ms)


def test_what_is_no_enet_is_refused() -> None:
    with pytest.raises(Malformed):
        EnetPeer.server().receive(b"\x00", 0)


# -- what was recorded ---------------------------------------------------------------------------


@needs_captures
def test_the_recorded_handshake_is_answered_as_wolf_did() -> None:
    control = [d for d in datagrams() if 47999 in (d.source, d.destination)]
    sent = [d.payload for d in control if d.destination == 47999]
    answered = [d.payload for d in control if d.source == 47999]
    wolf = EnetPeer.server()
    assert wolf.receive(sent[0], 0x556) == []
    verify = parse_packet(wolf.datagrams(0x360)[0])
    recorded = parse_packet(answered[0])
    assert verify == replace(recorded, sent_time=0x360)
    events = wolf.receive(sent[1], 0x361)
    assert events == [Connected(3083452851)]
    for datagram in sent[2:]:
        events += wolf.receive(datagram, 0x362)
        wolf.datagrams(0x362)
    messages = [event for event in events if isinstance(event, Received)]
    assert len(messages) == 20
    assert {event.channel for event in messages} <= set(range(48))
    assert wolf.refused_commands == 0


@needs_captures
def test_the_client_connects_as_the_recorded_one_did() -> None:
    control = [d for d in datagrams() if 47999 in (d.source, d.destination)]
    client = EnetPeer.client(connect_data=3083452851, connect_id=0x63147C9B)
    assert client.datagrams(0x360) == [control[0].payload]
    assert client.receive(control[1].payload, 0x360) == [Connected(3083452851)]
    assert client.round_trip_ms == 500
