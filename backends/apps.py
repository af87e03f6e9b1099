"""Apps by their titles: what makes two titles one app, its stable id, and what a host offers."""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import ItemsView, Iterable, Iterator, KeysView
from dataclasses import dataclass

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


@functools.lru_cache(maxsize=4_096)
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
class AppOffer:
    """An app of one host; `id` is the host's own number for it."""

    title: str
    id: int
    hdr: bool = False


class AppOffers:
    """The apps of one host, found by title however that is written; equal if the offers are.

    Where a host lists a title twice, its first word counts.
    """

    __slots__ = ("_by_title", "_offers")

    def __init__(self, offers: Iterable[AppOffer] = ()) -> None:
        self._offers = tuple(offers)
        self._by_title: dict[str, AppOffer] = {}
        for offer in self._offers:
            title = normalise_title(offer.title)
            if title:
                self._by_title.setdefault(title, offer)

    def __iter__(self) -> Iterator[AppOffer]:
        return iter(self._offers)

    def __len__(self) -> int:
        return len(self._offers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AppOffers) and self._offers == other._offers

    def __hash__(self) -> int:
        return hash(self._offers)

    def __repr__(self) -> str:
        return f"AppOffers({self._offers!r})"

    @property
    def titles(self) -> KeysView[str]:
        """The normalised titles, each once."""
        return self._by_title.keys()

    def items(self) -> ItemsView[str, AppOffer]:
        """Give each normalised title with its offer."""
        return self._by_title.items()

    def get(self, normalised_title: str) -> AppOffer | None:
        """Find the host's own app by its normalised title."""
        return self._by_title.get(normalised_title)
