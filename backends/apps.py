"""One list of apps out of many hosts': the same title is the same app, with one stable id."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backends.model import Backend, BackendId

max_title_characters = 120
_MAX_ID = 0x7FFF_FFFF


def display_title(title: str) -> str:
    """Make a title that a host named safe to show: one line, no control characters, bounded."""
    # Bounded before anything else: normalisation can make a text several times as long.
    visible = "".join(
        character if character.isprintable() else " "
        for character in title[: 4 * max_title_characters]
    )
    return " ".join(visible.split())[:max_title_characters].rstrip()


def normalise_title(title: str) -> str:
    """Give what two spellings of one title share: Unicode form, case and spacing set aside."""
    folded = unicodedata.normalize("NFKC", display_title(title)).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def app_id(title: str, attempt: int = 0) -> int:
    """Give the id that clients know a title by: 1 to 2**31-1, the same on every edge.

    `attempt` counts the ids already found taken by other titles; the store keeps the outcome.
    """
    salt = f"\0{attempt}" if attempt else ""
    digest = hashlib.sha256((normalise_title(title) + salt).encode()).digest()
    return (int.from_bytes(digest[:4], "big") & _MAX_ID) or 1


@dataclass(frozen=True, slots=True)
class CatalogueApp:
    """An app as clients see it; `offers` holds each backend's own id for it."""

    id: int
    title: str
    hdr: bool
    offers: Mapping[BackendId, int]


def titles_of(backends: Iterable[Backend]) -> frozenset[str]:
    """Give the normalised titles on offer, for `Store.app_ids_for`."""
    titles = {normalise_title(app.title) for backend in backends for app in backend.apps}
    return frozenset(titles - {""})


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
            for app in backend.apps:
                key = normalise_title(app.title)
                if key not in ids:
                    continue
                titles.setdefault(key, display_title(app.title))
                hdr[key] = hdr.get(key, False) or app.hdr
                # A host that lists a title twice is taken at its first word.
                offers.setdefault(key, {}).setdefault(backend.id, app.id)
        return cls(
            tuple(
                CatalogueApp(ids[key], titles[key], hdr[key], offers[key]) for key in sorted(titles)
            )
        )

    def by_id(self, wanted: int) -> CatalogueApp | None:
        """Find an app by the id that clients know."""
        return next((app for app in self.apps if app.id == wanted), None)
