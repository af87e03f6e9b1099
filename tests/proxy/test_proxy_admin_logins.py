from __future__ import annotations

from proxy.admin.denials import Denial
from proxy.admin.grants import Grant
from proxy.admin.logins import Logins
from proxy.admin.scopes import Scope, implied_by, in_order, known_scopes
from proxy.admin.used_once import UsedOnce

ANNA = Grant("anna", "1", frozenset({Scope.READ}))
BOB = Grant("bob", "2", frozenset({Scope.READ}))


def begun(logins: Logins, grant: Grant, now: float) -> str:
    login = logins.begin(grant, now)
    assert login is not None
    return login


def test_a_login_is_found_by_its_id_alone() -> None:
    logins = Logins()
    login = begun(logins, ANNA, 0)
    found = logins.find(login, 1)
    assert found is not None
    assert found.grant == ANNA
    assert logins.find(login + "x", 1) is None
    assert logins.find("", 1) is None
    assert login not in repr(found)
    assert login not in str(vars(logins))


def test_a_login_that_is_used_lasts_for_twelve_hours() -> None:
    logins = Logins()
    login = begun(logins, ANNA, 0)
    for minutes in range(50, 720, 50):
        assert logins.find(login, minutes * 60) is not None
    assert logins.goes_on(login, 43_199)
    assert logins.find(login, 43_200) is None
    assert len(logins) == 0


def test_a_login_that_is_idle_lasts_for_an_hour() -> None:
    logins = Logins()
    login = begun(logins, ANNA, 0)
    # To ask whether it goes on is no use of it.
    assert logins.goes_on(login, 3_599)
    assert not logins.goes_on(login, 3_600)
    assert logins.find(login, 3_600) is None


def test_logins_end_by_themselves_and_all_of_a_token() -> None:
    logins = Logins()
    first, second, other = (begun(logins, grant, 0) for grant in (ANNA, ANNA, BOB))
    logins.end(first)
    logins.end(first)
    assert logins.find(first, 1) is None
    assert logins.find(second, 1) is not None
    logins.end_all_of("anna")
    assert logins.find(second, 1) is None
    assert logins.find(other, 1) is not None


def test_a_token_with_too_many_logins_loses_the_one_used_least_recently() -> None:
    logins = Logins(max_logins_per_token=2)
    first, second = begun(logins, ANNA, 0), begun(logins, ANNA, 1)
    assert logins.find(first, 2) is not None
    begun(logins, ANNA, 3)
    assert logins.find(second, 4) is None
    assert logins.find(first, 4) is not None


def test_the_table_is_bounded_and_nobody_loses_a_login_to_another() -> None:
    logins = Logins(max_logins=2)
    first = begun(logins, ANNA, 0)
    begun(logins, ANNA, 0)
    assert logins.begin(BOB, 1) is None
    assert logins.find(first, 2) is not None
    assert logins.begin(BOB, 3_600) is not None


def test_an_id_is_used_once() -> None:
    used = UsedOnce()
    assert used.take("a", expires_at=10, now=0) is None
    assert used.take("a", expires_at=10, now=0) is Denial.USED
    assert used.take("b", expires_at=10, now=0) is None


def test_a_full_table_refuses_until_ids_have_expired() -> None:
    used = UsedOnce(max_ids=2)
    used.take("a", expires_at=10, now=0)
    used.take("b", expires_at=20, now=0)
    assert used.take("c", expires_at=20, now=9) is Denial.NO_ROOM
    assert used.take("b", expires_at=20, now=9) is Denial.USED
    assert used.take("c", expires_at=20, now=10) is None
    assert len(used) == 2


def test_scopes_include_others_and_unknown_ones_are_none() -> None:
    assert implied_by({Scope.ADMIN}) == set(Scope)
    assert implied_by({Scope.OPERATE, Scope.PAIR}) == {Scope.READ, Scope.OPERATE, Scope.PAIR}
    assert implied_by({Scope.READ}) == {Scope.READ}
    assert known_scopes(["read", "fly", "READ"]) == {Scope.READ}
    assert in_order({Scope.ADMIN, Scope.READ}) == ["read", "admin"]
