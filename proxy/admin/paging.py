"""Long lists in pages, by what was seen last: stable while the list changes.

A cursor holds the place of the last item that was given, and the next page begins behind that
place. So an item that is there throughout is given exactly once, whatever is added or removed
meanwhile; an offset would skip one for each item that is removed before it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated, Final, Generic, TypeVar

import msgspec

from backends.times import to_us
from proxy.errors import Refused

max_items: Final = 500
usual_items: Final = 100
max_cursor_characters: Final = 512

Place = tuple[int, str]
"""Of an item in its list: a number, and an id among those of one number. It must never change."""

_T = TypeVar("_T")


class PageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which page of a list."""

    limit: Annotated[
        int, msgspec.Meta(ge=1, le=max_items, description=f"How many, 1 to {max_items}.")
    ] = usual_items
    cursor: Annotated[
        str,
        msgspec.Meta(
            max_length=max_cursor_characters, description="What the page before says as `next`."
        ),
    ] = ""


class Page(msgspec.Struct, Generic[_T], frozen=True):
    """A part of a list; the cursor `next` leads to the part behind it."""

    items: list[_T]
    next: str | None


def page(items: Iterable[_T], place: Callable[[_T], Place], asked: PageQuery) -> Page[_T]:
    """Return the part of a list that is asked for, in the order of the items' places.

    Raises:
        Refused: the cursor is none of ours.

    """
    ordered = sorted(items, key=place)
    if asked.cursor:
        last = _read(asked.cursor)
        ordered = [item for item in ordered if place(item) > last]
    part = ordered[: asked.limit]
    return Page(part, _write(place(part[-1])) if len(part) < len(ordered) else None)


def since(at: datetime, identifier: str) -> Place:
    """Return the place of what began at a time, the oldest first."""
    return to_us(at), identifier


def _write(place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _read(cursor: str) -> Place:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place: Place = msgspec.json.decode(text, type=Place)
    except (binascii.Error, UnicodeError, ValueError, msgspec.DecodeError):
        raise Refused(
            400, "bad_cursor", "That cursor is none of this list's: begin without one."
        ) from None
    return place
