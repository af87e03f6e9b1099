"""HTTP/1.1 as Moonlight and its hosts speak it, one connection at a time, without I/O.

h11 reads and writes the messages; this module bounds them and knows the field's habits: clients
that close after each answer or keep alive, and hosts that close without saying so and send a
stray second answer behind the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, unquote_plus

import h11

from moonlight.errors import Malformed, TooLarge, printable

_Headers = Iterable[tuple[str, str]]
_Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]

bad_request: Final = 400
method_not_allowed: Final = 405
content_too_large: Final = 413
header_fields_too_large: Final = 431


class BadRequest(Malformed):
    """Bytes that are no HTTP request; `status` is the answer they deserve."""

    def __init__(self, reason: str, message: str, status: int = bad_request) -> None:
        super().__init__(reason, message)
        self.status = status


class RequestTooLarge(TooLarge):
    """A request beyond its limits; `status` is the answer it deserves."""

    def __init__(self, reason: str, message: str, status: int = content_too_large) -> None:
        super().__init__(reason, message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Query:
    """The part of a target behind ``?``, each field kept exactly as it came.

    `fields` are the raw ``name=value`` texts, so that what is not replaced is passed on byte for
    byte. The repr shows names only: values hold keys and PIN salts.
    """

    fields: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Query:
        """Split a query; any text is one."""
        return cls(tuple(text.split("&")) if text else ())

    @classmethod
    def of(cls, *pairs: tuple[str, str]) -> Query:
        """Build a query from decoded names and values."""
        return cls(tuple(_field(name, value) for name, value in pairs))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Decoded names and values, in order."""
        return tuple(_pair(raw) for raw in self.fields)

    def get(self, name: str, default: str | None = None) -> str | None:
        """Give the decoded value of the first field of that name."""
        return next((value for key, value in self.pairs if key == name), default)

    def replaced(self, **values: str) -> Query:
        """Give the query with these values: in place, later namesakes removed, new ones behind."""
        fields: list[str] = []
        left = dict(values)
        for raw in self.fields:
            name, _ = _pair(raw)
            if name not in values:
                fields.append(raw)
            elif name in left:
                fields.append(_field(name, left.pop(name)))
        fields.extend(_field(name, value) for name, value in left.items())
        return Query(tuple(fields))

    def encode(self) -> str:
        """Write the query as it came; what was added is percent-encoded."""
        return "&".join(self.fields)

    def __add__(self, other: Query) -> Query:
        return Query(self.fields + other.fields)

    def __repr__(self) -> str:
        return f"Query({', '.join(printable(name) for name, _ in self.pairs)})"


def _pair(raw: str) -> tuple[str, str]:
    name, _, value = raw.partition("=")
    return unquote_plus(name), unquote_plus(value)


def _field(name: str, value: str) -> str:
    return f"{quote(name, safe='')}={quote(value, safe='')}"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. `path` is as it came, without host, query and fragment."""

    method: str
    path: str
    query: Query = Query()
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def header(self, name: str) -> str | None:
        """Give the first header of that name, in any case."""
        return next((value for key, value in self.headers if key == name.lower()), None)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One answer; `content_type` is empty when the host names none."""

    status: int
    body: bytes = field(repr=False)
    content_type: str = ""


class _Connection:
    """h11, fed in slices so that a limit means the same however the bytes were cut.

    h11 looks at its limit only when it lacks bytes: it would take a head of any size that arrives
    in one piece.
    """

    def __init__(self, role: type[h11.CLIENT] | type[h11.SERVER], max_head_bytes: int) -> None:
        self.h11 = h11.Connection(role, max_incomplete_event_size=max_head_bytes)
        self._max_head_bytes = max_head_bytes
        self._waiting = bytearray()
        self._eof = False
        self.eof_told = False

    @property
    def waiting_bytes(self) -> int:
        """How much has come that is not looked at yet."""
        return len(self._waiting)

    @property
    def eof(self) -> bool:
        return self._eof

    def receive(self, data: bytes | bytearray) -> None:
        self._waiting += data
        self._eof = not data

    def next_event(self) -> _Event:
        while True:
            event = self.h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._waiting:
                room = self._max_head_bytes + 1 - len(self.h11.trailing_data[0])
                self.h11.receive_data(bytes(self._waiting[:room]))
                del self._waiting[:room]
            elif self._eof and not self.eof_told:
                self.eof_told = True
                self.h11.receive_data(b"")
            else:
                return event

    def send(self, event: h11.Request | h11.Response | h11.Data | h11.EndOfMessage) -> bytes:
        return self.h11.send(event) or b""


class HttpServer:
    """The answering side of one connection.

    Feed it with `receive`, ask `next_request` until it gives None, answer each request with
    `respond`. A request that follows on the same connection is given only after that. On
    `BadRequest` and `RequestTooLarge` answer with the error's `status` and close.
    """

    def __init__(self, *, max_request_bytes: int = 16_384, max_body_bytes: int = 65_536) -> None:
        self._connection = _Connection(h11.SERVER, max_request_bytes)
        self._max_request_bytes = max_request_bytes
        self._max_body_bytes = max_body_bytes
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._answering = False
        self._ended = False
        self._failed = False

    @property
    def at_eof(self) -> bool:
        """Whether the client has sent its last byte."""
        return self._connection.eof

    @property
    def wants_close(self) -> bool:
        """Whether this connection can carry no further request."""
        return self._ended or self._failed

    def receive(self, data: bytes | bytearray) -> None:
        """Take what the client sent, b"" for the end. Also while an answer is being held back."""
        if self.at_eof or self.wants_close:
            return
        self._connection.receive(data)
        most = self._max_request_bytes + self._max_body_bytes
        if self._answering and self._connection.waiting_bytes > most:
            self._failed = True
            raise RequestTooLarge(
                "pipelined_too_much", "The client sent too much before it had its answer."
            )

    def next_request(self) -> HttpRequest | None:
        """Give the next whole request, None when more bytes are wanted or none may come now."""
        if self._answering or self.wants_close:
            return None
        try:
            return self._read()
        except h11.RemoteProtocolError as error:
            self._failed = True
            if error.error_status_hint == header_fields_too_large:
                raise RequestTooLarge(
                    "request_too_large",
                    f"The request's head has more than {self._max_request_bytes} bytes.",
                    header_fields_too_large,
                ) from None
            raise BadRequest(
                "bad_request", "The bytes are not an HTTP request.", error.error_status_hint
            ) from None

    def _read(self) -> HttpRequest | None:
        while True:
            event = self._connection.next_event()
            match event:
                case h11.Request():
                    self._begin(event)
                case h11.Data():
                    self._body += event.data
                    self._check_body(len(self._body))
                case h11.EndOfMessage():
                    self._answering = True
                    return self._request()
                case h11.ConnectionClosed():
                    self._ended = True
                    return None
                case _:
                    return None

    def _begin(self, head: h11.Request) -> None:
        self._head = head
        self._body.clear()
        if head.method == b"CONNECT":
            # h11 would take any good answer to it for the end of HTTP on this connection.
            self._failed = True
            raise BadRequest(
                "method_not_allowed", "This server is no proxy.", status=method_not_allowed
            )
        for name, value in head.headers:
            if name == b"content-length":
                self._check_body(int(value))

    def _check_body(self, length: int) -> None:
        if length > self._max_body_bytes:
            self._failed = True
            raise RequestTooLarge(
                "body_too_large", f"The request's body has more than {self._max_body_bytes} bytes."
            )

    def _request(self) -> HttpRequest:
        head = self._head
        assert head is not None  # noqa: S101 - h11 gives no EndOfMessage without a Request
        path, query = _split_target(head.target.decode("ascii"))
        return HttpRequest(
            method=head.method.decode("ascii"),
            path=path,
            query=Query.parse(query),
            body=bytes(self._body),
            headers=tuple(
                (name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers
            ),
        )

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: str | None = "application/xml",
        *,
        close: bool,
    ) -> bytes:
        """Write the answer to the request given last, or to the error raised last.

        With `close`, or where the client wants it or the connection has failed, the answer says
        ``Connection: close`` and `wants_close` turns true.
        """
        close = close or self._failed or self.at_eof
        headers = [] if content_type is None else [("Content-Type", content_type)]
        headers.append(("Content-Length", str(len(body))))
        if close:
            headers.append(("Connection", "close"))
        response = h11.Response(status_code=status, headers=headers, reason=_reason_phrase(status))
        answer = self._connection.send(response)
        if body and not (self._head is not None and self._head.method == b"HEAD"):
            answer += self._connection.send(h11.Data(data=body))
        answer += self._connection.send(h11.EndOfMessage())
        self._next_cycle()
        return answer

    def _next_cycle(self) -> None:
        self._answering = False
        self._head = None
        if self._connection.h11.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self._connection.h11.start_next_cycle()
        else:
            self._ended = True


class HttpClient:
    """The asking side of one connection towards a host, for one request.

    The first answer's Content-Length is honoured, and whatever follows it is ignored: some hosts
    send a stray second answer. An answer without a length ends with the connection. Close the
    connection after `response` has given something.
    """

    def __init__(
        self, *, max_response_bytes: int = 8 * 1024 * 1024, max_head_bytes: int = 16_384
    ) -> None:
        self._connection = _Connection(h11.CLIENT, max_head_bytes)
        self._max_response_bytes = max_response_bytes
        self._received_bytes = 0
        self._head: h11.Response | None = None
        self._body = bytearray()
        self._response: HttpResponse | None = None

    def request(self, method: str, target: str, headers: _Headers, body: bytes = b"") -> bytes:
        """Write the request, once a connection; `headers` hold at least Host, not the length."""
        length = [("Content-Length", str(len(body)))] if body else []
        head = h11.Request(method=method, target=target, headers=[*headers, *length])
        events = (head, h11.Data(data=body), h11.EndOfMessage())
        return b"".join(self._connection.send(event) for event in events)

    def receive(self, data: bytes | bytearray) -> None:
        """Take what the host sent, b"" for the end."""
        if self._connection.eof or self._response is not None:
            return
        self._received_bytes += len(data)
        self._connection.receive(data)

    def response(self) -> HttpResponse | None:
        """Give the answer once it is whole; None while more bytes are wanted."""
        while self._response is None:
            event = self._next_event()
            match event:
                case h11.Response():
                    self._head = event
                case h11.Data():
                    self._body += event.data
                    self._check_size(len(self._body))
                case h11.EndOfMessage():
                    self._response = self._whole()
                case h11.InformationalResponse():
                    self._check_size(self._received_bytes)
                case _:
                    return None
        return self._response

    def _next_event(self) -> _Event:
        try:
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            if self._connection.eof_told:
                raise self._cut_short() from None
            if error.error_status_hint == header_fields_too_large:
                raise TooLarge(
                    "answer_too_large", "The head of the host's answer is too large."
                ) from None
            raise Malformed("bad_answer", "The host's answer is not HTTP.") from None
        if isinstance(event, h11.ConnectionClosed):
            raise self._cut_short()
        return event

    def _cut_short(self) -> Malformed:
        if self._received_bytes == 0:
            return Malformed("no_answer", "The host closed the connection without an answer.")
        return Malformed("answer_cut_short", "The host closed the connection amid its answer.")

    def _check_size(self, length: int) -> None:
        if length > self._max_response_bytes:
            raise TooLarge(
                "answer_too_large",
                f"The host's answer has more than {self._max_response_bytes} bytes.",
            )

    def _whole(self) -> HttpResponse:
        head = self._head
        assert head is not None  # noqa: S101 - h11 gives no EndOfMessage without a Response
        content_type = next((value for name, value in head.headers if name == b"content-type"), b"")
        return HttpResponse(
            status=head.status_code,
            body=bytes(self._body),
            content_type=printable(content_type.decode("latin-1")),
        )


def _split_target(target: str) -> tuple[str, str]:
    """Split a request target into path and query; an absolute URL loses scheme and host."""
    target = target.partition("#")[0]
    path, _, query = target.partition("?")
    if "://" in path:
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path, query


def _reason_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
