"""Targets of the HTTP side: requests and answers, XML, pairing, launches, certificates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Final

from cryptography.hazmat.primitives import serialization

from fuzz import captures
from fuzz.target import Target, chunks, promise
from moonlight.applist import App, applist, parse_applist
from moonlight.errors import ProtocolError
from moonlight.http import BadRequest, HttpClient, HttpServer, Query, RequestTooLarge
from moonlight.identity import Identity, PeerCertificate
from moonlight.launch import LaunchRequest, RtspUrl, launch_answer, session_url
from moonlight.pairing import PairingClient, PairingServer, client_introduction
from moonlight.serverinfo import DisplayMode, ServerInfo
from moonlight.xml import Answer, text_element

_HTTP_PORTS: Final = (47984, 47989)
_PIN: Final = "1234"
_RSA_SHA256: Final = bytes.fromhex("300d06092a864886f70d01010b0500")


@cache
def _identity() -> Identity:
    return Identity.generate("fuzz", now=datetime(2026, 1, 1, tzinfo=UTC))


def _constant_bytes(count: int) -> bytes:
    return bytes(range(count))


# -- HTTP --------------------------------------------------------------------------------------


def _serve(pieces: list[bytes]) -> list[object]:
    """Answer everything, as a shell does; give the requests and the error's reason."""
    server, seen = HttpServer(), list[object]()
    for piece in [*pieces, b""]:
        try:
            server.receive(piece)
            while (request := server.next_request()) is not None:
                seen.append(request)
                promise(Query.parse(request.query.encode()) == request.query, "queries round-trip")
                server.respond(200, b"answer", close=False)
        except (BadRequest, RequestTooLarge) as error:
            server.respond(error.status, b"refused", close=True)
            return [*seen, error.reason]
        if server.wants_close:
            break
    return seen


def _http_server(data: bytes) -> None:
    whole, pieces = chunks(data)
    promise(_serve(pieces) == _serve([whole] if whole else []), "chunks make no difference")


def _ask(pieces: list[bytes]) -> object:
    client = HttpClient(max_response_bytes=65_536)
    client.request("GET", "/serverinfo", [("Host", "host")])
    try:
        for piece in [*pieces, b""]:
            client.receive(piece)
            if (response := client.response()) is not None:
                return response
    except ProtocolError as error:
        return type(error), error.reason
    promise(False, "the end of the connection is an answer or an error")
    return None


def _http_client(data: bytes) -> None:
    whole, pieces = chunks(data)
    promise(_ask(pieces) == _ask([whole] if whole else []), "chunks make no difference")


def _http_server_seeds() -> list[bytes]:
    return [
        b"\0" + each
        for each in (
            b"GET /serverinfo?uniqueid=0123&uuid=a HTTP/1.1\r\nHost: h\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            b"HEAD http://h/a#b HTTP/1.1\r\nHost: h\r\n\r\n\0\r\n\r\n",
            b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            *captures.asked(*_HTTP_PORTS),
        )
    ]


def _http_client_seeds() -> list[bytes]:
    return [
        b"\0" + each
        for each in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/xml\r\n\r\nokHTTP",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200\r\n\r\nuntil the end",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nok\r\n0\r\nA: b\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            *captures.answered(*_HTTP_PORTS),
        )
    ]


# -- XML ---------------------------------------------------------------------------------------


def _xml(data: bytes) -> None:
    answer = Answer.parse(data)
    promise(_parsed_again(answer) == answer, "an answer round-trips")
    with suppress(ProtocolError):
        info = ServerInfo.parse(answer)
        again = ServerInfo.parse(_parsed_again(info.to_answer()))
        promise(again == info, "a serverinfo round-trips")
    with suppress(ProtocolError):
        apps = parse_applist(answer)
        promise(parse_applist(_parsed_again(applist(apps))) == apps, "an applist round-trips")
    with suppress(ProtocolError):
        session_url(answer)


def _parsed_again(answer: Answer) -> Answer:
    return Answer.parse(answer.encode(), max_bytes=1 << 24)


def _xml_seeds() -> list[bytes]:
    info = ServerInfo("host", "id", display_modes=(DisplayMode(1280, 720, 60),), busy=True)
    bodies = [each.partition(b"\r\n\r\n")[2] for each in captures.answered(*_HTTP_PORTS)]
    return [
        info.to_answer().encode(),
        applist([App("Desktop & <more>", 1), App("Tëst", 2, hdr=True)]).encode(),
        Answer.error(503, "nö\ttab", "/launch").encode(),
        launch_answer(RtspUrl(False, "host")).encode(),
        (
            b'<?xml version="1.0" encoding="utf-16"?><!-- c --><root status_code="-1">'
            b"<a b='&#x26;'><![CDATA[<]]>&#13;</a></root>"
        ),
        b'<!DOCTYPE r [<!ENTITY a "b">]><root status_code="200">&a;</root>',
        b'<root status_code="200">' + b"<a>" * 14 + b"</a>" * 14 + b"</root>",
        *bodies,
    ]


# -- pairing -----------------------------------------------------------------------------------


def _pairing_server(data: bytes) -> None:
    """Drive one attempt with the queries of the input's lines; the first introduces the client."""
    queries = [Query.parse(line) for line in data.decode("latin-1").split("\n")]
    server = PairingServer(_identity(), random_bytes=_constant_bytes)
    server.begin(*client_introduction(queries[0]))
    server.provide_pin(_PIN)
    for query in queries:
        with suppress(ProtocolError):
            server.handle(query).encode()


def _pairing_client(data: bytes) -> None:
    """Drive one attempt with the input's answers, which a zero byte separates."""
    client = PairingClient(_identity(), _PIN, random_bytes=_constant_bytes)
    for body in data.split(b"\0"):
        client.next_query().encode()
        client.receive(Answer.parse(body))
        if client.finished:
            promise(bool(client.server_certificate.der), "who finished knows its host")
            return


@cache
def _dialogue() -> tuple[bytes, bytes]:
    """Let both sides pair; give what the client asked and what the host answered."""
    client = PairingClient(_identity(), _PIN, random_bytes=_constant_bytes)
    server = PairingServer(_identity(), random_bytes=_constant_bytes)
    server.begin(*client_introduction(client.next_query()))
    server.provide_pin(_PIN)
    asked, answered = list[str](), list[bytes]()
    while not client.finished:
        query = client.next_query()
        answer = server.handle(query)
        client.receive(answer)
        asked.append(query.encode())
        answered.append(answer.encode())
    return "\n".join(asked).encode(), b"\0".join(answered)


def _pairing_server_seeds() -> list[bytes]:
    return [_dialogue()[0], b"phrase=getservercert&salt=00&clientcert=\nphrase=pairchallenge"]


def _pairing_client_seeds() -> list[bytes]:
    waiting = Answer.ok(text_element("paired", 1), text_element("plaincert", ""))
    return [_dialogue()[1], waiting.encode(), Answer.error(400, "no").encode()]


# -- launches ----------------------------------------------------------------------------------


def _launch(data: bytes) -> None:
    text = data.decode("latin-1")
    query = Query.parse(text)
    promise(query.encode() == text, "a query is written as it came")
    for resume in (False, True):
        with suppress(ProtocolError):
            request = LaunchRequest.parse(query, resume)
            promise(request.to_query() == query, "a launch keeps its query")
            promise(request.to_query(app_id=7).get("appid") == "7", "the app's id is replaced")
            again = LaunchRequest.parse(request.to_query(app_id=7), resume)
            promise((again.rikey, again.mode) == (request.rikey, request.mode), "and only that")
    for read in (RtspUrl.parse, _url_of_answer):
        with suppress(ProtocolError):
            url = read(text)
            promise(RtspUrl.parse(str(url)) == url, "a session URL round-trips")


def _url_of_answer(text: str) -> RtspUrl:
    return session_url(Answer.ok(text_element("sessionUrl0", text)))


def _launch_seeds() -> list[bytes]:
    queries = [each.partition(b"?")[2].partition(b" ")[0] for each in captures.asked(*_HTTP_PORTS)]
    return [
        (
            b"appid=1&mode=1280x720x60&rikey=00112233445566778899aabbccddeeff&rikeyid=-1&corever=1"
            b"&surroundAudioInfo=196610&localAudioPlayMode=0&hdrMode=1"
        ),
        b"rikey=00112233445566778899AABBCCDDEEFF&rikeyid=4294967295&%61ppid=1&appid=2&+=%zz",
        b"rtsp://192.0.2.1:48010",
        b"rtspenc://[2001:db8::1]",
        *queries,
    ]


# -- certificates ------------------------------------------------------------------------------


def _identity_target(data: bytes) -> None:
    makers: tuple[Callable[[bytes], PeerCertificate], ...] = (
        PeerCertificate.from_pem,
        PeerCertificate.from_der,
        _certificate_around_key,
    )
    for make in makers:
        with suppress(ProtocolError):
            certificate = make(data)
            again = PeerCertificate.from_pem(certificate.pem)
            promise(again == certificate, "a certificate round-trips through PEM")
            certificate.verify(b"data", certificate.signature)
            certificate.verify(b"data", data[-256:])


def _certificate_around_key(key: bytes) -> PeerCertificate:
    """Make a version 1 certificate with this public key, that the fuzzer need not find DER."""
    blank = _der(0x30, b"") * 4
    inner = _der(0x30, _der(0x02, b"\0") + blank + key)
    return PeerCertificate(_der(0x30, inner + _RSA_SHA256 + _der(0x03, bytes(257))))


def _der(tag: int, content: bytes) -> bytes:
    return bytes([tag, 0x82]) + len(content).to_bytes(4, "big")[2:] + content


def _identity_seeds() -> list[bytes]:
    public = _identity().key.public_key()
    key = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    certificate = _identity().certificate
    return [certificate.der, certificate.pem, key, _certificate_around_key(key).der]


HTTP_TARGETS: Final = (
    Target("http_server", ("moonlight.http",), _http_server, (), _http_server_seeds),
    Target("http_client", ("moonlight.http",), _http_client, (), _http_client_seeds),
    Target(
        "xml",
        ("moonlight.xml", "moonlight.serverinfo", "moonlight.applist"),
        _xml,
        (ProtocolError,),
        _xml_seeds,
    ),
    Target(
        "pairing_server",
        ("moonlight.pairing",),
        _pairing_server,
        (ProtocolError,),
        _pairing_server_seeds,
    ),
    Target(
        "pairing_client",
        ("moonlight.pairing",),
        _pairing_client,
        (ProtocolError,),
        _pairing_client_seeds,
    ),
    Target("launch", ("moonlight.launch",), _launch, (), _launch_seeds),
    Target("identity", ("moonlight.identity",), _identity_target, (), _identity_seeds),
)
