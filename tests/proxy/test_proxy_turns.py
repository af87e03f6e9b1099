"""Turns at a host: one session's at a time, and nobody's for ever."""

from __future__ import annotations

from backends.model import BackendId
from proxy.sessions import SessionId
from proxy.turns import Turns

HERE, THERE = BackendId("a/wolf"), BackendId("b/wolf")
ONE, TWO = SessionId("one"), SessionId("two")


def test_a_turn_lasts_until_it_is_given_back() -> None:
    turns = Turns(max_turn_s=10)
    assert turns.take(HERE, ONE, now=0) == 0
    assert turns.take(HERE, TWO, now=4) == 10
    assert turns.take(THERE, TWO, now=4) == 4
    assert turns.give_back(HERE, ONE)
    assert turns.take(HERE, TWO, now=5) == 5


def test_a_client_that_never_comes_holds_the_others_up_for_so_long_and_no_longer() -> None:
    turns = Turns(max_turn_s=10)
    turns.take(HERE, ONE, now=0)
    assert turns.take(HERE, TWO, now=9.9) == 10
    assert turns.take(HERE, TWO, now=10) == 10
    assert turns.has(HERE, TWO, now=10)
    assert not turns.has(HERE, ONE, now=10)


def test_who_is_late_still_has_a_turn_that_nobody_else_wanted() -> None:
    turns = Turns(max_turn_s=10)
    turns.take(HERE, ONE, now=0)
    assert turns.has(HERE, ONE, now=25)


def test_nobody_can_give_back_the_turn_of_another() -> None:
    turns = Turns(max_turn_s=10)
    turns.take(HERE, ONE, now=0)
    assert not turns.give_back(HERE, TWO)
    assert not turns.give_back(THERE, ONE)
    assert turns.take(HERE, TWO, now=1) == 10


def test_a_session_that_starts_again_has_its_turn_anew() -> None:
    turns = Turns(max_turn_s=10)
    turns.take(HERE, ONE, now=0)
    assert turns.take(HERE, ONE, now=8) == 8
    assert turns.take(HERE, TWO, now=11) == 18


def test_after_a_restart_the_first_who_comes_has_the_turn() -> None:
    turns = Turns(max_turn_s=10)
    assert turns.has(HERE, ONE, now=0)
    assert not turns.has(HERE, TWO, now=1)
    assert len(turns) == 1
    turns.give_back(HERE, ONE)
    assert len(turns) == 0
