"""The catalogue: one app for each title, whatever hosts call it."""

from __future__ import annotations

from backends.apps import AppOffer
from backends.catalogue import AppCatalogue, titles_of
from backends.model import Backend
from tests.backends import backends_made


def backend(name: str, *apps: AppOffer) -> Backend:
    return backends_made.backend(name, apps=apps)


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
