from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import all_rtsp_exchanges, needs_captures

from moonlight.errors import Malformed, ProtocolError, TooLarge
from moonlight.flows import Flow
from moonlight.launch import RtspUrl
from moonlight.rtsp import RtspParser, RtspRequest, RtspResponse, rewrite_request

OPTIONS = (
    b"OPTIONS rtsp://label.example:48010 RTSP/1.0\r\nCSeq: 1\r\nX-GS-ClientVersion: 14\r\n"
    b"Host: label.example\r\n\r\n"
)
SETUP_ANSWER = (
    b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nSession: DEADBEEFCAFE;timeout = 90\r\n"
    b"Transport: server_port=48200\r\nX-SS-Ping-Payload: _H(RH3JL`p(JglN-\r\n\r\n"
)
Role = Literal["request", "response"]


def request(data: bytes) -> RtspRequest:
    parser = RtspParser("request")
    parser.receive(data)
    message = parser.next()
    assert message is not None
    assert parser.idle
    return message


def response(data: bytes) -> RtspResponse:
    parser = RtspParser("response")
    parser.receive(data)
    parser.end()
    message = parser.next()
    assert message is not None
    return message


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


# -- what was recorded ---------------------------------------------------------------------------


@needs_captures
def test_recorded_exchanges_are_written_back_byte_for_byte() -> None:
    exchanges = all_rtsp_exchanges()
    assert len(exchanges) == 28
    for exchange in exchanges:
        parser = RtspParser("request")
        for segment in exchange.request:
            assert parser.next() is None
            parser.receive(segment)
        asked = parser.next()
        assert asked is not None
        assert asked.encode() == b"".join(exchange.request)
        answered = response(b"".join(exchange.response))
        assert answered.encode() == b"".join(exchange.response)
        assert answered.cseq == asked.cseq


@needs_captures
@settings(max_examples=40)
@given(st.data())
def test_recorded_exchanges_can_be_cut_anywhere(data: st.DataObject) -> None:
    exchange = data.draw(st.sampled_from(all_rtsp_exchanges()))
    asked, answered = b"".join(exchange.request), b"".join(exchange.response)
    cuts = st.lists(st.integers(0, 2000), max_size=12)
    parser, answers = RtspParser("request"), RtspParser("response")
    for chunk in chunks(asked, data.draw(cuts)):
        parser.receive(chunk)
    for chunk in chunks(answered, data.draw(cuts)):
        answers.receive(chunk)
        assert answers.next() is None  # it ends with the connection
    answers.end()
    first, second = parser.next(), answers.next()
    assert first is not None
    assert second is not None
    assert (first.encode(), second.encode()) == (asked, answered)
    assert answers.next() is None


@needs_captures
def test_recorded_setups_name_their_streams() -> None:
    streams = [
        request(b"".join(exchange.request)).stream
        for exchange in all_rtsp_exchanges()
        if exchange.request[0].startswith(b"SETUP")
    ]
    assert streams == [Flow.AUDIO, Flow.VIDEO, Flow.CONTROL] * 4


# -- parsing -------------------------------------------------------------------------------------


def test_bytes_may_come_one_by_one() -> None:
    parser = RtspParser("request")
    for byte in OPTIONS[:-1]:
        parser.receive(bytes([byte]))
        assert parser.next() is None
        assert not parser.idle
    parser.receive(OPTIONS[-1:])
    assert parser.next() == request(OPTIONS)


def test_a_body_follows_its_content_length() -> None:
    message = b"ANNOUNCE streamid=control/13/0 RTSP/1.0\r\nContent-length: 5\r\n\r\nv=0\r\n"
    parser = RtspParser("request")
    parser.receive(message[:-2])
    assert parser.next() is None
    parser.receive(message[-2:] + OPTIONS)
    first, second = parser.next(), parser.next()
    assert first is not None
    assert first.body == b"v=0\r\n"
    assert first.encode() == message
    assert second == request(OPTIONS)


def test_an_answer_with_a_length_needs_no_end() -> None:
    parser = RtspParser("response")
    parser.receive(b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab")
    message = parser.next()
    assert message is not None
    assert message.body == b"ab"


def test_odd_spacing_survives() -> None:
    data = b"PLAY / RTSP/1.0\r\nCSeq:7\r\nhOST:\t 1.2.3.4 \r\nX: \r\nSession: a\r\n\r\n"
    message = request(data)
    assert message.encode() == data
    assert message.cseq == 7
    assert message.header("Host") == "1.2.3.4"
    assert message.header("X") == ""
    grown = message.with_header("host", "5.6.7.8").with_header("New", "1")
    assert grown.encode() == data.replace(b"1.2.3.4 ", b"5.6.7.8")[:-2] + b"New: 1\r\n\r\n"


def test_a_message_may_have_no_headers() -> None:
    assert request(b"PLAY / RTSP/1.0\r\n\r\n").encode() == b"PLAY / RTSP/1.0\r\n\r\n"
    assert response(b"RTSP/1.0 404\r\n\r\n").encode() == b"RTSP/1.0 404\r\n\r\n"


def test_a_key_sent_to_the_wrong_port_is_not_quoted() -> None:
    parser = RtspParser("request")
    parser.receive(b"GET /launch?appid=1&rikey=00112233445566778899aabbccddeeff HTTP/1.1\r\n\r\n")
    with pytest.raises(Malformed) as refusal:
        parser.next()
    assert "rikey" not in str(refusal.value)
    assert "0011" not in str(refusal.value)


@pytest.mark.parametrize("line", [b"RTSP/1.0 200", b"RTSP/1.0 200 ", b"RTSP/1.0 200 OK"])
def test_a_status_line_is_written_as_it_came(line: bytes) -> None:
    parser = RtspParser("response")
    parser.receive(line + b"\r\n\r\n")
    parser.end()
    answer = parser.next()
    assert answer is not None
    assert answer.encode() == line + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("role", "data", "reason"),
    [
        ("request", b"GET / HTTP/1.1\r\n\r\n", "rtsp_first_line"),
        ("request", b"\r\n\r\n", "rtsp_first_line"),
        ("request", b"PLAY  / RTSP/1.0\r\n\r\n", "rtsp_first_line"),
        ("request", b"PLAY / RTSP/1.0\r\n folded\r\n\r\n", "rtsp_header"),
        ("request", b"PLAY / RTSP/1.0\r\nA: b\x00c\r\n\r\n", "rtsp_header"),
        ("request", b"PLAY / RTSP/1.0\r\nA: b\nC: d\r\n\r\n", "rtsp_header"),
        ("request", b"PLAY / RTSP/1.0\r\nno colon\r\n\r\n", "rtsp_header"),
        ("request", b"PLAY / RTSP/1.0\r\nContent-length: -1\r\n\r\n", "rtsp_content_length"),
        ("request", b"PLAY / RTSP/1.0\r\nContent-length: \xb2\r\n\r\n", "rtsp_content_length"),
        (
            "request",
            b"PLAY / RTSP/1.0\r\nContent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "rtsp_content_length",
        ),
        ("request", b"PLAY / RTSP", "rtsp_truncated"),
        ("request", b"PLAY / RTSP/1.0\r\nContent-length: 9\r\n\r\nabc", "rtsp_truncated"),
        ("response", b"RTSP/1.0 20 OK\r\n\r\n", "rtsp_first_line"),
        ("response", b"RTSP/2.0 200 OK\r\n\r\n", "rtsp_first_line"),
    ],
)
def test_what_is_no_rtsp_is_refused(role: Role, data: bytes, reason: str) -> None:
    parser = RtspParser(role)  # type: ignore[call-overload]
    parser.receive(data)
    parser.end()
    with pytest.raises(Malformed) as caught:
        parser.next()
    assert caught.value.reason == reason


def test_a_connection_that_carries_nothing_is_no_error() -> None:
    parser = RtspParser("request")
    parser.end()
    assert parser.idle
    assert parser.next() is None


def test_length_and_header_count_have_limits() -> None:
    parser = RtspParser("request", max_message_bytes=100, max_headers=2)
    with pytest.raises(TooLarge, match="above 100 bytes"):
        parser.receive(b"x" * 101)
    assert parser.idle
    parser.receive(b"PLAY / RTSP/1.0\r\nContent-length: 101\r\n\r\n")
    with pytest.raises(TooLarge, match="101 bytes"):
        parser.next()
    parser = RtspParser("request", max_headers=2)
    parser.receive(b"PLAY / RTSP/1.0\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n")
    with pytest.raises(TooLarge, match="2 headers"):
        parser.next()


HEADER_TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True).filter(
    lambda name: name.lower() != "content-length"
)


@given(
    st.from_regex("[A-Z]{1,10}", fullmatch=True),
    HEADER_TEXT.filter(bool),
    st.lists(st.tuples(NAMES, HEADER_TEXT), max_size=8),
    st.binary(max_size=50),
    st.lists(st.integers(0, 300), max_size=6),
)
def test_a_request_reads_back_as_written(
    method: str, target: str, headers: list[tuple[str, str]], body: bytes, cuts: list[int]
) -> None:
    length = ("Content-length", str(len(body)))
    message = RtspRequest(method, target, headers=(*headers, length), body=body)
    parser = RtspParser("request")
    for chunk in chunks(message.encode(), cuts):
        parser.receive(chunk)
    assert parser.next() == message


PIECES = st.sampled_from(
    [
        b"\r\n",
        b"\r\n\r\n",
        b"RTSP/1.0 200 OK",
        b"SETUP streamid=audio/0/0 RTSP/1.0",
        b"Content-length: 3",
        b"Transport: server_port=0",
        b"X-SS-Connect-Data: 99999999999",
        b"X-SS-Ping-Payload: short",
        b"\xb2: \xb2",
    ]
)


@given(
    st.sampled_from(["request", "response"]),
    st.lists(st.one_of(PIECES, st.binary(max_size=20)), max_size=12),
)
def test_any_bytes_give_a_message_or_a_protocol_error(role: Role, pieces: list[bytes]) -> None:
    parser = RtspParser(role)  # type: ignore[call-overload]
    with suppress(ProtocolError):
        for piece in pieces:
            parser.receive(piece)
            while (message := parser.next()) is not None:
                message.encode()
        parser.end()
        while (message := parser.next()) is not None:
            message.encode()
            if isinstance(message, RtspResponse):
                assert message.cseq is None
                assert message.server_port is None
                assert message.ping_payload is None
                assert message.connect_data is None


# -- what a request says of its session ----------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "host", "found"),
    [
        ("rtsp://label.example:48010", "other", "label.example"),
        ("rtspenc://1.2.3.4:48010/path", None, "1.2.3.4"),
        ("rtsp://[fe80::1]:48010", None, "fe80::1"),
        ("streamid=audio/0/0", "label.example", "label.example"),
        ("/", "label.example:48010", "label.example"),
        ("/", "[fe80::1]:48010", "fe80::1"),
        ("/", "fe80::1", "fe80::1"),
        ("/", None, ""),
    ],
)
def test_the_session_host_comes_from_target_or_host(
    target: str, host: str | None, found: str
) -> None:
    headers = (("Host", host),) if host is not None else ()
    assert RtspRequest("PLAY", target, headers=headers).session_host == found


@pytest.mark.parametrize(
    ("target", "flow"),
    [
        ("streamid=audio/0/0", Flow.AUDIO),
        ("streamid=video", Flow.VIDEO),
        ("streamid=control/1/0", Flow.CONTROL),
        ("streamid=input/0/0", None),
        ("streamid", None),
        ("stream=audio/0/0", None),
        ("/", None),
    ],
)
def test_the_target_names_the_flow(target: str, flow: Flow | None) -> None:
    assert RtspRequest("SETUP", target).stream is flow


def test_cseq_is_none_where_it_is_no_number() -> None:
    assert RtspRequest("PLAY", "/").cseq is None
    assert RtspRequest("PLAY", "/", headers=(("cseq", "x"),)).cseq is None
    assert RtspRequest("PLAY", "/", headers=(("cseq", "12"),)).cseq == 12


# -- what an answer says, and rewriting it -------------------------------------------------------


def test_setup_answers_are_rewritten_in_place() -> None:
    answer = response(SETUP_ANSWER)
    assert (answer.server_port, answer.ping_payload) == (48200, "_H(RH3JL`p(JglN-")
    assert answer.connect_data is None
    changed = answer.with_transport_port(50001).with_ping_payload("ABCDEFGHIJKLMNOP")
    expected = SETUP_ANSWER.replace(b"48200", b"50001").replace(
        b"_H(RH3JL`p(JglN-", b"ABCDEFGHIJKLMNOP"
    )
    assert changed.encode() == expected


def test_what_a_host_left_out_is_added() -> None:
    answer = RtspResponse(200, "OK", headers=(("CSeq", "5"),))
    assert (answer.server_port, answer.ping_payload, answer.connect_data) == (None, None, None)
    changed = (
        answer.with_transport_port(1).with_ping_payload("x" * 16).with_connect_data(4294967295)
    )
    assert changed.server_port == 1
    assert changed.ping_payload == "x" * 16
    assert changed.connect_data == 4294967295


def test_the_rest_of_transport_stays() -> None:
    answer = RtspResponse(200, "OK", headers=(("Transport", "unicast;server_port=5-6;x=y"),))
    assert answer.with_transport_port(77).header("transport") == "unicast;server_port=77-6;x=y"


@pytest.mark.parametrize(
    ("header", "accessor"),
    [
        (("Transport", "server_port=0"), "server_port"),
        (("Transport", "server_port=65536"), "server_port"),
        (("X-SS-Ping-Payload", "short"), "ping_payload"),
        (("X-SS-Connect-Data", "4294967296"), "connect_data"),
        (("X-SS-Connect-Data", "-1"), "connect_data"),
    ],
)
def test_impossible_values_of_a_host_are_refused(header: tuple[str, str], accessor: str) -> None:
    with pytest.raises(Malformed):
        getattr(RtspResponse(200, "OK", headers=(header,)), accessor)


def test_nothing_can_be_smuggled_into_a_head() -> None:
    answer = RtspResponse(200, "OK")
    with pytest.raises(ValueError, match="16 printable"):
        answer.with_ping_payload("x" * 14 + "\r\n")
    with pytest.raises(ValueError, match="line break"):
        answer.with_header("A", "b\r\nC: d").encode()
    with pytest.raises(ValueError, match="line break"):
        RtspRequest("PLAY", "/\n").encode()


def test_an_answer_echoes_the_sequence_number() -> None:
    answer = request(OPTIONS).answer(("Session", "X"), body=b"b")
    assert answer.encode() == b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nSession: X\r\n\r\nb"
    assert RtspRequest("PLAY", "/").answer(status=404, reason="NOT FOUND").headers == ()


def test_secrets_stay_out_of_repr() -> None:
    answer = response(SETUP_ANSWER + b"body-secret")
    assert answer.body == b"body-secret"
    assert "JglN" not in repr(answer)
    assert "body" not in repr(answer)


# -- towards the host ----------------------------------------------------------------------------


def test_requests_carry_the_hosts_own_names() -> None:
    url = RtspUrl(encrypted=False, host="164.84.20.219", port=48010)
    changed = rewrite_request(request(OPTIONS), session_url=url)
    assert changed.encode() == OPTIONS.replace(b"label.example", b"164.84.20.219")
    play = RtspRequest("PLAY", "/", headers=(("CSeq", "7"), ("Host", "0.0.0.0")))
    changed = rewrite_request(play, session_url=url)
    assert changed == play.with_header("Host", "164.84.20.219")


def test_an_ipv6_host_is_bracketed_and_a_missing_host_added() -> None:
    url = RtspUrl(encrypted=False, host="fe80::1", port=48010)
    changed = rewrite_request(RtspRequest("PLAY", "/"), session_url=url)
    assert changed.header("Host") == "[fe80::1]"
