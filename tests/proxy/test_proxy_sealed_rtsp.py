from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy_fakes import RIKEY, session

from moonlight.errors import AuthenticationFailed
from moonlight.launch import RtspUrl
from moonlight.rtsp_encryption import SealedMessage, SealedReader, seal, unseal
from proxy.matching import RtspOrigin
from proxy.sealed_rtsp import (
    Exchange,
    Opened,
    SealRefusal,
    max_keys_tried,
    open_answer,
    open_sealed,
)
from proxy.sessions import Session, SessionState, StreamKey

HOME, AWAY = "192.0.2.1", "198.51.100.7"


def read(data: bytes) -> SealedMessage:
    reader = SealedReader()
    reader.receive(data)
    message = reader.next()
    assert message is not None
    return message


def sealed(key: str, number: int = 1, plain: bytes = b"PLAY") -> SealedMessage:
    return read(seal(bytes.fromhex(key), "client", number, plain))


def encrypted(name: str, rikey: str = RIKEY, address: str = HOME, port: int = 48010) -> Session:
    return session(name, rikey=rikey, address=address, port=port, rtsp_encrypted=True)


def key_of(number: int) -> str:
    return f"{number:032x}"


def at(port: int = 48010, address: str = HOME) -> RtspOrigin:
    return RtspOrigin(port, address, "")


def test_the_key_tells_sessions_of_one_address_and_port_apart() -> None:
    sessions = [encrypted(f"s{number}", key_of(number)) for number in range(5)]
    for number, one in enumerate(sessions):
        opened = open_sealed(sealed(key_of(number)), at(), sessions)
        assert opened == Opened(one, b"PLAY")


def test_a_client_whose_address_changed_since_its_launch_is_known_by_its_key() -> None:
    mine = encrypted("mine", key_of(1))
    opened = open_sealed(sealed(key_of(1)), at(address=AWAY), [encrypted("a", key_of(2)), mine])
    assert opened == Opened(mine, b"PLAY")


def test_who_has_no_key_at_that_port_is_nobody() -> None:
    there, elsewhere = encrypted("a", key_of(1)), encrypted("b", key_of(2), port=48011)
    for message in (sealed(key_of(2)), sealed(key_of(3))):
        assert open_sealed(message, at(), [there, elsewhere]) is SealRefusal.WRONG_TAG


def test_what_came_before_is_refused_until_the_key_changes() -> None:
    one = encrypted("a")
    one.rtsp_sequence = 7
    for number in (0, 1, 7):
        assert open_sealed(sealed(RIKEY, number), at(), [one]) is SealRefusal.REPLAY
    assert isinstance(open_sealed(sealed(RIKEY, 8), at(), [one]), Opened)
    assert one.rtsp_sequence == 7, "whoever goes on with the message notes it"

    one.take_key(StreamKey(bytes.fromhex(key_of(9)), 1), corever=1, rtsp_encrypted=True)
    assert open_sealed(sealed(RIKEY, 8), at(), [one]) is SealRefusal.WRONG_TAG
    assert isinstance(open_sealed(sealed(key_of(9), 1), at(), [one]), Opened)


def test_what_the_edge_itself_has_sealed_is_not_taken_for_a_clients_or_a_hosts() -> None:
    one = encrypted("a")
    exchange = Exchange.of(one, 3)
    to_host, to_client = exchange.seal("client", b"PLAY"), exchange.seal("host", b"200")
    assert open_sealed(read(to_host), at(), [one]) is SealRefusal.OWN_NUMBER
    with pytest.raises(AuthenticationFailed) as caught:
        open_answer(exchange, read(to_client))
    assert caught.value.reason == SealRefusal.OWN_NUMBER


def test_answers_of_a_host_rise() -> None:
    exchange = Exchange.of(encrypted("a"), 3)
    exchange.session.host_rtsp_sequence = 4
    assert open_answer(exchange, read(seal(exchange.key.rikey, "host", 5, b"200"))) == b"200"
    with pytest.raises(AuthenticationFailed) as caught:
        open_answer(exchange, read(seal(exchange.key.rikey, "host", 4, b"200")))
    assert caught.value.reason == "rtsp_replay"


def test_a_sealed_message_of_a_session_that_was_told_plain_rtsp_is_refused_as_such() -> None:
    plain = session("a", rikey=RIKEY)
    assert open_sealed(sealed(RIKEY), at(), [plain]) is SealRefusal.UNASKED


def test_only_so_many_keys_are_tried_the_likeliest_first() -> None:
    crowd = [encrypted(f"s{number}", key_of(number), AWAY) for number in range(max_keys_tried)]
    mine = encrypted("mine", RIKEY)
    mine.since = -5.0
    assert open_sealed(sealed(RIKEY), at(), [*crowd, mine]) == Opened(mine, b"PLAY")
    mine.client_address = AWAY
    assert open_sealed(sealed(RIKEY), at(), [*crowd, mine]) is SealRefusal.WRONG_TAG
    crowd[3].state = SessionState.STREAMING
    assert open_sealed(sealed(RIKEY), at(), [*crowd, mine]) == Opened(mine, b"PLAY")
    mine.rtsp_encrypted = False
    assert open_sealed(sealed(RIKEY), at(), [*crowd, mine]) is SealRefusal.WRONG_TAG


@given(st.data())
def test_no_message_is_ever_opened_for_another_session(data: st.DataObject) -> None:
    names = st.integers(0, 7)
    sessions = [
        session(
            f"s{number}",
            rikey=key_of(number),
            address=data.draw(st.sampled_from((HOME, AWAY))),
            port=data.draw(st.sampled_from((48010, 48011))),
            state=data.draw(st.sampled_from(SessionState)),
            rtsp_encrypted=data.draw(st.booleans()),
        )
        for number in range(data.draw(names))
    ]
    sender = data.draw(names)
    port = data.draw(st.sampled_from((48010, 48011)))
    found = open_sealed(sealed(key_of(sender)), at(port), sessions)
    mine = [one for one in sessions if one.id == f"s{sender}" and one.rtsp_port == port]
    if not mine:
        assert found is SealRefusal.WRONG_TAG
    elif not mine[0].rtsp_encrypted:
        assert found is SealRefusal.UNASKED
    else:
        assert found == Opened(mine[0], b"PLAY")


@given(st.lists(st.integers(1, 2**31 - 1), min_size=2, unique=True).map(sorted))
def test_the_edge_never_uses_a_number_that_its_client_or_a_host_uses(numbers: list[int]) -> None:
    """All four seal under one key, and what the edge says differs from what it was told."""
    one = encrypted("a")
    own = [Exchange.of(one, number).sequence for number in numbers]
    assert own == sorted(set(own))
    assert min(own) >= 2**31
    assert all(number <= 2**32 - 1 for number in own)


def test_an_exchange_keeps_the_key_that_it_began_with() -> None:
    one = encrypted("a")
    exchange = Exchange.of(one, 3)
    assert not exchange.is_over
    one.take_key(StreamKey(bytes.fromhex(key_of(9)), 1), corever=1, rtsp_encrypted=True)
    assert exchange.is_over
    answer = read(exchange.seal("host", b"200"))
    assert unseal(bytes.fromhex(RIKEY), "host", answer) == b"200"


def test_an_exchange_is_over_when_the_host_named_another_url() -> None:
    one = encrypted("a")
    exchange = Exchange.of(one, 3)
    one.host_rtsp = RtspUrl(False, "203.0.113.77", 1)
    assert exchange.is_over


@pytest.mark.parametrize("value", [Opened(encrypted("a"), b"PLAY"), Exchange.of(encrypted("a"), 1)])
def test_no_key_is_shown(value: object) -> None:
    shown = repr(value)
    assert "PLAY" not in shown
    assert RIKEY not in shown
    assert repr(bytes.fromhex(RIKEY)) not in shown
