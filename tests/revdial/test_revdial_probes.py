"""Probes of UDP ports: what is asked, answered and sent, and that nothing else passes for it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlight.enet import connect_data
from moonlight.enet_glance import glance
from moonlight.ping import build_ping, parse_ping
from moonlight.wake import magic_packet, woken_mac
from revdial.errors import BadMessage
from revdial.messages import Request, decode_from_edge, encode
from revdial.probes import (
    ProbeRequest,
    ProbesSent,
    nonce_of,
    probe_datagram,
    probe_method,
    read_request,
    read_sent,
)

NONCE = bytes(range(16))
ASKED = {"nonce": NONCE.hex(), "ports": [47998, 48000]}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
params = st.dictionaries(st.sampled_from(["nonce", "ports", "host", "sent", "x"]), values)


def test_what_the_edge_asks_comes_through_the_tunnel() -> None:
    sent = decode_from_edge(encode(Request("id", probe_method, dict(ASKED))))
    assert isinstance(sent, Request)
    assert read_request(sent.params) == ProbeRequest(NONCE.hex(), (47998, 48000))


@pytest.mark.parametrize(
    "changed",
    [
        {"nonce": NONCE.hex() + "\n"},
        {"nonce": NONCE.hex().upper()},
        {"nonce": NONCE.hex()[:-2]},
        {"nonce": 7},
        {"ports": []},
        {"ports": [1, 2, 3, 4]},
        {"ports": [0]},
        {"ports": [65536]},
        {"ports": "47998"},
    ],
)
def test_other_requests_are_refused_without_being_quoted(changed: dict[str, object]) -> None:
    with pytest.raises(BadMessage, match="wants a nonce and 1 to 3 ports") as caught:
        read_request(ASKED | changed)
    assert NONCE.hex() not in str(caught.value)


@pytest.mark.parametrize(
    "told", [{}, {"host": "h"}, {"host": "", "sent": 1}, {"host": "h", "sent": 19}]
)
def test_other_answers_are_refused(told: dict[str, object]) -> None:
    with pytest.raises(BadMessage, match="not one to a probe"):
        read_sent(told)
    assert read_sent({"host": "h", "sent": 18, "more": 1}) == ProbesSent("h", 18)


@given(params)
def test_whatever_is_asked_or_answered_is_understood_or_refused(told: dict[str, object]) -> None:
    with suppress(BadMessage):
        assert len(bytes.fromhex(read_request(told).nonce)) == 16
    with suppress(BadMessage):
        assert 0 <= read_sent(told).sent <= 18


@given(st.binary(min_size=16, max_size=16))
def test_a_probe_is_known_by_its_nonce_and_is_nothing_that_clients_send(nonce: bytes) -> None:
    datagram = probe_datagram(nonce)
    assert nonce_of(datagram) == nonce
    assert parse_ping(datagram) is None
    assert connect_data(datagram) is None
    assert glance(datagram) == []
    assert woken_mac(datagram) is None


@given(st.binary(max_size=64))
def test_what_is_no_probe_has_no_nonce(datagram: bytes) -> None:
    assert nonce_of(datagram) is None or probe_datagram(datagram[16:]) == datagram


@pytest.mark.parametrize(
    "datagram",
    [build_ping("a" * 16, 1), build_ping(None, 0), magic_packet(b"\x02" * 6), b"", bytes(32)],
)
def test_what_clients_send_is_no_probe(datagram: bytes) -> None:
    assert nonce_of(datagram) is None


def test_a_probe_of_another_length_is_none() -> None:
    assert nonce_of(probe_datagram(NONCE) + b"!") is None
    with pytest.raises(ValueError, match="16 bytes"):
        probe_datagram(b"")


def test_a_nonce_is_shown_to_nobody() -> None:
    assert NONCE.hex() not in repr(read_request(dict(ASKED)))
