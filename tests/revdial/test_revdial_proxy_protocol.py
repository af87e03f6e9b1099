from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revdial.observer import Refusal
from revdial.proxy_protocol import (
    HeaderFault,
    HeaderParser,
    HeaderRefused,
    Route,
    max_line_bytes,
    max_v2_bytes,
)

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
ROUTE = Route("192.0.2.1", 56_324, "198.51.100.7", 443)
V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
V1_IPV6 = b"PROXY TCP6 2001:DB8::1 2001:db8:0:0:0:0:0:2 1 65535\r\n"
LONGEST_V1 = b"PROXY UNKNOWN " + b"f" * (max_line_bytes - 16) + b"\r\n"


def v2(
    route: Route | None = ROUTE, *, command: int = 0x21, kind: int | None = None, tlvs: bytes = b""
) -> bytes:
    block = b""
    if route is not None:
        source, destination = ip_address(route.source), ip_address(route.destination)
        block = source.packed + destination.packed
        block += route.source_port.to_bytes(2, "big") + route.destination_port.to_bytes(2, "big")
        kind = kind if kind is not None else (0x11 if source.version == 4 else 0x21)
    body = block + tlvs
    return SIGNATURE + bytes([command, kind or 0]) + len(body).to_bytes(2, "big") + body


def v1(source: object, destination: object, source_port: int, destination_port: int) -> bytes:
    family = ip_address(str(source)).version
    return f"PROXY TCP{family} {source} {destination} {source_port} {destination_port}\r\n".encode()


def read(data: bytes) -> tuple[Route | None, bytes]:
    parser = HeaderParser()
    rest = parser.receive(data)
    assert parser.finished
    return parser.route, rest


@pytest.mark.parametrize(
    ("header", "route"),
    [
        (V1, ROUTE),
        (V1_IPV6, Route("2001:db8::1", 1, "2001:db8::2", 65_535)),
        (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 0\r\n", Route("0.0.0.0", 0, "255.255.255.255", 0)),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Route("192.0.2.1", 1, "::1", 2)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN \r\n", None),
        (b"PROXY UNKNOWN what\n ever \r comes\r\n", None),
        (LONGEST_V1, None),
        (v2(), ROUTE),
        (v2(Route("2001:db8::1", 1, "::1", 2)), Route("2001:db8::1", 1, "::1", 2)),
        (v2(Route("::ffff:192.0.2.1", 1, "::1", 2)), Route("192.0.2.1", 1, "::1", 2)),
        (v2(tlvs=b"\x03\x00\x04\xde\xad\xbe\xef\x04\x00\x00"), ROUTE),
        (v2(tlvs=bytes(max_v2_bytes - 28)), ROUTE),
        (v2(None, command=0x20), None),
        (v2(command=0x20), None),
        (v2(command=0x20, kind=0xFF), None),
        (v2(None), None),
        (v2(kind=0x10), None),
        (v2(kind=0x01), None),
    ],
)
def test_a_header_tells_whose_connection_it_is_and_what_follows_is_not_touched(
    header: bytes, route: Route | None
) -> None:
    assert read(header) == (route, b"")
    assert read(header + b"\x16\x03\x01") == (route, b"\x16\x03\x01")
    assert read(header + header) == (route, header)


@pytest.mark.parametrize(
    "beginning", [b"G", b"\x16", b"OPT", b"PROXx", b"p", b"\r\n\r\n\x00\r\nQUIT\r", b"\r\nx"]
)
def test_what_is_no_header_is_known_at_its_first_wrong_byte(beginning: bytes) -> None:
    with pytest.raises(HeaderRefused) as caught:
        HeaderParser().receive(beginning)
    assert caught.value.fault is HeaderFault.MISSING
    assert caught.value.reason == "proxy_header_missing"


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 \r\n",
        b"PROXY TCP4 192.0.2.1  198.51.100.7 56324 443\r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.7 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.7 1 2\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.7 1 2\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.7 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 -1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\r\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n",
        b"PROXY TCP6 2001::db8::1 ::1 1 2\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY unknown\r\n",
        b"PROXY \xb9\xb9\xb9\r\n",
        b"PROXY \r\n",
    ],
)
def test_a_line_must_be_written_exactly_as_agreed(line: bytes) -> None:
    with pytest.raises(HeaderRefused) as caught:
        HeaderParser().receive(line)
    assert caught.value.fault is HeaderFault.MALFORMED


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (v2(command=0x11), HeaderFault.MALFORMED),
        (v2(command=0x31), HeaderFault.MALFORMED),
        (v2(command=0x22), HeaderFault.MALFORMED),
        (v2(kind=0x41), HeaderFault.MALFORMED),
        (v2(kind=0x13), HeaderFault.MALFORMED),
        (v2(kind=0x21), HeaderFault.MALFORMED),
        (v2(None, kind=0x11), HeaderFault.MALFORMED),
        (v2(kind=0x12), HeaderFault.UNSUPPORTED),
        (v2(Route("::1", 1, "::1", 2), kind=0x22), HeaderFault.UNSUPPORTED),
        (v2(None, kind=0x31, tlvs=bytes(216)), HeaderFault.UNSUPPORTED),
        (v2(tlvs=bytes(max_v2_bytes - 27))[:16], HeaderFault.TOO_LONG),
        (LONGEST_V1.replace(b"\r\n", b"f\r\n"), HeaderFault.TOO_LONG),
        (b"PROXY " + b"x" * 10_000, HeaderFault.TOO_LONG),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(header: bytes, fault: HeaderFault) -> None:
    with pytest.raises(HeaderRefused) as caught:
        HeaderParser().receive(header)
    assert caught.value.fault is fault
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("header", [V1, v2()])
def test_an_end_within_the_header_is_told_and_one_before_or_behind_it_is_not(header: bytes) -> None:
    HeaderParser().end()
    whole = HeaderParser()
    whole.receive(header)
    whole.end()
    for length in range(1, len(header)):
        parser = HeaderParser()
        assert parser.receive(header[:length]) == b""
        with pytest.raises(HeaderRefused) as caught:
            parser.end()
        assert caught.value.fault is HeaderFault.CUT_SHORT


ADDRESSES = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
PORTS = st.integers(0, 65_535)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    source, destination = draw(ADDRESSES)
    ports = draw(PORTS), draw(PORTS)
    match draw(st.integers(0, 2)):
        case 0:
            return v1(source, destination, *ports)
        case 1:
            text = draw(st.binary(max_size=91).filter(lambda each: b"\r\n" not in each + b"\r"))
            return b"PROXY UNKNOWN " + text + b"\r\n"
        case _:
            route = Route(str(source), ports[0], str(destination), ports[1])
            return v2(route, tlvs=draw(st.binary(max_size=40)))


@given(headers(), st.binary(max_size=30), st.lists(st.integers(1, 20), min_size=1))
def test_the_header_does_not_depend_on_how_it_is_cut(
    header: bytes, rest: bytes, cuts: list[int]
) -> None:
    whole = read(header + rest)
    assert whole[1] == rest
    parser, stream, left, number = HeaderParser(), header + rest, b"", 0
    while stream:
        size = cuts[number % len(cuts)]
        left += parser.receive(stream[:size])
        stream, number = stream[size:], number + 1
    assert (parser.route, left) == whole


@given(headers())
def test_who_reads_no_more_than_is_wanted_never_reads_too_much(header: bytes) -> None:
    parser, stream = HeaderParser(), header + b"the stream's own"
    while parser.wants:
        piece, stream = stream[: parser.wants], stream[parser.wants :]
        assert parser.receive(piece) == b""
    assert parser.finished
    assert stream == b"the stream's own"


@given(ADDRESSES, PORTS, PORTS)
def test_both_versions_say_the_same(
    addresses: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address], one: int, other: int
) -> None:
    source, destination = addresses
    route = Route(str(source), one, str(destination), other)
    assert read(v1(source, destination, one, other)) == read(v2(route))


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11"])
)
def test_any_bytes_are_a_header_or_refused_and_never_held_without_end(
    data: bytes, prefix: bytes
) -> None:
    parser = HeaderParser()
    with suppress(HeaderRefused):
        for byte in prefix + data:
            if parser.receive(bytes([byte])):
                break
            assert parser.finished or parser.wants > 0
    assert len(parser._buffer) <= max_v2_bytes


def test_every_fault_can_be_counted_at_the_agents_port() -> None:
    assert {Refusal(fault) for fault in HeaderFault} == {
        refusal for refusal in Refusal if refusal.name.startswith("PROXY_")
    }
