from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proxy_fakes import session

from proxy.matching import NoMatch, RtspOrigin, match_rtsp
from proxy.sessions import Session, SessionState, new_label

WINDOW = 30.0


def matched(origin: RtspOrigin, *sessions: Session, now: float = 1.0) -> str | NoMatch:
    found = match_rtsp(origin, sessions, now=now, launch_window_s=WINDOW)
    return found if isinstance(found, NoMatch) else found.id


def of(address: str, host: str = "0.0.0.0", port: int = 48010) -> RtspOrigin:
    return RtspOrigin(port, address, host)


def test_a_label_names_its_session_whoever_else_is_there() -> None:
    origin = of("192.0.2.1", "label-of-b")
    assert matched(origin, session("a"), session("b"), session("c")) == "b"


def test_a_label_counts_from_any_address_since_it_cannot_be_guessed() -> None:
    assert matched(of("198.51.100.7", "label-of-a"), session("a")) == "a"


def test_a_label_counts_in_every_state_and_after_the_launch_window() -> None:
    old = session("a", state=SessionState.PAUSED)
    assert matched(of("192.0.2.1", "label-of-a"), old, now=1_000) == "a"


def test_a_label_at_the_port_of_another_is_refused_and_not_taken_for_the_others_session() -> None:
    sessions = session("a", port=48011), session("b", port=48010)
    assert matched(of("192.0.2.1", "label-of-a"), *sessions) is NoMatch.WRONG_PORT


def test_without_a_label_port_and_address_decide() -> None:
    sessions = (
        session("a", port=48010),
        session("b", port=48011),
        session("c", port=48011, address="192.0.2.2"),
    )
    assert matched(of("192.0.2.1", port=48011), *sessions) == "b"
    assert matched(of("192.0.2.2", port=48011), *sessions) == "c"


@pytest.mark.parametrize(
    "other",
    [
        session("b", port=48011),
        session("b", address="192.0.2.2"),
        session("b", state=SessionState.STREAMING),
        session("b", state=SessionState.PAUSED),
    ],
    ids=["another port", "another address", "streaming already", "paused"],
)
def test_sessions_that_cannot_be_meant_do_not_make_a_message_ambiguous(other: Session) -> None:
    assert matched(of("192.0.2.1"), session("a"), other) == "a"


def test_a_label_of_no_session_is_never_taken_for_the_session_that_awaits_one_there() -> None:
    assert matched(of("192.0.2.1", new_label()), session("a")) is NoMatch.ENDED


def test_two_sessions_that_fit_are_refused() -> None:
    assert matched(of("192.0.2.1"), session("a"), session("b")) is NoMatch.AMBIGUOUS


def test_nobody_fits() -> None:
    assert matched(of("192.0.2.1")) is NoMatch.UNKNOWN
    assert matched(of("192.0.2.9"), session("a")) is NoMatch.UNKNOWN


def test_the_launch_window_closes() -> None:
    assert matched(of("192.0.2.1"), session("a", since=10), now=10 + WINDOW) == "a"
    assert matched(of("192.0.2.1"), session("a", since=10), now=10.5 + WINDOW) is NoMatch.UNKNOWN


def test_a_message_that_names_no_host_at_all_is_matched_like_one_that_says_nothing() -> None:
    assert matched(of("192.0.2.1", ""), session("a")) == "a"


def test_the_label_a_message_named_is_in_no_repr() -> None:
    assert "unguessable" not in repr(of("192.0.2.1", "unguessable"))


ADDRESSES = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
PORTS = [48010, 48011, 48012]


@st.composite
def tables(draw: st.DrawFn) -> list[Session]:
    return [
        session(
            f"s{number}",
            address=draw(st.sampled_from(ADDRESSES)),
            port=draw(st.sampled_from(PORTS)),
            state=draw(st.sampled_from(SessionState)),
            since=draw(st.floats(0, 100)),
        )
        for number in range(draw(st.integers(0, 6)))
    ]


@settings(max_examples=300)
@given(
    table=tables(),
    address=st.sampled_from(ADDRESSES),
    port=st.sampled_from(PORTS),
    host=st.one_of(
        st.sampled_from(["0.0.0.0", "", "203.0.113.9"]),
        st.integers(0, 7).map(lambda number: f"label-of-s{number}"),
    ),
    now=st.floats(0, 200),
)
def test_no_message_ever_reaches_a_session_that_it_has_no_claim_on(
    table: list[Session], address: str, port: int, host: str, now: float
) -> None:
    found = match_rtsp(RtspOrigin(port, address, host), table, now=now, launch_window_s=WINDOW)
    named = [known for known in table if known.label == host]
    fitting = [
        known
        for known in table
        if known.client_address == address
        and known.rtsp_port == port
        and known.state is SessionState.LAUNCHED
        and now - known.since <= WINDOW
    ]
    if isinstance(found, Session):
        assert found.rtsp_port == port
        assert found in named if named else fitting == [found]
    elif named:
        assert found is NoMatch.WRONG_PORT
        assert named[0].rtsp_port != port
    else:
        assert found is (NoMatch.AMBIGUOUS if fitting else NoMatch.UNKNOWN)
        assert len(fitting) != 1
