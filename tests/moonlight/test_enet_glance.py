from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlight.enet import (
    ACKNOWLEDGE_FLAG,
    Acknowledge,
    CommandKind,
    Disconnect,
    EnetCommand,
    EnetPacket,
    Ping,
    SendReliable,
    parse_packet,
)
from moonlight.enet_glance import Seen, glance
from moonlight.errors import ProtocolError

RELIABLE = EnetCommand(
    CommandKind.SEND_RELIABLE, ACKNOWLEDGE_FLAG, 2, 7, SendReliable(), b"message"
)
ACK = EnetCommand(CommandKind.ACKNOWLEDGE, 0, 2, 9, Acknowledge(7, 4711))


def packet(*commands: EnetCommand, sent_time: int | None = 1234) -> bytes:
    return EnetPacket(1, 0, sent_time, commands).encode()


def test_every_command_is_seen_with_its_numbers() -> None:
    ping = EnetCommand(CommandKind.PING, ACKNOWLEDGE_FLAG, 255, 3, Ping())
    assert glance(packet(RELIABLE, ACK, ping)) == [
        Seen(CommandKind.SEND_RELIABLE, True, 2, 7, 1234),
        Seen(CommandKind.ACKNOWLEDGE, False, 2, 7, 4711),
        Seen(CommandKind.PING, True, 255, 3, 1234),
    ]


def test_a_packet_without_time_has_commands_without_time() -> None:
    goodbye = EnetCommand(CommandKind.DISCONNECT, 0, 255, 1, Disconnect(0))
    (seen,) = glance(packet(goodbye, sent_time=None))
    assert (seen.kind, seen.sent_time) == (CommandKind.DISCONNECT, None)


@pytest.mark.parametrize("cut", range(1, len(packet(RELIABLE)) - 4))
def test_what_is_cut_short_is_not_seen(cut: int) -> None:
    assert glance(packet(RELIABLE)[:-cut]) == []


def test_more_commands_than_a_packet_may_have_are_not_seen() -> None:
    pings = [EnetCommand(CommandKind.PING, 0, 255, 3, Ping())] * 257
    assert len(glance(packet(*pings[:256]))) == 256
    assert glance(packet(*pings)) == []


@st.composite
def nearly_packets(draw: st.DrawFn) -> bytes:
    """Bytes that look like packets more often than noise does."""
    header = draw(st.sampled_from([b"\x80\x01\x12\x34", b"\x00\x01", b"\xc0\x01\x12\x34"]))
    commands = draw(
        st.lists(
            st.tuples(
                st.integers(0, 255), st.binary(min_size=3, max_size=3), st.binary(max_size=60)
            ),
            max_size=4,
        )
    )
    return header + b"".join(bytes([kind]) + head + body for kind, head, body in commands)


@given(st.binary(max_size=80) | nearly_packets() | st.just(packet(RELIABLE, ACK)))
def test_a_glance_sees_what_a_parser_sees(datagram: bytes) -> None:
    try:
        commands = parse_packet(datagram).commands
    except ProtocolError:
        assert glance(datagram) == []
        return
    seen = glance(memoryview(datagram))
    assert [(one.kind, one.reliable, one.channel) for one in seen] == [
        (command.kind, command.wants_acknowledgement, command.channel) for command in commands
    ]
