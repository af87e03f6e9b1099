"""Every origin has a source address of its own."""

from __future__ import annotations

from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent import addresses
from agent.addresses import NETWORK, SourceAddresses, first_choice
from revdial.errors import DialRefused


def address_of(table: SourceAddresses, origin: str) -> str:
    with table.lease(origin) as address:
        return address


@given(st.text(max_size=20))
def test_an_origin_has_the_same_address_each_time(origin: str) -> None:
    first = address_of(SourceAddresses(), origin)
    assert IPv4Address(first) in NETWORK
    assert address_of(SourceAddresses(), origin) == first


def test_two_origins_that_want_one_address_get_two(monkeypatch: pytest.MonkeyPatch) -> None:
    last = NETWORK.num_addresses - 1
    monkeypatch.setattr(addresses, "first_choice", lambda _origin: last)
    table = SourceAddresses()
    assert address_of(table, "a") == "127.127.255.255"
    assert address_of(table, "b") == "127.64.0.0"  # round to the beginning
    assert address_of(table, "a") == "127.127.255.255"


def test_the_longest_unused_is_forgotten_first() -> None:
    table = SourceAddresses(max_origins=2)
    with table.lease("held"):
        address_of(table, "idle")
        address_of(table, "newer")
        assert len(table) == 2
        with table.lease("newest"), pytest.raises(DialRefused) as caught, table.lease("too many"):
            pytest.fail("there was no room")
    assert caught.value.reason == "too_many_origins"


def test_using_an_address_again_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "first_choice", lambda _origin: 0)
    table = SourceAddresses(max_origins=2)
    for origin in ("a", "b", "a", "c"):
        address_of(table, origin)
    assert (address_of(table, "a"), address_of(table, "c")) == ("127.64.0.0", "127.64.0.1")


def test_a_lease_may_be_held_twice() -> None:
    table = SourceAddresses(max_origins=1)
    with table.lease("a") as first:
        with table.lease("a") as second:
            assert first == second
        with pytest.raises(DialRefused), table.lease("b"):
            pytest.fail("the first lease is still held")
    assert address_of(table, "b")


def test_origins_are_spread_over_the_network() -> None:
    choices = {first_choice(f"session-{number}") for number in range(1_000)}
    assert len(choices) > 990
    assert max(choices) - min(choices) > NETWORK.num_addresses * 0.9


class Leases(RuleBasedStateMachine):
    """Whatever comes and goes, no two live origins share an address."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SourceAddresses(max_origins=4)
        self.live: list[tuple[str, str, ExitStack]] = []

    @rule(origin=st.sampled_from("abcdef"))
    def take(self, origin: str) -> None:
        stack = ExitStack()
        try:
            address = stack.enter_context(self.table.lease(origin))
        except DialRefused:
            assert len({held for held, _, _ in self.live}) == 4
            return
        self.live.append((origin, address, stack))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.live) - 1))
        self.live.pop(position)[2].close()

    @invariant()
    def one_address_each(self) -> None:
        pairs = {(origin, address) for origin, address, _ in self.live}
        assert len(pairs) == len({origin for origin, _ in pairs})
        assert len(pairs) == len({address for _, address in pairs})
        assert len(self.table) <= 4

    def teardown(self) -> None:
        for _, _, stack in self.live:
            stack.close()


Leases.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLeases = Leases.TestCase
