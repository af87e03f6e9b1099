"""What a peer named, made safe for a log, a label or a page."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moonlight.errors import Malformed, ProtocolError, printable, quoted


@given(st.one_of(st.text(), st.binary()), st.integers(1, 100))
def test_what_is_left_can_be_printed_and_is_no_longer_than_allowed(
    named: str | bytes, max_length: int
) -> None:
    shown = printable(named, max_length)

    assert shown.isprintable()
    assert len(shown) <= max_length


def test_plain_text_stays_as_it_is() -> None:
    assert printable("Größe 1") == "Größe 1"


def test_control_characters_are_shown_as_question_marks() -> None:
    assert printable("a\x1b[31m\nb") == "a?[31m?b"


def test_what_is_cut_ends_in_an_ellipsis() -> None:
    assert printable("a" * 10, 5) == "aaaa…"
    assert printable(b"\xff" * 3, 5) == "\ufffd" * 3


def test_a_key_that_a_peer_echoes_is_not_repeated() -> None:
    key = "00112233445566778899aabbccddeeff"

    assert quoted(f"bad query rikey={key}&rikeyid=1") == "bad query rikey=…&rikeyid=1"
    assert quoted("app 378473508 is busy") == "app 378473508 is busy"


def test_an_error_has_a_reason_for_labels_and_a_sentence_for_people() -> None:
    error = Malformed("bad_thing", "The thing is bad.")

    assert isinstance(error, ProtocolError)
    assert (error.reason, str(error)) == ("bad_thing", "The thing is bad.")
