from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import needs_captures
from recorded_http import http_exchanges

from moonlight.errors import Malformed, ProtocolError, TooLarge
from moonlight.xml import Answer, Element, HostRefused, max_depth, max_elements, text_element

HEAD = b'<?xml version="1.0" encoding="utf-8"?>\n'


def test_an_answer_is_written_on_one_line_behind_the_declaration() -> None:
    answer = Answer.ok(text_element("paired", 1), text_element("empty", ""))
    assert answer.encode() == HEAD + b'<root status_code="200"><paired>1</paired><empty/></root>'


def test_the_refusal_of_an_unknown_client_is_written_as_hosts_write_it() -> None:
    answer = Answer.error(
        401, "The client is not authorized. Certificate verification failed.", "/serverinfo"
    )
    assert answer.encode() == HEAD + (
        b'<root status_code="401" query="/serverinfo" status_message="The client is not '
        b'authorized. Certificate verification failed."/>'
    )
    assert Answer.error(404, "No").encode() == HEAD + (
        b'<root status_code="404" status_message="No"/>'
    )


def test_elements_are_found_by_name_at_any_depth() -> None:
    answer = Answer.parse(b'<root status_code="200"><a><b x="1">in</b></a><b>out</b></root>')
    assert answer.text("b") == "in"
    assert [element.text for element in answer.all("b")] == ["in", "out"]
    assert answer.text("c") is None
    assert answer.elements[0].child_text("b") == "in"
    assert answer.elements[0].child_text("a") is None
    assert answer.all("b")[0].attributes == (("x", "1"),)


def test_a_good_answer_passes_and_a_refusal_raises() -> None:
    good = Answer.ok()
    assert good.checked() is good
    with pytest.raises(HostRefused, match=r"error 503: No room\.") as caught:
        Answer.error(503, "No room").checked()
    assert caught.value.status_code == 503
    assert caught.value.reason == "host_refused"
    with pytest.raises(HostRefused, match="error -1: without a message"):
        Answer.parse(b'<root status_code="-1"/>').checked()


def test_what_a_host_says_of_an_error_is_made_safe() -> None:
    answer = Answer.parse(b'<root status_code="500" status_message="a&#10;b&#x202e;c"/>')
    assert answer.status_message == "a?b?c"
    with pytest.raises(HostRefused) as caught:
        answer.checked()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<root status_code='200'>",
        b"<root status_code='200'/><root/>",
        b"<html status_code='200'/>",
        b"<root/>",
        b"<root status_code=''/>",
        b"<root status_code='2 00'/>",
        b"<root status_code='99999999999'/>",
        b"<root status_code='200'>&undefined;</root>",
        b"<root status_code='200'>\xff</root>",
        b"<root status_code='200'>\0</root>",
        b"<!DOCTYPE root><root status_code='200'/>",
        b"<!DOCTYPE root [<!ENTITY a 'aaaa'>]><root status_code='200'>&a;</root>",
        b"<!DOCTYPE root SYSTEM 'file:///etc/passwd'><root status_code='200'/>",
    ],
)
def test_what_is_no_answer_is_malformed(document: bytes) -> None:
    with pytest.raises(Malformed):
        Answer.parse(document)


def test_the_encoding_that_a_document_claims_is_not_obeyed() -> None:
    document = '<?xml version="1.0" encoding="iso-8859-1"?><root status_code="200"><a>ü</a></root>'
    assert Answer.parse(document.encode()).text("a") == "ü"


def test_size_depth_and_count_are_bounded() -> None:
    with pytest.raises(TooLarge):
        Answer.parse(b'<root status_code="200"/>', max_bytes=20)
    deep = b'<root status_code="200">' + b"<a>" * (max_depth - 1) + b"</a>" * (max_depth - 1)
    assert Answer.parse(deep + b"</root>").all("a")
    with pytest.raises(TooLarge):
        Answer.parse(b'<root status_code="200">' + b"<a>" * max_depth)
    wide = b'<root status_code="200">' + b"<a/>" * (max_elements - 1)
    assert len(Answer.parse(wide + b"</root>").elements) == max_elements - 1
    with pytest.raises(TooLarge):
        Answer.parse(wide + b"<a/></root>")


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=100)
    | st.lists(
        st.sampled_from(
            [
                b"<root status_code='200'>", b"</root>", b"<a>", b"</a>", b"<a/>", b"&lt;",
                b"<![CDATA[", b"]]>", b"<!DOCTYPE a [", b"]>", b"<!ENTITY a 'b'>", b"&a;", b"<!--",
                b"-->", b"<?xml ?>", b"<?xml version='1.0' encoding='utf-16'?>", b"text", b"\xff",
                b"&#0;", b"&#xd800;",
            ]
        ),
        max_size=8,
    ).map(b"".join)
)  # fmt: skip
def test_noise_gives_answers_or_protocol_errors(noise: bytes) -> None:
    try:
        answer = Answer.parse(noise)
    except ProtocolError:
        return
    assert Answer.parse(answer.encode()) == answer


names = st.sampled_from(["App", "ID", "hostname", "x-y"])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff"))
xml_texts = texts.map(lambda text: "".join(c for c in text if c >= " " or c in "\t\n\r"))
attributes = st.dictionaries(names, xml_texts, max_size=2).map(lambda found: tuple(found.items()))
leaves = st.builds(Element, names, xml_texts, attributes=attributes)
trees = st.recursive(
    leaves,
    lambda inner: st.builds(
        Element, names, st.just(""), st.lists(inner, max_size=3).map(tuple), attributes
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(trees, max_size=3))
def test_what_is_written_is_read_again(elements: list[Element]) -> None:
    answer = Answer.ok(*elements)
    assert Answer.parse(answer.encode()) == answer


def test_characters_that_xml_cannot_carry_are_replaced() -> None:
    answer = Answer.ok(text_element("a", "x\0\x1b\ud800\uffffy"))
    assert Answer.parse(answer.encode()).text("a") == "x\ufffd\ufffd\ufffd\ufffdy"


def test_texts_are_not_in_the_repr() -> None:
    assert "0f1e2d" not in repr(Answer.ok(text_element("pairingsecret", "0f1e2d")))


@needs_captures
def test_recorded_answers_are_read_and_written_byte_for_byte() -> None:
    seen = 0
    for exchange in http_exchanges():
        for body in exchange.bodies:
            # where the recording was cut, it says so in the middle of the elements
            whole = body.replace(b"[modes]", b"")
            assert Answer.parse(whole).encode() == whole, exchange.name
            seen += 1
    assert seen > 20
