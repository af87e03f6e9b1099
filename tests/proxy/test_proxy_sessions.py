from __future__ import annotations

from functools import partial

import pytest
from proxy_fakes import session

from moonlight.flows import Flow
from moonlight.identity import ClientId
from proxy.port_pool import PortPool
from proxy.sessions import (
    FlowTerms,
    PortRules,
    SessionId,
    SessionPorts,
    SessionState,
    SessionTable,
    StreamKey,
    is_label,
    new_label,
    new_session_id,
)

PORTS = range(48010, 48013)
OWN = range(48074, 48080)
REST_S = 60.0
HOME = "192.0.2.1"


def table(*sessions: object) -> SessionTable:
    made = SessionTable(PortRules(PORTS, OWN, REST_S))
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
    assert sessions.remove(first.id, 0.0) is first
    assert sessions.remove(first.id, 0.0) is None
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
        sessions.remove(one.id, 0.0)
    assert len(sessions) == 0


def rtsp_port(sessions: SessionTable, client: str, address: str = HOME, now: float = 0.0) -> int:
    return sessions.choose_ports(ClientId(client), address, now, own_udp=False).rtsp


def test_the_first_port_is_shared_by_clients_of_different_addresses() -> None:
    sessions = table(session("a", address=HOME))
    assert rtsp_port(sessions, "b", "192.0.2.2") == 48010


def test_a_second_session_of_an_address_gets_a_port_of_its_own() -> None:
    sessions = table(session("a"), session("b", port=48011))
    assert rtsp_port(sessions, "c") == 48012


@pytest.mark.parametrize("state", [SessionState.STREAMING, SessionState.PAUSED])
def test_a_port_rests_after_its_handshake_and_is_free_for_others_then(state: SessionState) -> None:
    one = session("a")
    sessions = table(one)
    sessions.move(one, state, 100.0)
    assert rtsp_port(sessions, "b", now=100.0 + REST_S - 0.1) == 48011
    assert rtsp_port(sessions, "b", now=100.0 + REST_S) == 48010


def test_a_port_rests_after_its_session_has_ended_too() -> None:
    one = session("a")
    sessions = table(one)
    sessions.remove(one.id, 100.0)
    assert rtsp_port(sessions, "b", now=101.0) == 48011
    assert rtsp_port(sessions, "b", now=100.0 + REST_S) == 48010


def test_a_client_may_have_its_own_port_again_at_once() -> None:
    one = session("a")
    sessions = table(one)
    assert rtsp_port(sessions, one.client) == 48010
    sessions.remove(one.id, 100.0)
    assert rtsp_port(sessions, one.client, now=101.0) == 48010


def test_a_port_that_another_has_by_now_is_not_freed_by_its_former_user() -> None:
    one, two = session("a"), session("b")
    sessions = table(one)
    sessions.move(one, SessionState.STREAMING, 0.0)
    two.rtsp_port = rtsp_port(sessions, two.client, now=REST_S)
    sessions.add(two)
    sessions.remove(one.id, REST_S + 1)
    assert two.rtsp_port == 48010
    assert rtsp_port(sessions, "c", now=3 * REST_S) == 48011


def test_a_resumed_session_awaits_its_handshake_at_its_new_port_and_the_old_one_rests() -> None:
    one = session("a")
    sessions = table(one)
    sessions.await_handshake(one, "192.0.2.2", SessionPorts(48012), 50.0)
    assert (one.client_address, one.rtsp_port) == ("192.0.2.2", 48012)
    assert (one.state, one.since) == (SessionState.LAUNCHED, 50.0)
    assert rtsp_port(sessions, "b", now=51.0) == 48011
    assert rtsp_port(sessions, "b", "192.0.2.2", now=51.0) == 48010
    assert rtsp_port(sessions, "b", now=50.0 + REST_S) == 48010


def test_an_address_with_a_session_on_every_port_gets_no_more() -> None:
    sessions = table(*(session(f"s{port}", port=port) for port in PORTS))
    with pytest.raises(LookupError, match="of 3 ports are free"):
        rtsp_port(sessions, "new")


def test_a_client_known_by_nothing_else_has_a_port_for_each_flow() -> None:
    sessions = table()
    own = sessions.choose_ports(ClientId("a"), HOME, 0.0, own_udp=True).own_udp
    assert own.keys() == set(Flow)
    assert set(own.values()) == {48074, 48075, 48076}
    one = session("a")
    one.own_udp_ports = own
    sessions.add(one)
    sessions.move(one, SessionState.STREAMING, 1.0)
    other = sessions.choose_ports(ClientId("b"), HOME, 10 * REST_S, own_udp=True).own_udp
    assert set(other.values()) == {48077, 48078, 48079}


def test_with_no_port_left_for_its_flows_a_client_shares_those_of_all() -> None:
    sessions = SessionTable(PortRules(PORTS, range(48074, 48076), REST_S))
    assert sessions.choose_ports(ClientId("a"), HOME, 0.0, own_udp=True) == SessionPorts(48010)


def test_own_udp_ports_rest_after_a_pause_and_are_held_while_streaming() -> None:
    sessions = SessionTable(PortRules(PORTS, range(48074, 48077), REST_S))
    one = session("a")
    one.own_udp_ports = sessions.choose_ports(one.client, HOME, 0.0, own_udp=True).own_udp
    sessions.add(one)
    sessions.move(one, SessionState.PAUSED, 5.0)
    choose = partial(sessions.choose_ports, ClientId("b"), HOME, own_udp=True)
    assert choose(now=5.0 + REST_S - 1).own_udp == {}
    assert choose(now=5.0 + REST_S).own_udp == one.own_udp_ports


def test_a_handshake_that_goes_on_after_a_pause_has_its_own_udp_ports_again() -> None:
    sessions = SessionTable(PortRules(PORTS, range(48074, 48077), REST_S))
    one = session("a")
    one.own_udp_ports = sessions.choose_ports(one.client, HOME, 0.0, own_udp=True).own_udp
    sessions.add(one)
    sessions.move(one, SessionState.PAUSED, 5.0)
    sessions.set_up(one)
    choose = partial(sessions.choose_ports, ClientId("b"), HOME, own_udp=True)
    assert choose(now=6.0 + REST_S).own_udp == {}
    sessions.move(one, SessionState.STREAMING, 10.0)
    sessions.set_up(one)
    assert choose(now=11.0 + REST_S).own_udp == {}
    sessions.remove(one.id, 20.0)
    assert choose(now=20.0 + REST_S).own_udp == one.own_udp_ports


def test_own_udp_ports_that_have_become_anothers_are_lost() -> None:
    sessions = SessionTable(PortRules(PORTS, range(48074, 48077), REST_S))
    one, two = session("a"), session("b")
    one.own_udp_ports = sessions.choose_ports(one.client, HOME, 0.0, own_udp=True).own_udp
    sessions.add(one)
    sessions.move(one, SessionState.PAUSED, 0.0)
    two.own_udp_ports = sessions.choose_ports(two.client, HOME, REST_S, own_udp=True).own_udp
    sessions.add(two)
    sessions.set_up(one)
    assert one.own_udp_ports == {}
    sessions.set_up(two)
    assert set(two.own_udp_ports.values()) == {48074, 48075, 48076}


@pytest.mark.parametrize("state", [SessionState.STREAMING, SessionState.PAUSED])
def test_the_ports_of_a_restored_session_rest_as_if_no_edge_had_ended(state: SessionState) -> None:
    one = session("a", state=state, since=100.0)
    one.own_udp_ports = dict(zip(Flow, OWN, strict=False))
    sessions = table(one)
    choose = partial(sessions.choose_ports, ClientId("b"), HOME, own_udp=True)
    assert choose(now=99.0 + REST_S).rtsp == 48011
    assert not set(choose(now=99.0 + REST_S).own_udp.values()) & set(one.own_udp_ports.values())
    assert choose(now=100.0 + REST_S).rtsp == 48010
    still_its = choose(now=100.0 + REST_S).own_udp != one.own_udp_ports
    assert still_its is (state is SessionState.STREAMING)


@pytest.mark.parametrize("paused_first", [False, True])
def test_a_restored_session_takes_no_port_from_the_one_that_was_told_it_since(
    paused_first: bool,
) -> None:
    paused = session("a", state=SessionState.PAUSED)
    streams = session("b", state=SessionState.STREAMING)
    paused.own_udp_ports = dict(zip(Flow, OWN, strict=False))
    streams.own_udp_ports = dict(paused.own_udp_ports)
    sessions = table(*((paused, streams) if paused_first else (streams, paused)))
    told = sessions.choose_ports(ClientId("c"), HOME, 10 * REST_S, own_udp=True)
    assert set(told.own_udp.values()) == {48077, 48078, 48079}
    sessions.set_up(streams)
    assert streams.own_udp_ports


def test_two_restored_sessions_on_one_port_do_not_free_it_for_each_other() -> None:
    one, two = session("a"), session("b")
    sessions = table(one, two)
    sessions.remove(one.id, 0.0)
    assert rtsp_port(sessions, "c", now=2 * REST_S) == 48011
    sessions.remove(two.id, 2 * REST_S)
    assert rtsp_port(sessions, "c", now=4 * REST_S) == 48010


def test_what_has_rested_is_forgotten() -> None:
    pool = PortPool(PORTS, REST_S)
    for number in range(100):
        (port,) = pool.choose(f"192.0.2.{number}", ClientId("a"), 0.0)
        pool.hold(f"192.0.2.{number}", ClientId("a"), [port])
        pool.rest(ClientId("a"), 1.0)
    assert len(pool) == 100
    pool.choose(HOME, ClientId("a"), 1 + REST_S)
    assert len(pool) == 0


def test_session_ids_cannot_be_guessed_and_fit_a_label() -> None:
    made = {new_session_id() for _ in range(100)}
    assert len(made) == 100
    assert all(len(one) == 24 and one.isalnum() for one in made)


def test_entering_a_state_anew_renews_its_time() -> None:
    one = session("a", since=1.0)
    table(one).move(one, SessionState.STREAMING, 5.0)
    assert (one.state, one.since) == (SessionState.STREAMING, 5.0)


def test_a_label_is_known_by_its_looks() -> None:
    assert is_label(new_label())
    assert not any(map(is_label, ["0.0.0.0", "", "play.example.org", "203.0.113.9", "a" * 21]))


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
