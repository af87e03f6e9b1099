"""Apps by title: what makes two one, their ids for ever, and what a host offers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.apps import (
    AppOffer,
    AppOffers,
    app_id,
    display_title,
    max_title_characters,
    normalise_title,
)

STEAM, DESKTOP = AppOffer("Steam", 2, hdr=True), AppOffer("Desktop", 1)


def test_a_hosts_apps_are_found_by_title() -> None:
    offers = AppOffers([STEAM, DESKTOP])
    assert offers.get("steam") == STEAM
    assert offers.get("Steam") is None
    assert offers.titles == {"steam", "desktop"}
    assert dict(offers.items()) == {"steam": STEAM, "desktop": DESKTOP}
    assert (list(offers), len(offers)) == ([STEAM, DESKTOP], 2)


def test_of_a_title_listed_twice_the_first_counts_and_of_none_nothing() -> None:
    offers = AppOffers([STEAM, AppOffer("STEAM ", 9), AppOffer("\x07", 3)])
    assert dict(offers.items()) == {"steam": STEAM}
    assert len(offers) == 3


def test_hosts_with_the_same_offers_have_equal_apps() -> None:
    one, same, other = AppOffers([STEAM]), AppOffers((STEAM,)), AppOffers([DESKTOP])
    assert one == same
    assert hash(one) == hash(same)
    assert one not in (other, AppOffers(), (STEAM,))
    assert repr(one) == f"AppOffers(({STEAM!r},))"


@pytest.mark.parametrize(
    "title", ["Half-Life 2", " half-life  2", "HALF-LIFE\t2", "half-life \N{FULLWIDTH DIGIT TWO}"]
)
def test_spellings_of_one_title(title: str) -> None:
    assert normalise_title(title) == "half-life 2"


def test_ids_are_the_same_for_ever() -> None:
    # Clients remember these numbers: they must not change between versions.
    assert app_id("Desktop") == app_id(" DESKTOP") == 1751727362
    assert app_id("Desktop", 1) == 1318436843


@given(st.text(), st.integers(0, 5))
def test_ids_fit_what_clients_can_hold(title: str, attempt: int) -> None:
    assert 0 < app_id(title, attempt) < 2**31


@given(st.text(max_size=300))
def test_titles_are_safe_to_show_and_stable(title: str) -> None:
    shown = display_title(title)
    assert shown.isprintable()
    assert len(shown) <= max_title_characters
    assert display_title(shown) == shown
    key = normalise_title(title)
    assert normalise_title(shown) == key
    assert bool(key) == bool(shown)


@given(st.text(max_size=60))
def test_case_does_not_matter(title: str) -> None:
    assert normalise_title(normalise_title(title)) == normalise_title(title)


def test_one_hash_in_four_thousand_million_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.apps._MAX_ID", 0)
    assert app_id("Desktop") == 1
