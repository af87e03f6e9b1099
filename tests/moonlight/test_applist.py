from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import needs_captures
from recorded_http import http_exchanges

from moonlight.applist import App, applist, max_app_id, parse_applist
from moonlight.errors import Malformed, ProtocolError, TooLarge
from moonlight.xml import Answer, Element, HostRefused, text_element

titles = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=40)
apps = st.builds(App, titles, st.integers(1, max_app_id), st.booleans())


@settings(max_examples=50)
@given(st.lists(apps, max_size=5))
def test_what_is_written_is_read_again(listed: list[App]) -> None:
    assert parse_applist(Answer.parse(applist(listed).encode())) == tuple(listed)


def test_titles_are_made_safe_and_short() -> None:
    (app,) = parse_applist(applist([App("Evil\r\n" + "x" * 999, 1)]))
    assert app.title.startswith("Evil??x")
    assert len(app.title) == 200


@pytest.mark.parametrize(
    ("title", "app_id"),
    [("", "1"), (None, "1"), ("A", "0"), ("A", "-1"), ("A", "2147483648"), ("A", "x"), ("A", None)],
)
def test_an_app_that_cannot_be_is_malformed(title: str | None, app_id: str | None) -> None:
    fields = [("AppTitle", title), ("ID", app_id)]
    children = tuple(text_element(name, text) for name, text in fields if text is not None)
    with pytest.raises(Malformed):
        parse_applist(Answer.ok(Element("App", children=children)))


def test_the_list_is_bounded() -> None:
    listed = applist(App("A", number) for number in range(1, 4))
    assert len(parse_applist(listed, max_apps=3)) == 3
    with pytest.raises(TooLarge):
        parse_applist(listed, max_apps=2)


def test_a_host_that_refuses_is_told_apart() -> None:
    with pytest.raises(HostRefused):
        parse_applist(Answer.error(404, "No"))


@settings(max_examples=100)
@given(st.text(max_size=20), st.text(max_size=12))
def test_noise_gives_apps_or_protocol_errors(title: str, app_id: str) -> None:
    children = (text_element("AppTitle", title), text_element("ID", app_id))
    try:
        (app,) = parse_applist(Answer.ok(Element("App", children=children)))
    except ProtocolError:
        return
    assert app.title.isprintable()


@needs_captures
def test_recorded_lists_are_read_and_written_byte_for_byte() -> None:
    seen = 0
    for exchange in http_exchanges():
        for body in exchange.bodies:
            if b"<App>" not in body:
                continue
            listed = parse_applist(Answer.parse(body))
            assert listed == (App("Test ball", 378473508), App("Snow", 2094323632))
            assert applist(listed).encode() == body
            seen += 1
    assert seen
