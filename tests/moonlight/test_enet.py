from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import all_rtsp_exchanges, datagrams, needs_captures

from moonlight import enet
from moonlight.enet import (
    _LAYOUTS,
    CommandKind,
    Connect,
    Disconnect,
    EnetCommand,
    EnetPacket,
    Ping,
    SendReliable,
    connect_data,
    parse_packet,
    rewrite_connect_data,
)
from moonlight.errors import Malformed, ProtocolError, TooLarge
from moonlight.rtsp import RtspParser

U2, U8, U12, U16, U32 = (st.integers(0, 2**bits - 1) for bits in (2, 8, 12, 16, 32))
# CONNECT as moonlight-embedded sent it, and with another connect data.
CONNECT = bytes.fromhex(
    "8fff036082ff00010000ffff000003840001000000000030000000000000000000001388"
    "000000020000000263147c9bb7c9c1b3"
)


@st.composite
def commands(draw: st.DrawFn) -> EnetCommand:
    kind = draw(st.sampled_from(CommandKind))
    layout = _LAYOUTS[kind]
    widths = {"H": U16, "B": U8, "I": U32}
    fields = layout.fields.format[1:].replace("10I", "I" * 10).replace("9I", "I" * 9)
    numbers = [draw(widths[code]) for code in fields.replace("4I", "IIII")]
    payload = b""
    if layout.length_at is not None:
        numbers.pop(layout.length_at)
        payload = draw(st.binary(max_size=50))
    flags = draw(st.sampled_from([0, 0x80, 0x40, 0xC0]))
    return EnetCommand(kind, flags, draw(U8), draw(U16), layout.body(*numbers), payload)


PACKETS = st.builds(
    EnetPacket, U12, U2, st.none() | U16, st.lists(commands(), max_size=6).map(tuple)
)


@given(PACKETS)
def test_packets_read_back_as_written(packet: EnetPacket) -> None:
    encoded = packet.encode()
    assert parse_packet(encoded) == packet
    assert enet.peer_id(encoded) == packet.peer_id
    for command in packet.commands:
        assert command.wants_acknowledgement == (command.flags >= 0x80)


@given(PACKETS, st.integers(0, 400), st.binary(max_size=6))
def test_any_bytes_are_a_packet_or_a_protocol_error(
    packet: EnetPacket, cut: int, tail: bytes
) -> None:
    for datagram in (packet.encode()[:cut] + tail, tail):
        data = connect_data(datagram)
        enet.peer_id(datagram)
        try:
            parsed = parse_packet(datagram)
        except ProtocolError:
            continue
        assert parsed.encode() == datagram
        first = parsed.commands[0].body if parsed.commands else None
        if parsed.peer_id == enet.NO_PEER and isinstance(first, Connect):
            assert data == first.data
        else:
            assert data is None


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "enet_header"),
        (b"\x00", "enet_header"),
        (b"\x80\x00\x01", "enet_header"),
        (b"\x40\x00", "enet_compressed"),
        (b"\x00\x00\x05\xff\x00", "enet_truncated"),
        (b"\x00\x00\x00\xff\x00\x01", "enet_command"),
        (b"\x00\x00\x0d\xff\x00\x01", "enet_command"),
        (b"\x00\x00\x15\xff\x00\x01", "enet_command"),
        (b"\x00\x00\x01\xff\x00\x01\x00", "enet_truncated"),
        (b"\x00\x00\x06\x00\x00\x01\x00\x05abcd", "enet_truncated"),
    ],
)
def test_what_is_no_enet_is_refused(datagram: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_packet(datagram)
    assert caught.value.reason == reason
    assert connect_data(datagram) is None


def test_the_number_of_commands_has_a_limit() -> None:
    pings = EnetPacket(0, 0, 1, (EnetCommand(CommandKind.PING, 0x80, 255, 1, Ping()),) * 3)
    assert parse_packet(pings.encode(), max_commands=3) == pings
    with pytest.raises(TooLarge, match="more than 2"):
        parse_packet(pings.encode(), max_commands=2)


def test_connect_data_is_read_and_rewritten() -> None:
    assert connect_data(CONNECT) == 3083452851
    changed = rewrite_connect_data(CONNECT, 7)
    assert connect_data(changed) == 7
    assert rewrite_connect_data(changed, 3083452851) == CONNECT
    untimed = b"\x0f\xff" + CONNECT[4:]
    assert connect_data(untimed) == 3083452851
    with_ping = untimed + b"\x85\xff\x00\x02"
    assert connect_data(rewrite_connect_data(with_ping, 9)) == 9
    assert rewrite_connect_data(with_ping, 3083452851) == with_ping


@pytest.mark.parametrize(
    "other",
    [
        CONNECT[:-1],
        CONNECT[:20],
        b"\x80\x00" + CONNECT[2:],
        b"\xcf\xff" + CONNECT[2:],
        CONNECT[:4] + b"\x83" + CONNECT[5:],
    ],
)
def test_only_connect_has_connect_data(other: bytes) -> None:
    assert connect_data(other) is None
    with pytest.raises(ValueError, match="not a CONNECT"):
        rewrite_connect_data(other, 1)


def test_peer_ids_need_two_bytes() -> None:
    assert enet.peer_id(b"\x8f\xff") == enet.NO_PEER
    assert enet.peer_id(b"\x90\x03\x00") == 3
    assert enet.peer_id(b"\x90") is None


def test_bodies_and_payloads_stay_out_of_repr() -> None:
    secret = EnetCommand(CommandKind.SEND_RELIABLE, 0x80, 1, 1, SendReliable(), b"secret")
    assert "secret" not in repr(EnetPacket(0, 0, None, (secret,)))
    assert "4711" not in repr(EnetCommand(CommandKind.DISCONNECT, 0, 255, 1, Disconnect(4711)))


@needs_captures
def test_recorded_packets_are_written_back_byte_for_byte() -> None:
    recorded = [d.payload for d in datagrams() if 47999 in (d.source, d.destination)]
    kinds = []
    for datagram in recorded:
        packet = parse_packet(datagram)
        assert packet.encode() == datagram
        kinds += [command.kind for command in packet.commands]
    assert len(recorded) == 51
    assert set(kinds) == {
        CommandKind.ACKNOWLEDGE,
        CommandKind.CONNECT,
        CommandKind.VERIFY_CONNECT,
        CommandKind.PING,
        CommandKind.SEND_RELIABLE,
        CommandKind.BANDWIDTH_LIMIT,
    }


@needs_captures
def test_the_recorded_connect_carries_what_rtsp_said() -> None:
    promised = []
    for exchange in all_rtsp_exchanges():
        parser = RtspParser("response")
        parser.receive(b"".join(exchange.response))
        parser.end()
        answer = parser.next()
        assert answer is not None
        promised.append(answer.connect_data)
    carried = [connect_data(d.payload) for d in datagrams() if d.destination == 47999]
    assert [data for data in carried if data is not None] == [3083452851]
    assert 3083452851 in promised
