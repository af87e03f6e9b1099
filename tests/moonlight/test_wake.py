"""Magic packets and hardware addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlight.errors import Malformed
from moonlight.wake import format_mac, magic_packet, own_mac, parse_mac, woken_mac

MAC = bytes.fromhex("02005e100001")
macs = st.binary(min_size=6, max_size=6)


def test_a_magic_packet_is_what_moonlight_sends() -> None:
    packet = magic_packet(MAC)
    assert len(packet) == 102
    assert packet == b"\xff" * 6 + MAC * 16


@pytest.mark.parametrize("mac", [b"", MAC[:5], MAC + b"\0"])
def test_no_packet_for_what_is_no_address(mac: bytes) -> None:
    with pytest.raises(ValueError, match="6 bytes"):
        magic_packet(mac)


@given(macs, st.sampled_from([0, 4, 6]))
def test_a_packet_wakes_its_machine_also_with_a_password(mac: bytes, password: int) -> None:
    assert woken_mac(magic_packet(mac) + bytes(password)) == mac


@given(macs, st.integers(1, 6).filter(lambda extra: extra not in (4, 6)))
def test_nothing_of_another_length_is_one(mac: bytes, extra: int) -> None:
    packet = magic_packet(mac)
    assert woken_mac(packet + bytes(extra)) is None
    assert woken_mac(packet[:-extra]) is None
    # Nor one that begins later: Moonlight's fill the datagram.
    assert woken_mac(bytes(extra) + packet[:-extra]) is None


@given(macs, st.integers(0, 101), st.integers(1, 255))
def test_a_packet_with_one_wrong_byte_wakes_nobody(mac: bytes, at: int, change: int) -> None:
    packet = bytearray(magic_packet(mac))
    packet[at] ^= change
    assert woken_mac(bytes(packet)) is None


@given(st.text(max_size=64))
def test_an_edges_address_is_always_the_same_and_nobodys_own(identity: str) -> None:
    mac = own_mac(identity)
    assert mac == own_mac(identity)
    assert mac[0] & 0x03 == 0x02, "unicast, and locally administered"
    assert mac != own_mac(identity + "x")
    assert parse_mac(format_mac(mac)) == mac
    assert format_mac(mac) != "00:00:00:00:00:00"


@pytest.mark.parametrize("text", ["02:00:5e:10:00:01", "02-00-5E-10-00-01"])
def test_addresses_are_written_with_colons_or_dashes(text: str) -> None:
    assert parse_mac(text) == MAC
    assert format_mac(MAC) == "02:00:5e:10:00:01"


@pytest.mark.parametrize(
    "text",
    [
        *("", "02:00:5e:10:00", "02:00:5e:10:00:01:02", "2:0:5e:10:0:1", "02005e100001"),
        *("02:00-5e:10:00:01", "02:00:5e:10:00:0g", " 02:00:5e:10:00:01"),
        *("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:10:00:01"),
    ],
)
def test_what_is_no_machines_address(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_mac(text)
    assert caught.value.reason == "bad_mac"
