"""The PROXY protocol's header, versions 1 and 2: what a proxy says of the client it speaks for.

No I/O. The protocol behind the header may be anything (TLS on a socket that another owner takes
over), so a reader must not take a byte too many: `HeaderParser.wants` says how many bytes are
surely still the header's. Whoever reads at most that many each time leaves the stream exactly
behind the header, and needs nothing to put bytes back with.

Additional fields of version 2 (TLVs) are skipped unread, CRC32c among them: TCP has checked the
bytes, and who sent them is trusted or the header would not be read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from revdial.errors import TunnelError
from revdial.networks import plain_address

max_line_bytes: Final = 107
"""Of version 1, with its line end: the longest that the protocol allows."""
max_v2_bytes: Final = 4_096
"""Of version 2, all in all. Addresses need 52; balancers add a few hundred of their own at most."""

_v1_prefix: Final = b"PROXY "
_signature: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_v2_fixed_bytes: Final = 16
_shortest_line: Final = b"PROXY UNKNOWN\r\n"
_unknown: Final = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)
_known: Final = re.compile(
    rb"PROXY TCP([46]) ([0-9a-fA-F:.]{2,39}) ([0-9a-fA-F:.]{2,39}) "
    rb"(0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})"
)
_field_separators: Final = 5
_max_port: Final = 65_535
_local, _proxy = 0x20, 0x21
_unspecified, _inet, _inet6, _unix = 0x0, 0x1, 0x2, 0x3
_stream, _datagram = 0x1, 0x2


class HeaderFault(StrEnum):
    """Why a connection from a proxy is not served."""

    MISSING = "proxy_header_missing"
    """What came is not the beginning of a header."""
    MALFORMED = "proxy_header_malformed"
    UNSUPPORTED = "proxy_header_unsupported"
    """It speaks of a Unix socket or of datagrams."""
    TOO_LONG = "proxy_header_too_long"
    CUT_SHORT = "proxy_header_cut_short"
    """The connection ended within it."""
    TOO_SLOW = "proxy_header_too_slow"


class HeaderRefused(TunnelError):
    """A connection that has to begin with a header does not, or with none that can be used."""

    def __init__(self, fault: HeaderFault, message: str) -> None:
        super().__init__(fault.value, message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Route:
    """Where a proxied connection comes from and where its client went; IPv4-mapped as IPv4."""

    source: str
    source_port: int
    destination: str
    destination_port: int


class HeaderParser:
    """Reads one header, in whatever pieces it comes.

    Attributes:
        finished: whether the header is whole.
        route: what it says, once finished; None where the connection is the proxy's own (a
            health check), or the proxy does not know: then the socket's addresses hold.

    """

    def __init__(self) -> None:
        self.finished = False
        self.route: Route | None = None
        self._buffer = bytearray()

    @property
    def wants(self) -> int:
        """How many more bytes the header has at least; 0 once it is whole."""
        if self.finished:
            return 0
        buffer = self._buffer
        if buffer[:1] == _signature[:1]:
            return _v2_size(buffer) - len(buffer)
        if len(buffer) < len(_shortest_line):
            return len(_shortest_line) - len(buffer)
        line_end = 1 if buffer.endswith(b"\r") else 2
        missing = 0 if buffer.startswith(b"PROXY U") else _field_separators - buffer.count(b" ")
        # Each missing field has one character at least, behind its separator.
        return min(2 * max(0, missing) + line_end, max_line_bytes - len(buffer))

    def receive(self, data: bytes) -> bytes:
        """Take what came, and return what does not belong to the header any more.

        Raises:
            HeaderRefused: this is no header, or none that can be used.

        """
        if self.finished:
            return data
        buffer = self._buffer
        seen = len(buffer)
        # The rest of a large piece is the stream's; there is no need to hold it here too.
        buffer += data[: max_v2_bytes - seen]
        size = self._take()
        return data[size - seen :] if self.finished else b""

    def end(self) -> None:
        """Take the end of the connection.

        Raises:
            HeaderRefused: it came within the header.

        """
        if not self.finished and self._buffer:
            raise HeaderRefused(
                HeaderFault.CUT_SHORT, "the connection ended within the PROXY header"
            )

    def _take(self) -> int:
        """Finish if the header is whole; return how many bytes it has then."""
        buffer = self._buffer
        if buffer.startswith(_signature[: len(buffer)]):
            size = _v2_size(buffer)
            if len(buffer) >= max(size, _v2_fixed_bytes):
                self.route = _parse_v2(bytes(buffer[:size]))
                self.finished = True
            return size
        if not buffer.startswith(_v1_prefix[: len(buffer)]):
            raise HeaderRefused(
                HeaderFault.MISSING, "a connection from a proxy does not begin with a PROXY header"
            )
        length = buffer.find(b"\r\n", 0, max_line_bytes)
        if length < 0:
            if len(buffer) >= max_line_bytes:
                raise HeaderRefused(HeaderFault.TOO_LONG, "the PROXY line does not end")
            return 0
        self.route = _parse_v1(bytes(buffer[:length]))
        self.finished = True
        return length + 2


def _parse_v1(line: bytes) -> Route | None:
    if _unknown.fullmatch(line):
        return None
    match = _known.fullmatch(line)
    if match is None:
        raise _malformed("the PROXY line is not one of version 1")
    family, source, destination, *ports = (group.decode() for group in match.groups())
    address = IPv4Address if family == "4" else IPv6Address
    try:
        source, destination = str(address(source)), str(address(destination))
    except ValueError:
        raise _malformed(f"the PROXY line has an address that is not one of TCP{family}") from None
    if max(map(int, ports)) > _max_port:
        raise _malformed("the PROXY line names a port that does not exist")
    return _route(source, int(ports[0]), destination, int(ports[1]))


def _v2_size(buffer: bytes | bytearray) -> int:
    """How long a header of version 2 is, as far as it can be known yet."""
    if len(buffer) < _v2_fixed_bytes:
        return _v2_fixed_bytes
    size = _v2_fixed_bytes + int.from_bytes(buffer[14:16], "big")
    if size > max_v2_bytes:
        raise HeaderRefused(
            HeaderFault.TOO_LONG, f"a PROXY header of {size} bytes, more than {max_v2_bytes}"
        )
    return size


def _parse_v2(header: bytes) -> Route | None:
    command, family, transport = header[12], header[13] >> 4, header[13] & 0x0F
    if command not in (_local, _proxy):
        raise _malformed("the PROXY header has an unknown version or command")
    if command == _local:
        return None
    if family > _unix or transport > _datagram:
        raise _malformed("the PROXY header has an unknown address family or transport")
    if _unspecified in (family, transport):
        return None
    if family == _unix or transport == _datagram:
        raise HeaderRefused(
            HeaderFault.UNSUPPORTED, "the PROXY header is of a Unix socket or of datagrams"
        )
    length = 4 if family == _inet else 16
    block = header[_v2_fixed_bytes : _v2_fixed_bytes + 2 * length + 4]
    if len(block) < 2 * length + 4:
        raise _malformed("the PROXY header is too short for its addresses")
    address = IPv4Address if family == _inet else IPv6Address
    source, destination = str(address(block[:length])), str(address(block[length : 2 * length]))
    ports = block[2 * length :]
    return _route(
        source,
        int.from_bytes(ports[:2], "big"),
        destination,
        int.from_bytes(ports[2:], "big"),
    )


def _route(source: str, source_port: int, destination: str, destination_port: int) -> Route:
    return Route(plain_address(source), source_port, plain_address(destination), destination_port)


def _malformed(message: str) -> HeaderRefused:
    return HeaderRefused(HeaderFault.MALFORMED, message)
