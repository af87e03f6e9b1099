"""Session matching, right and wrong as real hosts do it; and the sessions it chooses from."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonlight.applist import App
from moonlight.http import Query
from moonlight.identity import ClientId
from moonlight.launch import LaunchRequest
from simulator.config import Traps
from simulator.ids import SessionId
from simulator.matching import Claim, match_connect, match_ping, match_rtsp
from simulator.sessions import HostFull, Session, SessionState, SessionTable

APP = App("Test ball", 1)
LAUNCH = LaunchRequest.parse(
    Query.of(("appid", "1"), ("mode", "640x360x60"), ("rikey", "00" * 16), ("rikeyid", "1")),
    resume=False,
)
WOLF, OLD, NONE = Traps.wolf_2026(), Traps.wolf_2024(), Traps.none()


def claim(number: int, address: str = "10.0.0.1", *, played: bool = False) -> Claim:
    return Claim(
        SessionId(number), address, f"1.1.1.{number}", f"payload-{number:08d}", number, played
    )


CLAIMS = (claim(1), claim(2), claim(3, "10.0.0.3"))


def test_the_name_in_rtsp_finds_its_session_from_any_address() -> None:
    assert match_rtsp(CLAIMS, host="1.1.1.2", source="10.9.9.9", traps=WOLF) == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "9.9.9.9", ""])
@pytest.mark.parametrize("traps", [WOLF, OLD])
def test_without_a_name_wolf_takes_the_first_session_of_that_address(
    host: str, traps: Traps
) -> None:
    assert match_rtsp(CLAIMS, host=host, source="10.0.0.1", traps=traps) == 1
    assert match_rtsp(CLAIMS, host=host, source="10.0.0.3", traps=traps) == 3
    assert match_rtsp(CLAIMS, host=host, source="10.0.0.9", traps=traps) is None


def test_an_older_wolf_does_not_look_at_the_name() -> None:
    assert match_rtsp(CLAIMS, host="1.1.1.2", source="10.0.0.1", traps=OLD) == 1


def test_a_better_host_takes_the_latest_launch_that_was_not_played_yet() -> None:
    claims = (claim(1), claim(2), claim(3, played=True))
    assert match_rtsp(claims, host="0.0.0.0", source="10.0.0.1", traps=NONE) == 2
    played = tuple(replace(one, played=True) for one in claims)
    assert match_rtsp(played, host="0.0.0.0", source="10.0.0.1", traps=NONE) == 3


def test_a_ping_with_a_payload_finds_its_session_and_no_other() -> None:
    payload = CLAIMS[1].ping_payload
    assert match_ping(CLAIMS, payload=payload, source="10.9.9.9", traps=WOLF) == 2
    assert match_ping(CLAIMS, payload="payload-of-nobody", source="10.0.0.1", traps=WOLF) is None


def test_a_ping_without_a_payload_is_known_by_its_address() -> None:
    assert match_ping(CLAIMS, payload=None, source="10.0.0.3", traps=WOLF) == 3
    payload = CLAIMS[1].ping_payload
    assert match_ping(CLAIMS, payload=payload, source="10.0.0.1", traps=OLD) == 1


def test_connect_data_finds_its_session_and_0_is_known_by_its_address() -> None:
    assert match_connect(CLAIMS, data=2, source="10.9.9.9", traps=WOLF) == 2
    assert match_connect(CLAIMS, data=77, source="10.0.0.1", traps=WOLF) is None
    assert match_connect(CLAIMS, data=0, source="10.0.0.3", traps=WOLF) == 3
    assert match_connect(CLAIMS, data=2, source="10.0.0.1", traps=OLD) == 1


traps_of_all_kinds = st.builds(
    Traps, fake_address=st.booleans(), first_from_source=st.booleans(), ping_payloads=st.booleans()
)
addresses = st.sampled_from(["10.0.0.1", "10.0.0.2"])


@settings(max_examples=150)
@given(
    owners=st.lists(st.tuples(addresses, st.booleans()), max_size=5),
    host=st.sampled_from(["0.0.0.0", "1.1.1.1", "1.1.1.4"]),
    source=addresses,
    traps=traps_of_all_kinds,
)
def test_rtsp_never_reaches_another_address_without_the_name(
    owners: list[tuple[str, bool]], host: str, source: str, traps: Traps
) -> None:
    claims = [claim(n, address, played=played) for n, (address, played) in enumerate(owners, 1)]
    session = match_rtsp(claims, host=host, source=source, traps=traps)
    if session is None:
        assert all(one.client_address != source for one in claims)
        return
    found = claims[session - 1]
    assert found.client_address == source or (traps.fake_address and found.rtsp_host == host)


def table(traps: Traps = WOLF, max_sessions: int = 4) -> SessionTable:
    return SessionTable(traps, own_host="127.0.0.9", max_sessions=max_sessions)


def launch(sessions: SessionTable, client: str = "alice") -> Session:
    return sessions.launch(ClientId(client), "10.0.0.1", APP, LAUNCH)


def test_every_launch_and_resume_has_a_new_address_payload_and_connect_data() -> None:
    sessions = table()
    session = launch(sessions)
    seen = set()
    for _ in range(20):
        ipaddress.IPv4Address(session.rtsp_host)
        seen.add((session.rtsp_host, session.ping_payload, session.connect_data))
        sessions.resume(session, "10.0.0.2", LAUNCH)
    assert len(seen) == 20
    assert session.client_address == "10.0.0.2"
    assert session.state is SessionState.LAUNCHED


def test_made_up_addresses_may_be_multicast_or_reserved_but_not_all_zeros_nor_taken() -> None:
    multicast, reserved = bytes([224, 0, 0, 1]), bytes([255, 0, 0, 1])
    connect_data = bytes([1, 2, 3, 4])
    drawn = iter([bytes(4), multicast, connect_data, multicast, reserved, connect_data])
    sessions = SessionTable(
        WOLF,
        own_host="x",
        max_sessions=4,
        random_bytes=lambda count: next(drawn) if count == 4 else bytes(count),
    )
    assert launch(sessions).rtsp_host == "224.0.0.1"
    assert launch(sessions, "bob").rtsp_host == "255.0.0.1"


def test_a_host_without_payloads_hands_out_none_and_names_itself() -> None:
    session = launch(table(OLD))
    assert (session.ping_payload, session.connect_data) == (None, None)
    assert session.rtsp_host == "127.0.0.9"


def test_a_full_host_launches_nothing_more() -> None:
    sessions = table(max_sessions=1)
    first = launch(sessions)
    with pytest.raises(HostFull):
        launch(sessions, "bob")
    assert sessions.end(first.id) is first
    assert sessions.end(first.id) is None
    assert launch(sessions, "bob").id != first.id


def test_sessions_keep_the_order_of_their_launch_through_a_resume() -> None:
    sessions = table()
    first, second = launch(sessions), launch(sessions, "bob")
    sessions.resume(first, "10.0.0.1", LAUNCH)
    assert [one.session for one in sessions.claims()] == [first.id, second.id]
    assert sessions.of_client(ClientId("bob")) is second
    assert sessions.of_client(ClientId("carol")) is None


def test_no_secret_shows_in_a_session() -> None:
    session = launch(table())
    shown = repr(session) + repr(session.claim)
    assert session.ping_payload is not None
    assert session.ping_payload not in shown
    assert str(session.connect_data) not in shown
