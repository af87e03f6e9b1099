from __future__ import annotations

import pytest

from moonlight.enet import (
    ACKNOWLEDGE_FLAG,
    Acknowledge,
    CommandKind,
    Disconnect,
    EnetCommand,
    EnetPacket,
    SendReliable,
    SendUnreliable,
)
from proxy.control_rtt import ControlWatch, max_unacknowledged


def message(sequence: int, sent_time: int | None = 100, channel: int = 0) -> bytes:
    command = EnetCommand(
        CommandKind.SEND_RELIABLE, ACKNOWLEDGE_FLAG, channel, sequence, SendReliable(), b"sealed"
    )
    return EnetPacket(1, 0, sent_time, (command,)).encode()


def ack(sequence: int, sent_time: int = 100, channel: int = 0) -> bytes:
    body = Acknowledge(sequence, sent_time)
    command = EnetCommand(CommandKind.ACKNOWLEDGE, 0, channel, sequence, body)
    return EnetPacket(1, 0, 1, (command,)).encode()


def connect() -> bytes:
    header = (0x8FFF).to_bytes(2, "big") + (7).to_bytes(2, "big")
    return header + bytes([0x82, 0xFF, 0, 1]) + bytes(44)


def test_each_sides_round_trip_is_from_a_message_to_its_acknowledgement() -> None:
    watch = ControlWatch()
    assert watch.host.rtt_s is None
    watch.to_host(message(1), 10.0)
    watch.to_client(ack(1), 10.25)
    assert watch.host.rtt_s == pytest.approx(0.25)
    assert watch.client.rtt_s is None

    watch.to_client(message(1), 20.0)
    watch.to_host(ack(1), 20.5)
    assert watch.client.rtt_s == pytest.approx(0.5)


def test_a_round_trip_moves_by_an_eighth_of_the_difference() -> None:
    watch = ControlWatch()
    for sequence, took_s in ((1, 0.1), (2, 0.9)):
        watch.to_host(message(sequence), 0.0)
        watch.to_client(ack(sequence), took_s)
    assert watch.host.rtt_s == pytest.approx(0.2)


def test_a_message_that_passes_again_is_a_retransmission() -> None:
    watch = ControlWatch()
    watch.to_host(message(1, sent_time=100), 0.0)
    watch.to_host(message(1, sent_time=300), 0.2)
    assert (watch.host.retransmissions, watch.client.retransmissions) == (1, 0)


def test_what_is_acknowledged_again_and_sent_again_is_one_too() -> None:
    watch = ControlWatch()
    for _ in range(2):  # its sender never got the first acknowledgement
        watch.to_host(message(5), 0.0)
        watch.to_client(ack(5), 0.1)
    assert watch.host.retransmissions == 1


def test_an_acknowledgement_of_an_earlier_passing_is_not_timed() -> None:
    watch = ControlWatch()
    watch.to_host(message(1, sent_time=100), 0.0)
    watch.to_host(message(1, sent_time=300), 0.2)
    watch.to_client(ack(1, sent_time=100), 0.3)
    assert watch.host.rtt_s is None
    watch.to_client(ack(1, sent_time=300), 0.4)
    assert watch.host.rtt_s == pytest.approx(0.2)


def test_sequences_wrap_and_channels_are_apart() -> None:
    watch = ControlWatch()
    for sequence in (0xFFFE, 0xFFFF, 0, 1):
        watch.to_host(message(sequence), 0.0)
    watch.to_host(message(1, channel=1), 0.0)
    assert watch.host.retransmissions == 0


def test_a_new_connection_numbers_anew() -> None:
    watch = ControlWatch()
    watch.to_host(message(900), 0.0)
    watch.to_host(connect(), 1.0)
    watch.to_host(message(1), 2.0)
    assert watch.host.retransmissions == 0


def test_only_so_many_acknowledgements_are_awaited() -> None:
    watch = ControlWatch()
    for sequence in range(max_unacknowledged + 1):
        watch.to_host(message(sequence), 0.0)
    watch.to_client(ack(0), 1.0)
    assert watch.host.rtt_s is None
    watch.to_client(ack(1), 1.0)
    assert watch.host.rtt_s == pytest.approx(1.0)


def test_what_has_no_time_or_wants_no_acknowledgement_is_not_timed() -> None:
    watch = ControlWatch()
    watch.to_host(message(1, sent_time=None), 0.0)
    unreliable = EnetCommand(CommandKind.SEND_UNRELIABLE, 0, 0, 2, SendUnreliable(1), b"")
    watch.to_host(EnetPacket(1, 0, 100, (unreliable,)).encode(), 0.0)
    for sequence in (1, 2):
        watch.to_client(ack(sequence), 1.0)
    assert watch.host.rtt_s is None


def test_a_clients_goodbye_is_told_and_nothing_else_is_taken_for_one() -> None:
    watch = ControlWatch()
    body = EnetCommand(CommandKind.DISCONNECT, ACKNOWLEDGE_FLAG, 0xFF, 9, Disconnect(0))
    goodbye = EnetPacket(1, 0, None, (body,)).encode()
    assert watch.to_host(goodbye, 0.0)
    for other in (connect(), message(1), goodbye[:-1], b""):
        assert not watch.to_host(other, 0.0)
