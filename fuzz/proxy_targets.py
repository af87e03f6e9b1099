"""The target of the PROXY header, which load balancers put before what clients say."""

from __future__ import annotations

from typing import Final

from fuzz.target import Target, chunks, promise
from revdial.proxy_protocol import HeaderParser, HeaderRefused, Route, max_v2_bytes

_SIGNATURE: Final = bytes.fromhex("0d0a0d0a000d0a515549540a")


def _read(pieces: list[bytes]) -> tuple[Route | None, bytes, str]:
    """Give what a header says, what is behind it, and why it was refused."""
    parser, rest = HeaderParser(), b""
    try:
        for piece in pieces:
            rest += parser.receive(piece)
        parser.end()
    except HeaderRefused as error:
        return None, b"", error.reason
    return parser.route, rest, ""


def _read_as_wanted(whole: bytes) -> tuple[Route | None, bytes, str]:
    pieces, measure = [], HeaderParser()
    try:
        while whole and measure.wants:
            pieces.append(whole[: measure.wants])
            whole = whole[measure.wants :]
            promise(not measure.receive(pieces[-1]), "no more is wanted than belongs to it")
    except HeaderRefused:
        pass
    return _read([*pieces, whole])


def _proxy_header(data: bytes) -> None:
    whole, pieces = chunks(data)
    at_once, in_pieces = _read([whole]), _read(pieces)
    promise(at_once == in_pieces, "a header does not depend on the cut")
    promise(_read_as_wanted(whole) == at_once, "nor on reading as it wants")
    route, rest, reason = at_once
    if not reason:
        promise(whole.endswith(rest), "what is behind it is not touched")
        promise(len(whole) - len(rest) <= max_v2_bytes, "it is bounded")
    if route is not None:
        promise(min(route.source_port, route.destination_port) >= 0, "ports exist")
        promise(max(route.source_port, route.destination_port) < 1 << 16, "ports exist")
        promise("%" not in route.source + route.destination, "addresses have no scope")


def _seeds() -> list[bytes]:
    v4 = bytes.fromhex("c0000201c6336407dc0401bb")
    v6 = bytes(15) + b"\x01" + bytes(10) + b"\xff\xff" + v4[:4] + v4[8:]
    return [
        b"\0PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nGET / HTTP/1.1\r\n",
        b"\1PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 65535\r\n",
        b"\0PROXY UNKNOWN what \n ever\r\n\x16\x03",
        b"\0" + _SIGNATURE + b"\x21\x11\x00\x13" + v4 + b"\x03\x00\x04abcd" + b"\x16\x03",
        b"\3" + _SIGNATURE + b"\x21\x21\x00\x24" + v6,
        b"\0" + _SIGNATURE + b"\x20\x00\x00\x00",
        b"\0" + _SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216),
    ]


PROXY_TARGETS: Final = (
    Target("proxy_header", ("revdial.proxy_protocol",), _proxy_header, (), _seeds),
)
