from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlight.enet import CommandKind, EnetCommand, SendFragment, SendReliable, SendUnreliable
from moonlight.enet_channel import MAX_SEQUENCES_AHEAD, IncomingChannel, UnsequencedWindow
from moonlight.errors import Malformed, ProtocolError, TooLarge


def channel(held: int = 1000) -> IncomingChannel:
    return IncomingChannel(max_message_bytes=500, max_held_bytes=held)


def reliable(sequence: int, payload: bytes = b"x") -> EnetCommand:
    return EnetCommand(
        CommandKind.SEND_RELIABLE, 0x80, 0, sequence & 0xFFFF, SendReliable(), payload
    )


def fragment(
    start: int, count: int, number: int, total: int, offset: int, payload: bytes
) -> EnetCommand:
    body = SendFragment(start, count, number, total, offset)
    return EnetCommand(CommandKind.SEND_FRAGMENT, 0x80, 0, start + number, body, payload)


def loose(after: int, start: int, number: int, payload: bytes, total: int = 4) -> EnetCommand:
    body = SendFragment(start, 2, number, total, number * 2)
    return EnetCommand(CommandKind.SEND_UNRELIABLE_FRAGMENT, 0, 0, after, body, payload)


@given(st.permutations(range(1, 9)))
def test_messages_come_out_in_order(order: list[int]) -> None:
    receiver, got = channel(), []
    for sequence in order:
        got += receiver.receive(reliable(sequence, bytes([sequence])))
    assert got == [bytes([n]) for n in range(1, 9)]
    assert receiver._held_bytes == 0


@given(st.permutations(range(4)))
def test_fragments_make_one_message_that_takes_all_their_numbers(order: list[int]) -> None:
    receiver, got = channel(), []
    pieces = [fragment(1, 3, n, 5, n * 2, b"abcde"[n * 2 : n * 2 + 2]) for n in range(3)]
    commands = [*pieces, reliable(4, b"next")]
    for index in order:
        got += receiver.receive(commands[index])
        got += receiver.receive(commands[index])
    assert got == [b"abcde", b"next"]
    assert receiver._held_bytes == 0


def test_numbers_wrap() -> None:
    receiver = channel()
    receiver._reliable = 0xFFFE
    assert receiver.receive(reliable(0)) == []
    assert receiver.receive(reliable(1)) == []
    assert receiver.receive(reliable(0xFFFF)) == [b"x", b"x", b"x"]
    assert receiver.receive(reliable(0xFFFF)) == []


def test_what_is_old_or_too_far_ahead_is_taken_for_old() -> None:
    receiver = channel()
    for sequence in (0, 0xFFFF, MAX_SEQUENCES_AHEAD):
        assert receiver.receive(reliable(sequence)) == []
    assert not receiver._held


def test_what_is_held_has_a_limit() -> None:
    receiver = channel(held=10)
    receiver.receive(reliable(2, bytes(6)))
    with pytest.raises(TooLarge):
        receiver.receive(reliable(3, bytes(5)))
    assert receiver.receive(reliable(1, bytes(4))) == [bytes(4), bytes(6)]
    assert len(receiver.receive(reliable(3, bytes(10)))) == 1


@pytest.mark.parametrize(
    "bad",
    [
        fragment(1, 2, 2, 4, 0, b"ab"),
        fragment(1, 5, 0, 4, 0, b"ab"),
        fragment(1, 2, 0, 4, 3, b"ab"),
        fragment(1, 2, 0, 4, 9, b"ab"),
        fragment(1, 2, 0, 4, 0, b""),
    ],
)
def test_impossible_fragments_are_refused(bad: EnetCommand) -> None:
    with pytest.raises(Malformed):
        channel().receive(bad)


def test_long_messages_and_disagreement_are_refused() -> None:
    receiver = channel()
    with pytest.raises(TooLarge):
        receiver.receive(fragment(1, 2, 0, 501, 0, b"ab"))
    receiver.receive(fragment(1, 2, 0, 4, 0, b"ab"))
    with pytest.raises(Malformed):
        receiver.receive(fragment(1, 2, 1, 5, 2, b"cd"))
    assert receiver.receive(fragment(1, 2, 1, 4, 2, b"cd")) == [b"abcd"]


def test_messages_that_claim_numbers_inside_of_another_vanish_with_it() -> None:
    receiver = channel()
    receiver.receive(reliable(2, b"inside"))
    receiver.receive(fragment(1, 2, 0, 4, 0, b"ab"))
    assert receiver.receive(fragment(1, 2, 1, 4, 2, b"cd")) == [b"abcd"]
    assert receiver._held_bytes == 0


def unreliable(after: int, sequence: int) -> EnetCommand:
    return EnetCommand(
        CommandKind.SEND_UNRELIABLE, 0, 0, after, SendUnreliable(sequence), bytes([sequence])
    )


def test_unreliable_messages_never_go_back() -> None:
    receiver = channel()
    got = [receiver.receive(unreliable(0, n)) for n in (1, 3, 2, 3, 4)]
    assert got == [[b"\1"], [b"\3"], [], [], [b"\4"]]
    assert receiver.receive(unreliable(1, 1)) == []
    receiver.receive(reliable(1))
    assert receiver.receive(unreliable(1, 1)) == [b"\1"]
    assert receiver.receive(unreliable(0, 9)) == []


def test_unreliable_fragments_make_a_message_unless_a_newer_one_begins() -> None:
    receiver = channel()
    assert receiver.receive(loose(0, 1, 0, b"ab")) == []
    with pytest.raises(Malformed):
        receiver.receive(loose(0, 1, 1, b"cd", total=5))
    assert receiver.receive(loose(0, 1, 1, b"cd")) == [b"abcd"]
    assert receiver.receive(loose(0, 1, 1, b"cd")) == []
    assert receiver.receive(loose(1, 2, 1, b"cd")) == []
    receiver.receive(loose(0, 2, 0, b"ab"))
    receiver.receive(loose(0, 3, 0, b"ef"))
    assert receiver.receive(loose(0, 3, 1, b"gh")) == [b"efgh"]
    assert receiver.receive(loose(0, 2, 1, b"cd")) == []


def test_unsequenced_groups_are_seen_once() -> None:
    window = UnsequencedWindow()
    assert [window.is_new(n) for n in (5, 5, 4, 1024, 1024, 5, 0xFFFF)] == [
        *(True, False, True, True, False, False, False)
    ]


SMALL = st.integers(0, 6)
COMMANDS = st.one_of(
    st.builds(reliable, SMALL, st.binary(max_size=8)),
    st.builds(fragment, SMALL, SMALL, SMALL, SMALL, SMALL, st.binary(max_size=4)),
    st.builds(loose, SMALL, SMALL, SMALL, st.binary(max_size=4), SMALL),
    st.builds(unreliable, SMALL, SMALL),
)


@given(st.lists(COMMANDS, max_size=30))
def test_any_commands_are_taken_or_a_protocol_error(commands: list[EnetCommand]) -> None:
    receiver = channel(held=40)
    for command in commands:
        try:
            receiver.receive(command)
        except ProtocolError:
            continue
        held = sum(len(message.data) for message in receiver._held.values())
        assert held == receiver._held_bytes <= 40
