"""The catalogue: one app for each title, whatever hosts call it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.apps import (
    AppCatalogue,
    app_id,
    display_title,
    max_title_characters,
    normalise_title,
    titles_of,
)
from backends.model import AppOffer, Backend, BackendId


def backend(name: str, *apps: AppOffer) -> Backend:
    return Backend(
        BackendId(f"{name}/wolf"), name, "wolf", "wolf", "eu", None, None, apps, 0, 1, True, False
    )


ALPHA = backend("alpha", AppOffer("Desktop", 1), AppOffer("Steam", 2))
BETA = backend("beta", AppOffer("steam ", 9, hdr=True), AppOffer("Firefox", 5))
IDS = {"desktop": 10, "steam": 20, "firefox": 30}


def test_the_same_title_is_one_app() -> None:
    catalogue = AppCatalogue.merge([BETA, ALPHA], IDS)
    assert [(app.id, app.title, app.hdr) for app in catalogue.apps] == [
        (10, "Desktop", False),
        (30, "Firefox", False),
        (20, "Steam", True),
    ]
    steam = catalogue.by_id(20)
    assert steam is not None
    assert steam.offers == {"alpha/wolf": 2, "beta/wolf": 9}
    assert catalogue.by_id(11) is None


def test_the_order_in_which_backends_come_changes_nothing() -> None:
    assert AppCatalogue.merge([BETA, ALPHA], IDS) == AppCatalogue.merge([ALPHA, BETA], IDS)


def test_a_title_listed_twice_by_one_host_counts_once() -> None:
    catalogue = AppCatalogue.merge([backend("a", AppOffer("X", 1), AppOffer("x", 2))], {"x": 5})
    assert [dict(app.offers) for app in catalogue.apps] == [{"a/wolf": 1}]


def test_titles_without_an_id_are_left_out() -> None:
    assert AppCatalogue.merge([ALPHA], {"steam": 3}).apps[0].title == "Steam"
    assert titles_of([ALPHA, BETA, backend("c", AppOffer("\x07", 1))]) == set(IDS)


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
