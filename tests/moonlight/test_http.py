from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import needs_captures
from recorded_http import http_exchanges

from moonlight.errors import Malformed, ProtocolError, TooLarge
from moonlight.http import (
    BadRequest,
    HttpClient,
    HttpRequest,
    HttpResponse,
    HttpServer,
    Query,
    RequestTooLarge,
)

GET = b"GET /serverinfo?uniqueid=0123456789ABCDEF HTTP/1.1\r\nHost: edge\r\n\r\n"
POST = b'POST /pin/ HTTP/1.1\r\nHost: edge\r\nContent-Length: 14\r\n\r\n{"pin":"1234"}'


def asked(data: bytes) -> HttpRequest:
    server = HttpServer()
    server.receive(data)
    request = server.next_request()
    assert request is not None
    return request


def answered(data: bytes) -> HttpResponse | None:
    client = HttpClient()
    client.request("GET", "/", [("Host", "host")])
    client.receive(data)
    return client.response()


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Cut `data` at these places; no piece is empty, since that would be the end."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        yield data[start:end]


def test_a_request_may_have_a_body() -> None:
    written = HttpClient().request("POST", "/api", [("Host", "host")], b'{"pin": 1}')
    server = HttpServer()
    server.receive(written)
    request = server.next_request()
    assert request is not None
    assert (request.method, request.path, request.body) == ("POST", "/api", b'{"pin": 1}')


# --- Query


@pytest.mark.parametrize("text", ["", "a=1", "a", "a=", "a=1&a=2", "&&", "a=%zz+%20", "=x", "ü=1"])
def test_a_query_is_kept_as_it_came(text: str) -> None:
    assert Query.parse(text).encode() == text


@given(st.text(max_size=60))
def test_any_text_is_a_query_and_comes_back(text: str) -> None:
    assert Query.parse(text).encode() == text
    assert all(isinstance(value, str) for _, value in Query.parse(text).pairs)


def test_values_are_decoded_when_read() -> None:
    query = Query.parse("name=a%20b+c&empty=&bare&name=second")
    assert query.pairs == (("name", "a b c"), ("empty", ""), ("bare", ""), ("name", "second"))
    assert query.get("name") == "a b c"
    assert query.get("bare") == ""
    assert query.get("none") is None
    assert query.get("none", "default") == "default"


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=5))
def test_a_built_query_reads_as_it_was_given(pairs: list[tuple[str, str]]) -> None:
    assert Query.parse(Query.of(*pairs).encode()).pairs == tuple(pairs)


def test_replacing_keeps_place_and_spelling_of_all_else() -> None:
    query = Query.parse("uniqueid=01&x=%2f&appid=5&y&appid=6")
    assert query.replaced(appid="7").encode() == "uniqueid=01&x=%2f&appid=7&y"
    assert query.replaced(z="a&b").encode() == "uniqueid=01&x=%2f&appid=5&y&appid=6&z=a%26b"
    assert (Query.of(("a", "1")) + Query.parse("b=2")).encode() == "a=1&b=2"


def test_what_a_query_holds_is_not_in_its_repr() -> None:
    query = Query.parse("rikey=00112233&odd%0aname=x")
    assert repr(query) == "Query(rikey, odd?name)"


# --- HttpServer


def test_a_request_is_given_in_its_parts() -> None:
    request = asked(GET)
    assert (request.method, request.path, request.body) == ("GET", "/serverinfo", b"")
    assert request.query.get("uniqueid") == "0123456789ABCDEF"
    assert request.header("HOST") == "edge"
    assert request.header("accept") is None


def test_a_body_is_given_and_hidden() -> None:
    request = asked(POST)
    assert (request.method, request.body) == ("POST", b'{"pin":"1234"}')
    assert "1234" not in repr(request)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/applist", "/applist", ""),
        (b"/applist?", "/applist", ""),
        (b"/a?b=c#d?e", "/a", "b=c"),
        (b"http://edge:47989/serverinfo?a=b", "/serverinfo", "a=b"),
        (b"http://edge:47989", "/", ""),
        (b"/x?url=http://y/z", "/x", "url=http://y/z"),
        (b"*", "*", ""),
    ],
)
def test_targets_of_every_form_are_split(target: bytes, path: str, query: str) -> None:
    request = asked(b"GET " + target + b" HTTP/1.1\r\nHost: edge\r\n\r\n")
    assert (request.path, request.query.encode()) == (path, query)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 10_000), max_size=8))
def test_how_requests_are_cut_does_not_matter(cuts: list[int]) -> None:
    server = HttpServer()
    seen = []
    for piece in pieces(GET + POST, cuts):
        server.receive(piece)
        while request := server.next_request():
            seen.append(request)
            server.respond(200, b"", close=False)
    assert seen == [asked(GET), asked(POST)]


def test_an_answer_says_its_length_and_no_more_where_nothing_more_is_wanted() -> None:
    server = HttpServer()
    server.receive(GET)
    assert server.next_request() is not None
    answer = server.respond(200, b"<x/>", None, close=False)
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<x/>"
    assert not server.wants_close


def test_an_answer_that_closes_says_so() -> None:
    server = HttpServer()
    server.receive(GET)
    assert server.next_request() is not None
    answer = server.respond(401, b"<x/>", close=True)
    assert answer == (
        b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/xml\r\n"
        b"Content-Length: 4\r\nConnection: close\r\n\r\n<x/>"
    )
    assert server.wants_close
    server.receive(GET)
    assert server.next_request() is None


def test_a_client_that_wants_to_close_is_told_yes() -> None:
    server = HttpServer()
    server.receive(b"GET / HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n")
    assert server.next_request() is not None
    assert b"Connection: close\r\n" in server.respond(200, b"", close=False)
    assert server.wants_close


def test_a_second_request_waits_for_the_first_answer() -> None:
    server = HttpServer()
    server.receive(GET + POST)
    first = server.next_request()
    assert first is not None
    assert first.method == "GET"
    assert server.next_request() is None
    server.respond(200, b"one", close=False)
    second = server.next_request()
    assert second is not None
    assert second.method == "POST"
    assert not server.wants_close


def test_head_gets_the_length_without_the_body() -> None:
    server = HttpServer()
    server.receive(GET.replace(b"GET", b"HEAD"))
    assert server.next_request() is not None
    assert server.respond(200, b"four", None, close=False).endswith(b"Content-Length: 4\r\n\r\n")
    assert not server.wants_close


def test_a_status_without_a_name_is_sent_all_the_same() -> None:
    server = HttpServer()
    server.receive(GET)
    assert server.next_request() is not None
    assert server.respond(599, b"", None, close=False).startswith(b"HTTP/1.1 599 \r\n")


@pytest.mark.parametrize("target", [b"edge:1", b"/serverinfo"])
def test_connect_is_refused_whatever_it_asks_for(target: bytes) -> None:
    # With a good answer to it the connection would not be HTTP any more, in the midst of that.
    server = HttpServer()
    server.receive(b"CONNECT " + target + b" HTTP/1.1\r\nHost: edge\r\n\r\n")
    with pytest.raises(BadRequest) as caught:
        server.next_request()
    assert (caught.value.reason, caught.value.status) == ("method_not_allowed", 405)
    assert server.respond(405, b"no", close=True).startswith(b"HTTP/1.1 405 ")
    assert server.wants_close


def test_a_bad_request_behind_a_head_request_is_answered_in_full() -> None:
    server = HttpServer()
    server.receive(b"HEAD / HTTP/1.1\r\nHost: edge\r\n\r\n\0\r\n\r\n")
    assert server.next_request() is not None
    assert not server.respond(200, b"body", close=False).endswith(b"body")
    with pytest.raises(BadRequest):
        server.next_request()
    assert server.respond(400, b"why", close=True).endswith(b"why")


def test_a_connection_without_a_request_just_ends() -> None:
    server = HttpServer()
    assert server.next_request() is None
    assert [server.at_eof, server.wants_close] == [False, False]
    server.receive(b"")
    assert server.next_request() is None
    assert [server.at_eof, server.wants_close] == [True, True]
    server.receive(b"")


def test_the_end_during_a_held_answer_is_seen_and_the_answer_still_given() -> None:
    server = HttpServer()
    server.receive(GET)
    assert server.next_request() is not None
    server.receive(b"")
    assert server.at_eof
    assert b"Connection: close" in server.respond(200, b"late", close=False)
    assert server.wants_close


def test_a_request_cut_short_is_a_bad_one() -> None:
    server = HttpServer()
    server.receive(GET[:20])
    server.receive(b"")
    with pytest.raises(BadRequest) as caught:
        server.next_request()
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: edge\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
)
def test_what_is_no_request_is_answered_and_closed(data: bytes, status: int) -> None:
    server = HttpServer()
    server.receive(data)
    with pytest.raises(BadRequest) as caught:
        server.next_request()
    assert caught.value.status == status
    assert server.wants_close
    answer = server.respond(caught.value.status, b"<x/>", close=False)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in answer
    assert server.next_request() is None


def test_a_whole_head_beyond_the_limit_is_too_large_even_in_one_piece() -> None:
    server = HttpServer(max_request_bytes=1000)
    server.receive(b"GET /?" + b"a" * 1000 + b" HTTP/1.1\r\nHost: edge\r\n\r\n")
    with pytest.raises(RequestTooLarge):
        server.next_request()


def test_an_endless_head_is_too_large() -> None:
    server = HttpServer(max_request_bytes=1000)
    server.receive(b"GET /?" + b"a" * 1000)
    with pytest.raises(RequestTooLarge) as caught:
        server.next_request()
    assert caught.value.status == 431
    assert server.respond(431, b"", close=True).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 101\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n40\r\n" + b"a" * 64 + b"\r\n40\r\n" + b"a" * 64,
    ],
)
def test_a_large_body_is_refused_before_it_is_kept(framing: bytes) -> None:
    server = HttpServer(max_body_bytes=100)
    server.receive(b"POST / HTTP/1.1\r\nHost: edge\r\n" + framing)
    with pytest.raises(RequestTooLarge) as caught:
        server.next_request()
    assert caught.value.status == 413
    assert server.respond(413, b"", close=True).startswith(b"HTTP/1.1 413 ")
    assert server.wants_close


def test_what_piles_up_behind_a_held_answer_is_bounded() -> None:
    server = HttpServer(max_request_bytes=1000, max_body_bytes=1000)
    server.receive(GET)
    assert server.next_request() is not None
    server.receive(b"a" * 2000)
    with pytest.raises(RequestTooLarge):
        server.receive(b"a")
    assert b"Connection: close" in server.respond(200, b"", close=False)


http_alphabet = st.lists(
    st.sampled_from(
        [
            b"GET ", b"POST ", b"CONNECT ", b"/", b"?a=b", b" HTTP/1.1", b" HTTP/1.0", b"\r\n",
            b"\n", b"Host: edge\r\n", b"Content-Length: 3\r\n", b"Content-Length: 70000\r\n",
            b"Transfer-Encoding: chunked\r\n", b"Upgrade: x\r\nConnection: upgrade\r\n",
            b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n",
            b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n", b"\0",
            b"a" * 300, b"\xff", b" ", b":",
        ]
    ),
    max_size=14,
).map(b"".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | http_alphabet, st.lists(st.integers(0, 400), max_size=4))
def test_noise_gives_a_server_requests_or_protocol_errors(noise: bytes, cuts: list[int]) -> None:
    outcomes = [served(list(pieces(noise, places))) for places in ([], cuts)]
    assert outcomes[0] == outcomes[1]


def served(chunks: list[bytes]) -> list[object]:
    server = HttpServer(max_request_bytes=256, max_body_bytes=256)
    seen: list[object] = []
    try:
        for piece in [*chunks, b""]:
            server.receive(piece)
            while request := server.next_request():
                seen.append(request)
                server.respond(200, b"<x/>", close=False)
    except (BadRequest, RequestTooLarge) as error:
        seen += [error.status, server.respond(error.status, b"<x/>", close=True)[:12]]
    assert server.wants_close
    return seen


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | http_alphabet, st.lists(st.integers(0, 400), max_size=4))
def test_noise_gives_a_client_an_answer_or_protocol_errors(noise: bytes, cuts: list[int]) -> None:
    outcomes = [fetched(list(pieces(noise, places))) for places in ([], cuts)]
    # A head that is both too large and no HTTP has two faults; which shows first is the cut's.
    both = {reason for _, reason in outcomes} == {"answer_too_large", "bad_answer"}
    assert outcomes[0] == outcomes[1] or both


def fetched(chunks: list[bytes]) -> tuple[HttpResponse | None, str]:
    client = HttpClient(max_response_bytes=256, max_head_bytes=256)
    client.request("GET", "/", [("Host", "host")])
    try:
        for piece in [*chunks, b""]:
            client.receive(piece)
            client.response()
        return client.response(), ""
    except ProtocolError as error:
        return None, error.reason


# --- HttpClient


def test_a_request_is_written_as_moonlight_writes_it() -> None:
    client = HttpClient()
    written = client.request("GET", "/a?b=c", [("Host", "127.0.0.1:47989"), ("Accept", "*/*")])
    assert written == b"GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:47989\r\nAccept: */*\r\n\r\n"


STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 400 Bad Request\r\n\r\n<root/>"


@given(st.lists(st.integers(0, 200), max_size=6))
def test_a_stray_second_answer_is_ignored_however_it_is_cut(cuts: list[int]) -> None:
    client = HttpClient()
    client.request("GET", "/", [("Host", "host")])
    response = None
    for piece in pieces(STRAY, cuts):
        client.receive(piece)
        response = client.response() or response
    client.receive(b"")
    assert response == client.response() == HttpResponse(200, b"one")


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    client = HttpClient()
    client.request("GET", "/", [("Host", "host")])
    client.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n<ro")
    client.receive(b"ot/>")
    assert client.response() is None
    client.receive(b"")
    client.receive(b"ignored")
    assert client.response() == HttpResponse(400, b"<root/>")


def test_interim_answers_are_passed_over_but_not_for_ever() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    final = answered(interim + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert final == HttpResponse(200, b"")
    client = HttpClient(max_response_bytes=100)
    client.request("GET", "/", [("Host", "host")])
    client.receive(interim * 5)
    with pytest.raises(TooLarge):
        client.response()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no_answer"),
        (b"HTTP/1.1 200", "answer_cut_short"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\non", "answer_cut_short"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "answer_cut_short"),
    ],
)
def test_a_host_that_closes_too_early_is_told_apart(data: bytes, reason: str) -> None:
    client = HttpClient()
    client.request("GET", "/", [("Host", "host")])
    if data:
        client.receive(data)
        assert client.response() is None
    client.receive(b"")
    with pytest.raises(Malformed) as caught:
        client.response()
    assert caught.value.reason == reason


def test_a_host_that_closes_before_it_is_asked_has_not_answered() -> None:
    client = HttpClient()
    client.receive(b"")
    with pytest.raises(Malformed) as caught:
        client.response()
    assert caught.value.reason == "no_answer"


def test_what_is_no_answer_is_malformed() -> None:
    with pytest.raises(Malformed) as caught:
        answered(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    assert caught.value.reason == "bad_answer"


def test_large_answers_are_refused() -> None:
    with pytest.raises(TooLarge):
        answered(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000)
    client = HttpClient(max_response_bytes=100)
    client.request("GET", "/", [("Host", "host")])
    client.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"a" * 101)
    with pytest.raises(TooLarge):
        client.response()


def test_an_answers_type_is_given_and_its_body_hidden() -> None:
    response = answered(
        b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: image/png\r\nContent-Length: 2\r\n\r\nok"
    )
    assert response is not None
    assert response.content_type == "image/png"
    assert "ok" not in repr(response)


# --- recorded exchanges


@needs_captures
def test_recorded_requests_are_read_and_written_byte_for_byte() -> None:
    seen = 0
    for exchange in http_exchanges():
        server = HttpServer()
        server.receive(exchange.requests)
        for raw in exchange.requests.split(b"\r\n\r\n")[:-1]:
            request = server.next_request()
            assert request is not None
            server.respond(200, b"", close=False)
            if request.method == "POST":
                break
            lines = raw.decode().split("\r\n")
            headers = [(name, value) for name, _, value in (x.partition(": ") for x in lines[1:])]
            target = f"{request.path}?{request.query.encode()}"
            assert HttpClient().request(request.method, target, headers) == raw + b"\r\n\r\n"
            seen += 1
    assert seen > 20


@needs_captures
def test_recorded_answers_are_read_and_written_byte_for_byte() -> None:
    seen = 0
    for exchange in http_exchanges():
        if not exchange.whole or exchange.answers == b"":
            continue
        client, server = HttpClient(), HttpServer()
        client.request("GET", "/", [("Host", "host")])
        client.receive(exchange.answers)
        response = client.response()
        assert response is not None, exchange.name
        server.receive(GET)
        assert server.next_request() is not None
        written = server.respond(response.status, response.body, None, close=False)
        assert exchange.answers.startswith(written), exchange.name
        seen += 1
    assert seen > 10
