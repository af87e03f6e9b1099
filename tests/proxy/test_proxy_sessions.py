from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy_fakes import session

from proxy.sessions import (
    FlowTerms,
    SessionId,
    SessionState,
    SessionTable,
    StreamKey,
    new_session_id,
)

PORTS = range(48010, 48013)


def table(*sessions: object) -> SessionTable:
    made = SessionTable(PORTS)
    for one in sessions:
        made.add(one)  # type: ignore[arg-type]
    return made


def test_a_session_is_found_by_id_client_and_backend() -> None:
    first, second = session("a"), session("b")
    sessions = table(first, second)
    assert len(sessions) == 2
    assert list(sessions) == [first, second]
    assert sessions.get(first.id) is first
    assert sessions.of_client(second.client) is second
    assert sessions.get(SessionId("c")) is None
    assert sessions.of_client(session("c").client) is None


def test_a_removed_session_is_found_by_nothing_and_its_client_may_have_another() -> None:
    first = session("a", client="x")
    sessions = table(first)
    assert sessions.remove(first.id) is first
    assert sessions.remove(first.id) is None
    assert sessions.of_client(first.client) is None
    sessions.add(session("b", client="x"))


def test_a_client_has_one_session() -> None:
    sessions = table(session("a", client="x"))
    with pytest.raises(ValueError, match="has a session already"):
        sessions.add(session("b", client="x"))
    assert len(sessions) == 1


def test_a_table_may_change_while_it_is_walked() -> None:
    sessions = table(session("a"), session("b"))
    for one in sessions:
        sessions.remove(one.id)
    assert len(sessions) == 0


def test_the_first_port_is_shared_by_clients_of_different_addresses() -> None:
    sessions = table(session("a", address="192.0.2.1"))
    assert sessions.choose_rtsp_port("192.0.2.2", for_session=SessionId("b")) == 48010


def test_a_second_session_of_an_address_gets_a_port_of_its_own() -> None:
    sessions = table(session("a"), session("b", port=48011))
    assert sessions.choose_rtsp_port("192.0.2.1", for_session=SessionId("c")) == 48012


def test_a_streaming_session_keeps_its_port_but_a_paused_one_does_not() -> None:
    streaming = table(session("a", state=SessionState.STREAMING))
    assert streaming.choose_rtsp_port("192.0.2.1", for_session=SessionId("b")) == 48011
    paused = table(session("a", state=SessionState.PAUSED))
    assert paused.choose_rtsp_port("192.0.2.1", for_session=SessionId("b")) == 48010


def test_a_session_does_not_stand_in_its_own_way() -> None:
    sessions = table(session("a", port=48010))
    assert sessions.choose_rtsp_port("192.0.2.1", for_session=SessionId("a")) == 48010


def test_an_address_with_a_session_on_every_port_gets_no_more() -> None:
    sessions = table(*(session(f"s{port}", port=port) for port in PORTS))
    with pytest.raises(LookupError, match="all 3 RTSP ports"):
        sessions.choose_rtsp_port("192.0.2.1", for_session=SessionId("new"))


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.booleans()), max_size=12))
def test_sessions_of_one_address_never_share_a_port(launches: list[tuple[str, bool]]) -> None:
    sessions = SessionTable(range(48010, 48030))
    for number, (address, paused) in enumerate(launches):
        made = session(f"s{number}", address=address)
        made.rtsp_port = sessions.choose_rtsp_port(address, for_session=made.id)
        sessions.add(made)
        if paused:
            made.move_to(SessionState.PAUSED, 1.0)
    active = [
        (one.client_address, one.rtsp_port)
        for one in sessions
        if one.state is not SessionState.PAUSED
    ]
    assert len(set(active)) == len(active)


def test_session_ids_cannot_be_guessed_and_fit_a_label() -> None:
    made = {new_session_id() for _ in range(100)}
    assert len(made) == 100
    assert all(len(one) == 24 and one.isalnum() for one in made)


def test_entering_a_state_anew_renews_its_time() -> None:
    one = session("a", since=1.0)
    one.move_to(SessionState.LAUNCHED, 5.0)
    assert (one.state, one.since) == (SessionState.LAUNCHED, 5.0)


def test_labels_and_secrets_are_in_no_repr() -> None:
    one = session("a", label="unguessable")
    assert "unguessable" not in repr(one)
    terms = FlowTerms(47998, "0123456789abcdef", "fedcba9876543210")
    assert "0123456789abcdef" not in repr(terms)
    assert "fedcba9876543210" not in repr(terms)


def test_numbers_begin_anew_with_a_new_key_and_go_on_under_the_same() -> None:
    one = session("a", rtsp_encrypted=True)
    one.rtsp_sequence, one.host_rtsp_sequence = 7, 5
    one.take_key(StreamKey(one.key.rikey, 99), corever=2, rtsp_encrypted=False)
    assert (one.rtsp_sequence, one.host_rtsp_sequence) == (7, 0), "a number seals once under a key"
    assert (one.key.rikeyid, one.corever, one.rtsp_encrypted) == (99, 2, False)
    one.take_key(StreamKey(bytes(16), 99), corever=1, rtsp_encrypted=True)
    assert (one.rtsp_sequence, one.rtsp_encrypted) == (0, True)
