"""Lists in pages, whatever is added and removed while somebody reads them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.paging import Page, PageQuery, Place, page
from proxy.errors import Refused

places = st.tuples(st.integers(-(2**53), 2**53), st.text(max_size=3))
max_pages = 200  # there are fewer items
lists = st.sets(places, max_size=20)


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def pages(states: list[set[Place]], limit: int) -> Iterator[Page[Place]]:
    """Read a list that is in each of these states for one page, and in the last one from then."""
    cursor, turn = "", 0
    while True:
        part = page(states[min(turn, len(states) - 1)], itself, PageQuery(limit, cursor))
        yield part
        if part.next is None:
            return
        cursor, turn = part.next, turn + 1
        assert turn < max_pages


def itself(place: Place) -> Place:
    return place


@given(st.lists(lists, min_size=1, max_size=5), lists, st.integers(1, 7))
def test_what_is_there_throughout_is_given_exactly_once(
    changing: list[set[Place]], throughout: set[Place], limit: int
) -> None:
    given_items = [
        item
        for part in pages([state | throughout for state in changing], limit)
        for item in part.items
    ]
    assert len(given_items) == len(set(given_items))
    assert throughout <= set(given_items)
    assert given_items == sorted(given_items)


@given(lists, st.integers(1, 7))
def test_every_page_but_the_last_is_full(items: set[Place], limit: int) -> None:
    parts = list(pages([items], limit))
    assert [len(part.items) for part in parts[:-1]] == [limit] * (len(parts) - 1)
    assert len(parts) == max(1, -(-len(items) // limit))


@given(st.one_of(st.text(min_size=1), st.binary(min_size=1).map(b64)))
def test_what_is_no_cursor_is_refused_and_nothing_else_happens(cursor: str) -> None:
    with suppress(Refused):
        page([(0, "a")], itself, PageQuery(1, cursor))


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '["a",1]', '[1,"a",2]', f"[{10**400},'a']", "[" * 300, '[1e9,"a"]']
)
def test_a_cursor_of_other_content_is_refused(content: str) -> None:
    with pytest.raises(Refused, match="begin without one"):
        page([(0, "a")], itself, PageQuery(1, b64(content.encode()) or "="))
