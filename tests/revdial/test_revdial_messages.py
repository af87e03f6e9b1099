"""Control messages survive the wire, and nothing else gets through."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revdial.errors import BadMessage, TunnelError, printable, token, where
from revdial.messages import (
    AppOffer,
    Dial,
    DialFailed,
    FromAgent,
    FromEdge,
    GpuReport,
    Heartbeat,
    Hello,
    HostOffer,
    HostReport,
    Reply,
    Request,
    Spare,
    Welcome,
    decode_from_agent,
    decode_from_edge,
    encode,
    max_control_message_bytes,
)

FROM_AGENT: list[FromAgent] = [
    Hello("a1", "berlin", 52.5, 13.4, "moonhost/1", (HostOffer("h1", apps=(AppOffer("X", 7),)),)),
    Heartbeat(
        (HostReport("h1", True, {"http": True}, 1, gpus=(GpuReport("RTX", "nvidia", 1, 2),)),),
        12.5,
        3,
        2**53,
        5,
        6,
    ),
    DialFailed("id", "not_allowed", "no"),
    Reply("id", True, {"a": [1, None]}),
]
FROM_EDGE: list[FromEdge] = [
    Welcome(10),
    Dial("id", "flow", "h1", "udp", "c1", 48100, "video", "s1"),
    Request("id", "confirm_pin", {"pin": "1234"}, 5),
]


@pytest.mark.parametrize("message", FROM_AGENT)
def test_what_an_agent_says_comes_back(message: FromAgent) -> None:
    assert decode_from_agent(encode(message)) == message
    with pytest.raises(BadMessage):
        decode_from_edge(encode(message))


@pytest.mark.parametrize("message", FROM_EDGE)
def test_what_the_edge_says_comes_back(message: FromEdge) -> None:
    assert decode_from_edge(encode(message)) == message
    with pytest.raises(BadMessage):
        decode_from_agent(encode(message))


def test_unknown_fields_are_left_to_newer_peers() -> None:
    said = json.loads(encode(Hello("a1"))) | {"colour": "blue"}
    assert decode_from_agent(json.dumps(said)) == Hello("a1")


def test_what_older_agents_say_of_gpus_is_passed_over() -> None:
    said = {"type": "heartbeat", "gpus": [{"name": "RTX"}]}
    assert decode_from_agent(json.dumps(said)) == Heartbeat()


@pytest.mark.parametrize(
    "heartbeat",
    [
        Heartbeat((HostReport("h1", True, gpus=(GpuReport("RTX"),) * 17),)),
        Heartbeat((HostReport("h1", True, gpus=(GpuReport("x" * 129),)),)),
        Heartbeat((HostReport("h1", True, gpus=(GpuReport("RTX", "", -1),)),)),
        Heartbeat((HostReport("h1", True, gpus=(GpuReport("RTX", "", 1, 2**53 + 1),)),)),
        Heartbeat(memory_used_bytes=-1),
        Heartbeat(memory_total_bytes=2**53 + 1),
    ],
)
def test_figures_have_bounds(heartbeat: Heartbeat) -> None:
    with pytest.raises(BadMessage):
        encode(heartbeat)


def test_a_host_has_up_to_16_gpus() -> None:
    heartbeat = Heartbeat((HostReport("h1", True, gpus=(GpuReport("RTX"),) * 16),))
    assert decode_from_agent(encode(heartbeat)) == heartbeat


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
tags = st.sampled_from(["hello", "heartbeat", "dialfailed", "reply", "welcome", "dial", "request"])


@settings(max_examples=200)
@given(
    st.one_of(
        st.text(max_size=100),
        st.builds(
            lambda tag, rest: json.dumps({"type": tag, **rest}),
            tags,
            st.dictionaries(
                st.sampled_from(["id", "agent_id", "hosts", "ok", "reason", "params"]), anything
            ),
        ),
    )
)
def test_any_text_is_a_message_or_a_tunnel_error(said: str) -> None:
    for decode in (decode_from_agent, decode_from_edge):
        with suppress(TunnelError):
            decode(said)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"{}", "binary_control_message"),
        ("x" * (max_control_message_bytes + 1), "too_large"),
        ("[" * 60_000, "malformed"),
        ('{"type":"hello","agent_id":""}', "malformed"),
        ('{"type":"hello","agent_id":"a","latitude":91}', "malformed"),
        ('{"type":"hello","agent_id":"\ud800"}', "malformed"),
    ],
)
def test_a_wrong_message_is_refused(said: str | bytes, reason: str) -> None:
    with pytest.raises(BadMessage) as caught:
        decode_from_agent(said)
    assert caught.value.reason == reason


def test_a_message_too_large_is_not_even_sent() -> None:
    with pytest.raises(BadMessage):
        encode(Reply("id", True, {"a": "x" * max_control_message_bytes}))


@pytest.mark.parametrize(
    "message",
    [Dial("id", "stream", "", "http"), Hello("x" * 129), DialFailed("id", "r", "m" * 2000)],
)
def test_what_the_peer_would_refuse_is_not_even_sent(message: FromAgent | FromEdge) -> None:
    with pytest.raises(BadMessage) as caught:
        encode(message)
    assert caught.value.reason == "unsendable"


def test_ids_and_parameters_stay_out_of_reprs() -> None:
    shown = (
        repr(Dial("secret-id", "stream", "h1", "http"))
        + repr(Spare("secret-id"))
        + repr(Request("secret-id", "confirm_pin", {"pin": "4711"}))
    )
    assert "secret" not in shown
    assert "4711" not in shown


def test_what_a_peer_names_is_cleaned() -> None:
    assert printable("a\nb\x1b[31m", 5) == "a?b?["
    assert token("Not Allowed!") == "not_allowed"
    assert token("\n") == "unknown"


def test_an_error_without_words_has_some() -> None:
    assert str(BadMessage()) == "bad message"
    assert BadMessage("too_large", "It is too large").reason == "too_large"


def test_a_bug_is_told_by_place_without_its_text() -> None:
    try:
        raise ValueError("secret")
    except ValueError as error:
        told = where(ExceptionGroup("secret too", [error]))
    assert told.startswith("ValueError at ")
    assert "secret" not in told
    assert where(KeyError("secret")) == "KeyError"
