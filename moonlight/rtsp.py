"""RTSP messages as Moonlight and its hosts send them: one message a TCP connection.

A message that nobody changed is written back byte for byte, the spacing of its headers included,
because old hosts and clients search these texts rather than parse them. Bytes above 0x7F pass as
Latin-1. Requests have a body only with ``Content-length``; an answer without one ends with the
connection (protocol §5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar, cast, overload

from moonlight.errors import Malformed, TooLarge
from moonlight.flows import Flow
from moonlight.ping import is_ping_payload

if TYPE_CHECKING:
    from typing import Self

    from moonlight.launch import RtspUrl

_VERSION: Final = "RTSP/1.0"
_SEPARATOR: Final = ": "
_REQUEST_LINE: Final = re.compile(r"([A-Z_]{1,32}) ([!-~\x80-\xff]+) RTSP/1\.0")
_STATUS_LINE: Final = re.compile(r"RTSP/1\.0 ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_HEADER_LINE: Final = re.compile(r"([!-9;-~]+)(:[ \t]*)([\t -~\x80-\xff]*)")
_URL_TARGET: Final = re.compile(r"[a-z]+://([^/]*)", re.IGNORECASE)
_SERVER_PORT: Final = re.compile(r"(server_port=)([0-9]{1,5})(?![0-9])")
_MAX_U32: Final = 0xFFFFFFFF

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """What requests and answers share. Headers and body may hold secrets, so repr hides them."""

    headers: Headers = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    separators: tuple[str, ...] = field(default=(), repr=False)
    """Text between name and value, header by header, where it is not a colon and a space."""

    def header(self, name: str) -> str | None:
        """Give the first value under `name`, whatever its case, without surrounding blanks."""
        position = self._position(name)
        return None if position is None else self.headers[position][1].strip(" \t")

    @property
    def cseq(self) -> int | None:
        """The number that pairs a request with its answer; None where absent or no number."""
        text = self.header("CSeq") or ""
        return int(text) if re.fullmatch("[0-9]{1,10}", text) else None

    def with_header(self, name: str, value: str) -> Self:
        """Replace the first header of that name where it stands, or add one at the end."""
        position = self._position(name)
        if position is None:
            return replace(self, headers=(*self.headers, (name, value)))
        kept_name = self.headers[position][0]
        before, after = self.headers[:position], self.headers[position + 1 :]
        return replace(self, headers=(*before, (kept_name, value), *after))

    def _position(self, name: str) -> int | None:
        wanted = name.lower()
        for position, (present, _) in enumerate(self.headers):
            if present.lower() == wanted:
                return position
        return None

    def _encode(self, first_line: str) -> bytes:
        lines = [first_line]
        for position, (name, value) in enumerate(self.headers):
            known = position < len(self.separators)
            separator = self.separators[position] if known else _SEPARATOR
            lines.append(f"{name}{separator}{value}")
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a line of an RTSP head cannot hold a line break")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


@dataclass(frozen=True, slots=True)
class RtspRequest(_Message):
    """One request. The header's order, case and spacing are those of the sender."""

    method: str
    target: str

    def encode(self) -> bytes:
        """Write the request; ValueError where a part holds a line break."""
        return self._encode(f"{self.method} {self.target} {_VERSION}")

    def with_target(self, target: str) -> RtspRequest:
        """Ask for something else."""
        return replace(self, target=target)

    @property
    def session_host(self) -> str:
        """The host text of a URL target, else of ``Host``, without port; empty where neither is."""
        url = _URL_TARGET.match(self.target)
        return _without_port(url[1] if url else self.header("Host") or "")

    @property
    def stream(self) -> Flow | None:
        """The flow that a ``streamid=`` target names."""
        name, separator, rest = self.target.partition("=")
        kind = rest.partition("/")[0]
        if name == "streamid" and separator and kind in list(Flow):
            return Flow(kind)
        return None

    def answer(
        self, *headers: tuple[str, str], status: int = 200, reason: str = "OK", body: bytes = b""
    ) -> RtspResponse:
        """Begin the answer to this request: its CSeq, then `headers`. Adds no Content-length."""
        cseq = self.header("CSeq")
        first = () if cseq is None else (("CSeq", cseq),)
        return RtspResponse(status, reason, headers=(*first, *headers), body=body)


@dataclass(frozen=True, slots=True)
class RtspResponse(_Message):
    """One answer. A `reason` of None stands for a first line that ends with the status."""

    status: int
    reason: str | None

    def encode(self) -> bytes:
        """Write the answer; ValueError where a part holds a line break."""
        tail = "" if self.reason is None else f" {self.reason}"
        return self._encode(f"{_VERSION} {self.status}{tail}")

    @property
    def server_port(self) -> int | None:
        """The UDP port of ``Transport: server_port=``. Raises Malformed for an impossible one."""
        match = _SERVER_PORT.search(self.header("Transport") or "")
        if match is None:
            return None
        port = int(match[2])
        if not 0 < port <= 0xFFFF:
            raise Malformed("rtsp_port", f"server_port={port} is no UDP port")
        return port

    @property
    def ping_payload(self) -> str | None:
        """What pings must carry, a secret. Raises Malformed where it is not 16 printable ones."""
        payload = self.header("X-SS-Ping-Payload")
        if payload is not None and not is_ping_payload(payload):
            raise Malformed("rtsp_ping_payload", "X-SS-Ping-Payload is not 16 printable characters")
        return payload

    @property
    def connect_data(self) -> int | None:
        """What ENet's CONNECT must carry, a secret. Raises Malformed where it is no u32."""
        text = self.header("X-SS-Connect-Data")
        if text is None:
            return None
        if not re.fullmatch("[0-9]{1,10}", text) or int(text) > _MAX_U32:
            raise Malformed("rtsp_connect_data", "X-SS-Connect-Data is not a 32-bit number")
        return int(text)

    def with_transport_port(self, port: int) -> RtspResponse:
        """Name another UDP port; whatever else ``Transport`` says stays."""
        present = self.header("Transport") or ""
        changed, found = _SERVER_PORT.subn(rf"\g<1>{port}", present, count=1)
        return self.with_header("Transport", changed if found else f"server_port={port}")

    def with_ping_payload(self, payload: str) -> RtspResponse:
        """Name another ping payload, also where the host gave none."""
        if not is_ping_payload(payload):
            raise ValueError("a ping payload is 16 printable ASCII characters")
        return self.with_header("X-SS-Ping-Payload", payload)

    def with_connect_data(self, data: int) -> RtspResponse:
        """Name other connect data, also where the host gave none."""
        return self.with_header("X-SS-Connect-Data", str(data))


def rewrite_request(request: RtspRequest, *, session_url: RtspUrl) -> RtspRequest:
    """Make a client's request what the host expects: target and Host of its own sessionUrl0.

    Only URL targets change (OPTIONS and DESCRIBE). ``Host`` gets no port, as real clients send it.
    """
    host = f"[{session_url.host}]" if _is_bare_ipv6(session_url.host) else session_url.host
    if _URL_TARGET.match(request.target):
        request = request.with_target(str(session_url))
    return request.with_header("Host", host)


_M = TypeVar("_M", RtspRequest, RtspResponse)


class RtspParser(Generic[_M]):
    """Cuts the bytes of one connection into messages, however they were segmented.

    Give bytes to `receive`, then call `next` until it gives None. An error is final: the
    connection deserves no answer but 400.
    """

    @overload
    def __init__(
        self: RtspParser[RtspRequest],
        role: Literal["request"],
        *,
        max_message_bytes: int = ...,
        max_headers: int = ...,
    ) -> None: ...

    @overload
    def __init__(
        self: RtspParser[RtspResponse],
        role: Literal["response"],
        *,
        max_message_bytes: int = ...,
        max_headers: int = ...,
    ) -> None: ...

    def __init__(
        self,
        role: Literal["request", "response"],
        *,
        max_message_bytes: int = 65_536,
        max_headers: int = 64,
    ) -> None:
        self._role = role
        self._max_message_bytes = max_message_bytes
        self._max_headers = max_headers
        self._buffer = bytearray()
        self._searched = 0
        """So many bytes of the buffer hold no end of a head: keeps tiny segments cheap."""
        self._head: _M | None = None
        self._ended = False

    @property
    def idle(self) -> bool:
        """Whether no message has begun: a connection may end here without being cut short."""
        return not self._buffer and self._head is None

    def receive(self, data: bytes | bytearray) -> None:
        """Take what the peer sent. Raises TooLarge where no message may be that long."""
        self._buffer += data
        if len(self._buffer) > self._max_message_bytes:
            self._buffer.clear()
            raise TooLarge("rtsp_message", f"RTSP message above {self._max_message_bytes} bytes")

    def end(self) -> None:
        """Note that the peer sends no more; an answer without Content-length is whole now."""
        self._ended = True

    def next(self) -> _M | None:
        """Give the next whole message; None while more bytes are needed, or after the last one.

        Raises Malformed (also where the peer ended inside a message) and TooLarge.
        """
        if self._head is None:
            self._head = self._take_head()
            if self._head is None:
                return None
        length = self._body_length(self._head)
        if length is None or length > len(self._buffer):
            if self._ended:
                raise Malformed("rtsp_truncated", "RTSP message ended inside its body")
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        message, self._head = self._head, None
        return replace(message, body=body)

    def _take_head(self) -> _M | None:
        end = self._buffer.find(b"\r\n\r\n", self._searched)
        if end < 0:
            self._searched = max(0, len(self._buffer) - 3)
            if self._ended and self._buffer:
                raise Malformed("rtsp_truncated", "RTSP message ended inside its head")
            return None
        head = self._buffer[:end].decode("latin-1")
        parsed = _parse_head(head, self._role, self._max_headers)
        del self._buffer[: end + 4]
        self._searched = 0
        return cast("_M", parsed)

    def _body_length(self, head: _M) -> int | None:
        """How many bytes follow the head; None while that is unknown."""
        lengths = [value for name, value in head.headers if name.lower() == "content-length"]
        if not lengths:
            if self._role == "request":
                return 0
            return len(self._buffer) if self._ended else None
        text = lengths[0].strip(" \t")
        if len(lengths) > 1 or not re.fullmatch("[0-9]{1,10}", text):
            raise Malformed("rtsp_content_length", "RTSP message with an unusable Content-length")
        if int(text) > self._max_message_bytes:
            raise TooLarge("rtsp_message", f"RTSP body of {int(text)} bytes")
        return int(text)


def parse_request(data: bytes) -> RtspRequest:
    """Read the one request of some bytes. Raises as `RtspParser`, and Malformed for no bytes."""
    return _only_message(RtspParser("request"), data)


def parse_response(data: bytes) -> RtspResponse:
    """Read the one answer of some bytes. Raises as `RtspParser`, and Malformed for no bytes."""
    return _only_message(RtspParser("response"), data)


def _only_message(parser: RtspParser[_M], data: bytes) -> _M:
    parser.receive(data)
    parser.end()
    message = parser.next()
    if message is None:
        raise Malformed("rtsp_truncated", "RTSP message without a byte")
    return message


def _parse_head(
    head: str, role: Literal["request", "response"], max_headers: int
) -> RtspRequest | RtspResponse:
    first_line, *lines = head.split("\r\n")
    if len(lines) > max_headers:
        raise TooLarge("rtsp_headers", f"RTSP message with more than {max_headers} headers")
    parsed = list(_header_parts(lines))
    headers = tuple((name, value) for name, _, value in parsed)
    separators = tuple(separator for _, separator, _ in parsed)
    if all(separator == _SEPARATOR for separator in separators):
        separators = ()
    if role == "request":
        if match := _REQUEST_LINE.fullmatch(first_line):
            return RtspRequest(match[1], match[2], headers=headers, separators=separators)
    elif match := _STATUS_LINE.fullmatch(first_line):
        return RtspResponse(int(match[1]), match[2], headers=headers, separators=separators)
    # Not quoted: it may be another protocol's request, sent to the wrong port with a key in it.
    raise Malformed("rtsp_first_line", f"The first line is not that of an RTSP {role}.")


def _header_parts(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    for line in lines:
        match = _HEADER_LINE.fullmatch(line)
        if match is None:
            raise Malformed("rtsp_header", "RTSP message with a line that is no header")
        yield match[1], match[2], match[3]


def _is_bare_ipv6(host: str) -> bool:
    return ":" in host and not host.startswith("[")


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text if text.count(":") > 1 else text.partition(":")[0]
