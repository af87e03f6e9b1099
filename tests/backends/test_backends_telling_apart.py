"""What a host has shown decides whether its sessions can be told apart."""

from __future__ import annotations

import pytest

from backends.telling_apart import Seen, Telling, telling

WOLF_2024 = Seen().launched("10.0.0.5").set_up(secret=False)
WOLF_2026 = Seen().launched("7.7.7.7").set_up(secret=True).launched("9.9.9.9")
BETWEEN = Seen().launched("10.0.0.5").set_up(secret=True).launched("10.0.0.5")
"""Secrets for the media, and nothing to know RTSP by."""


@pytest.mark.parametrize("seen", [Seen(), WOLF_2024, WOLF_2026, BETWEEN])
def test_addresses_of_their_own_are_enough_whatever_a_wolf_does(seen: Seen) -> None:
    assert telling("wolf", seen, own_addresses=True) is Telling.APART
    assert telling("wolf", seen, own_addresses=True, by_address=True) is Telling.APART


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen(), Telling.IN_TURN),
        (Seen().launched("7.7.7.7"), Telling.IN_TURN),
        (Seen().launched("7.7.7.7").set_up(secret=True), Telling.IN_TURN),
        (Seen().launched("7.7.7.7").launched("9.9.9.9"), Telling.IN_TURN),
        (WOLF_2026, Telling.APART),
        (WOLF_2024, Telling.ALONE),
        (BETWEEN, Telling.ALONE),
        (WOLF_2026.set_up(secret=False), Telling.ALONE),
    ],
)
def test_at_one_address_a_host_has_to_show_that_it_knows_sessions_by_something_else(
    seen: Seen, expected: Telling
) -> None:
    assert telling("wolf", seen, own_addresses=False) is expected


def test_an_operators_word_spares_finding_out() -> None:
    assert telling("wolf", Seen(), own_addresses=False, by_address=True) is Telling.ALONE


def test_a_wolf_that_was_replaced_by_a_newer_one_is_known_anew() -> None:
    seen = WOLF_2024.launched("7.7.7.7").set_up(secret=True)
    assert telling("wolf", seen, own_addresses=False) is Telling.APART


@pytest.mark.parametrize("own_addresses", [True, False])
def test_a_host_with_one_pending_launch_needs_turns_at_any_address(own_addresses: bool) -> None:
    assert telling("sunshine", Seen(), own_addresses=own_addresses) is Telling.IN_TURN
    assert telling("sunshine", BETWEEN, own_addresses=own_addresses) is Telling.IN_TURN


def test_one_that_gives_no_secrets_has_one_session_at_one_address() -> None:
    assert telling("sunshine", WOLF_2024, own_addresses=False) is Telling.ALONE
    assert telling("sunshine", WOLF_2024, own_addresses=True) is Telling.IN_TURN


def test_a_hosts_name_for_a_session_is_in_no_repr() -> None:
    assert "7.7.7.7" not in repr(Seen().launched("7.7.7.7"))
