from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlight.control import ControlCipher, ControlKind
from moonlight.enet import (
    ACKNOWLEDGE_FLAG,
    NO_CHANNEL,
    Acknowledge,
    CommandKind,
    EnetCommand,
    EnetPacket,
    Ping,
    SendReliable,
)
from moonlight.enet_peer import EnetPeer
from proxy.control_proof import ControlTrail, Verdict

KEY, OTHER_KEY = bytes(range(16)), bytes(16)


def packet(*payloads: bytes, peer: int = 3, session: int = 1, first: int = 1) -> bytes:
    commands = tuple(
        EnetCommand(
            CommandKind.SEND_RELIABLE, ACKNOWLEDGE_FLAG, 0, first + number, SendReliable(), payload
        )
        for number, payload in enumerate(payloads)
    )
    return EnetPacket(peer, session, 1234, commands).encode()


def acknowledgement(peer: int = 3, session: int = 1) -> bytes:
    command = EnetCommand(CommandKind.ACKNOWLEDGE, 0, 0, 7, Acknowledge(7, 99))
    return EnetPacket(peer, session, None, (command,)).encode()


class Sealing:
    """What a client seals, one message after the other."""

    def __init__(self, key: bytes = KEY, version: Literal[1, 2] = 2) -> None:
        self._cipher = ControlCipher(key, "client", version=version)

    def next(self) -> bytes:
        return self._cipher.seal(ControlKind.PERIODIC_PING, bytes(8))


def judged(trail: ControlTrail, datagram: bytes) -> Verdict:
    return trail.judge(datagram) if trail.may_know(datagram) else Verdict.FOREIGN


@pytest.mark.parametrize("version", [1, 2])
def test_what_the_key_has_sealed_since_is_the_clients(version: Literal[1, 2]) -> None:
    trail, client = ControlTrail(KEY), Sealing(version=version)
    first = packet(client.next())
    assert not trail.sealed
    trail.note(first, 5.0)
    assert trail.sealed
    assert trail.heard_at == 5.0
    assert judged(trail, packet(client.next())) is Verdict.OURS
    assert judged(trail, first) is Verdict.REPLAYED


def test_what_was_heard_or_is_older_is_a_replay_and_no_sign_of_life() -> None:
    trail, client = ControlTrail(KEY), Sealing()
    datagrams = [packet(client.next()) for _ in range(5)]
    trail.note(datagrams[3], 1.0)
    trail.note(datagrams[1], 2.0)
    assert trail.heard_at == 1.0
    assert {judged(trail, one) for one in datagrams[:4]} == {Verdict.REPLAYED}
    assert judged(trail, datagrams[4]) is Verdict.OURS


def test_one_new_message_among_repeated_ones_is_enough() -> None:
    trail, client = ControlTrail(KEY), Sealing()
    first, second = client.next(), client.next()
    trail.note(packet(first), 1.0)
    assert judged(trail, packet(first, second)) is Verdict.OURS
    assert judged(trail, packet(second, first)) is Verdict.OURS


def test_another_key_another_peer_or_no_message_is_foreign() -> None:
    trail, client, other = ControlTrail(KEY), Sealing(), Sealing(OTHER_KEY)
    trail.note(packet(client.next()), 1.0)
    other.next()
    new = client.next()
    assert judged(trail, packet(other.next())) is Verdict.FOREIGN
    assert judged(trail, packet(new, peer=4)) is Verdict.FOREIGN
    assert judged(trail, packet(new, session=2)) is Verdict.FOREIGN
    assert judged(trail, acknowledgement()) is Verdict.FOREIGN
    assert judged(trail, packet(new)[:-1]) is Verdict.FOREIGN
    assert judged(trail, packet(new, peer=0xFFF)) is Verdict.FOREIGN
    assert judged(trail, b"") is Verdict.FOREIGN
    assert judged(trail, packet(new)) is Verdict.OURS


def test_a_host_that_speaks_back_is_not_taken_for_its_client() -> None:
    trail, client = ControlTrail(KEY), Sealing()
    trail.note(packet(client.next()), 1.0)
    host = ControlCipher(KEY, "host", version=2)
    sealed = [host.seal(ControlKind.RUMBLE, bytes(4)) for _ in range(3)]
    assert judged(trail, packet(sealed[2])) is Verdict.FOREIGN


def test_long_datagrams_are_not_read() -> None:
    trail, client = ControlTrail(KEY), Sealing()
    assert not trail.may_know(packet(*(client.next() for _ in range(60))))


def test_after_a_restart_the_seal_alone_tells() -> None:
    trail, client = ControlTrail(KEY), Sealing()
    assert judged(trail, acknowledgement()) is Verdict.FOREIGN
    assert judged(trail, packet(b"in the clear")) is Verdict.FOREIGN
    assert judged(trail, packet(client.next())) is Verdict.OURS


def test_noise_and_connects_from_the_bound_address_are_not_noted() -> None:
    trail = ControlTrail(KEY)
    trail.note(b"\x00", 1.0)
    trail.note(EnetPeer.client(connect_data=7).datagrams(0)[0], 1.0)
    assert trail.heard_at == -math.inf
    assert not trail.sealed


def test_a_forged_number_of_the_bound_address_does_not_count() -> None:
    trail, client = ControlTrail(KEY), Sealing()
    trail.note(packet(client.next()), 1.0)
    sealed = client.next()
    forged = sealed[:4] + b"\xff\xff\xff\x7f" + sealed[8:]
    trail.note(packet(forged), 2.0)
    assert trail.heard_at == 1.0
    assert judged(trail, packet(sealed)) is Verdict.OURS


@pytest.mark.parametrize(
    ("datagram", "verdict"),
    [
        (packet(b"next", first=21), Verdict.PLAUSIBLE),
        (packet(b"soon", first=4_000), Verdict.PLAUSIBLE),
        (packet(b"again", first=20), Verdict.FOREIGN),
        (packet(b"far", first=9_000), Verdict.FOREIGN),
        (packet(b"next", first=21, peer=2), Verdict.FOREIGN),
        (acknowledgement(), Verdict.FOREIGN),
        (packet(Sealing().next()), Verdict.OURS),
    ],
)
def test_an_unsealed_connection_is_known_by_its_numbers_alone(
    datagram: bytes, verdict: Verdict
) -> None:
    trail = ControlTrail(KEY)
    trail.note(packet(b"old", first=20), 1.0)
    assert trail.heard_at == 1.0
    assert judged(trail, datagram) is verdict


def test_pings_of_an_unsealed_connection_count_on_their_own_channel() -> None:
    trail = ControlTrail(KEY)
    trail.note(packet(b"old", first=20), 1.0)
    command = EnetCommand(CommandKind.PING, ACKNOWLEDGE_FLAG, NO_CHANNEL, 21, Ping())
    assert judged(trail, EnetPacket(3, 1, 5, (command,)).encode()) is Verdict.FOREIGN


@given(st.binary(max_size=80), st.binary(max_size=40))
def test_nobody_without_the_key_is_ever_taken_for_the_client(noise: bytes, message: bytes) -> None:
    trail, client = ControlTrail(KEY), Sealing()
    trail.note(packet(client.next()), 1.0)
    foreign: list[Callable[[], bytes]] = [
        lambda: noise,
        lambda: packet(message),
        lambda: packet(client.next())[:-20] + noise[:20].ljust(20, b"\0"),
    ]
    for make in foreign:
        datagram = make()
        assert judged(trail, datagram) is Verdict.FOREIGN
        trail.note(datagram, 9.0)
    assert trail.heard_at == 1.0
