from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlight.enet import connect_data
from moonlight.ping import build_ping
from proxy.translation import ConnectTranslation, PingTranslation, UplinkDrop

EDGE, HOST = "edge-edge-edge-0", "host-host-host-0"


def connect(data: int, sent_time: bool = True) -> bytes:
    """ENet's first datagram, as Moonlight sends it: 52 bytes, of which the last 4 are ours."""
    word = 0x0FFF | (0x8000 if sent_time else 0)
    header = word.to_bytes(2, "big") + (b"\x12\x34" if sent_time else b"")
    return header + bytes([0x82, 0xFF, 0, 1]) + bytes(40) + data.to_bytes(4, "big")


def test_a_ping_gets_the_hosts_payload_and_keeps_its_counter() -> None:
    assert PingTranslation(EDGE, HOST).to_host(build_ping(EDGE, 41)) == build_ping(HOST, 41)


def test_a_host_without_payloads_gets_the_old_ping() -> None:
    assert PingTranslation(EDGE, None).to_host(build_ping(EDGE, 41)) == b"PING"


@pytest.mark.parametrize(
    ("datagram", "drop"),
    [
        (build_ping(HOST, 1), UplinkDrop.WRONG_PAYLOAD),
        (build_ping("edge-edge-edge-1", 1), UplinkDrop.WRONG_PAYLOAD),
        (b"PING", UplinkDrop.WRONG_PAYLOAD),
        (b"", UplinkDrop.NOT_A_PING),
        (bytes(20), UplinkDrop.NOT_A_PING),
        (b"\xff" * 20, UplinkDrop.NOT_A_PING),
        (build_ping(EDGE, 1) + b"!", UplinkDrop.NOT_A_PING),
    ],
)
def test_what_is_not_this_clients_ping_goes_nowhere(datagram: bytes, drop: UplinkDrop) -> None:
    assert PingTranslation(EDGE, HOST).to_host(datagram) is drop


def test_on_a_port_of_its_own_a_flow_takes_the_old_ping_and_still_no_wrong_one() -> None:
    alone = PingTranslation(EDGE, HOST, without_payload=True)
    assert alone.to_host(b"PING") == build_ping(HOST, 0)
    assert alone.to_host(build_ping(EDGE, 41)) == build_ping(HOST, 41)
    assert alone.to_host(build_ping(HOST, 1)) is UplinkDrop.WRONG_PAYLOAD


def test_on_a_port_of_its_own_a_flow_takes_a_connect_without_data_and_no_wrong_one() -> None:
    alone = ConnectTranslation(7, 9, without_data=True)
    assert alone.to_host(connect(0)) == connect(9)
    assert alone.to_host(connect(7)) == connect(9)
    assert alone.to_host(connect(8)) is UplinkDrop.WRONG_CONNECT_DATA
    assert ConnectTranslation(7, 9).to_host(connect(0)) is UplinkDrop.WRONG_CONNECT_DATA


@pytest.mark.parametrize("sent_time", [True, False])
@pytest.mark.parametrize(("host_data", "seen"), [(9, 9), (None, 0), (2**32 - 1, 2**32 - 1)])
def test_connect_gets_the_hosts_data_and_nothing_else_changes(
    host_data: int | None, seen: int, sent_time: bool
) -> None:
    translated = ConnectTranslation(7, host_data).to_host(connect(7, sent_time))
    assert translated == connect(seen, sent_time)


def test_a_connect_with_other_data_goes_nowhere() -> None:
    assert ConnectTranslation(7, 9).to_host(connect(8)) is UplinkDrop.WRONG_CONNECT_DATA


def test_an_empty_control_datagram_is_nothing_that_enet_sends() -> None:
    assert ConnectTranslation(7, 9).to_host(b"") is UplinkDrop.EMPTY


@given(st.binary(min_size=1, max_size=100))
def test_all_other_control_datagrams_pass_unchanged(datagram: bytes) -> None:
    if connect_data(datagram) is None:
        assert ConnectTranslation(7, 9).to_host(datagram) == datagram


@given(st.binary(max_size=100))
def test_noise_never_reaches_the_host_as_media_input(datagram: bytes) -> None:
    assert isinstance(PingTranslation(EDGE, HOST).to_host(datagram), UplinkDrop)


def test_secrets_are_in_no_repr() -> None:
    assert EDGE not in repr(PingTranslation(EDGE, HOST))
    assert HOST not in repr(PingTranslation(EDGE, HOST))
    assert "12345" not in repr(ConnectTranslation(12345, 12345))
