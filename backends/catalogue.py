"""One list of apps out of many hosts': the same title is the same app, with one stable id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backends.apps import display_title
from backends.model import Backend, BackendId


@dataclass(frozen=True, slots=True)
class CatalogueApp:
    """An app as clients see it; `offers` holds each backend's own id for it."""

    id: int
    title: str
    hdr: bool
    offers: Mapping[BackendId, int]


def titles_of(backends: Iterable[Backend]) -> frozenset[str]:
    """Give the normalised titles on offer, for `Store.app_ids_for`."""
    return frozenset(title for backend in backends for title in backend.apps.titles)


@dataclass(frozen=True, slots=True)
class AppCatalogue:
    """The union of all backends' apps, sorted by title."""

    apps: tuple[CatalogueApp, ...]

    @classmethod
    def merge(cls, backends: Iterable[Backend], ids: Mapping[str, int]) -> AppCatalogue:
        """Build the catalogue; `ids` is by normalised title, as `Store.app_ids_for` gives it.

        A title without an id there is left out. The spelling shown is that of the backend with
        the lowest id, so that the list does not flicker as hosts come and go in some order. An
        app is marked HDR if any backend offers it so.
        """
        titles: dict[str, str] = {}
        hdr: dict[str, bool] = {}
        offers: dict[str, dict[BackendId, int]] = {}
        for backend in sorted(backends, key=lambda backend: backend.id):
            for key, app in backend.apps.items():
                if key not in ids:
                    continue
                titles.setdefault(key, display_title(app.title))
                hdr[key] = hdr.get(key, False) or app.hdr
                offers.setdefault(key, {})[backend.id] = app.id
        return cls(
            tuple(
                CatalogueApp(ids[key], titles[key], hdr[key], offers[key]) for key in sorted(titles)
            )
        )

    def by_id(self, wanted: int) -> CatalogueApp | None:
        """Find an app by the id that clients know."""
        return next((app for app in self.apps if app.id == wanted), None)
