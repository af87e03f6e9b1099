"""Reads the exchanges recorded between real peers, where they lie beside the checkout."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

CAPTURES = Path(__file__).resolve().parents[2].parent / "shared" / "captures"
STREAM = CAPTURES / "stream-20mbps-first-1.5s.pcap"

needs_captures = pytest.mark.skipif(not CAPTURES.is_dir(), reason="no recorded exchanges here")


@dataclass(frozen=True)
class Exchange:
    """One RTSP connection: what the client sent, what the host answered, segment by segment."""

    request: list[bytes]
    response: list[bytes]


def rtsp_exchanges(path: Path, port: int = 48010) -> list[Exchange]:
    found = []
    for block in re.split(rb"=====+\n", path.read_bytes()):
        if not block.startswith(b"##### ") or f" port {port}\n".encode() not in block[:64]:
            continue
        rest = block.partition(b"\n")[2]
        sides: dict[bool, list[bytes]] = {False: [], True: []}
        first: bool | None = None
        while rest:
            count, _, rest = rest.partition(b"\n")
            indented = count.startswith(b"\t")
            first = indented if first is None else first
            size = int(count)
            sides[indented].append(rest[:size])
            rest = rest[size + 1 :]
        assert first is not None
        found.append(Exchange(sides[first], sides[not first]))
    return found


def all_rtsp_exchanges() -> list[Exchange]:
    return [
        exchange
        for path in sorted(CAPTURES.glob("*.wire.txt"))
        for exchange in rtsp_exchanges(path)
    ]


@dataclass(frozen=True)
class Datagram:
    source: int
    destination: int
    payload: bytes


def datagrams(path: Path = STREAM) -> list[Datagram]:
    """The UDP datagrams of a little-endian pcap of Ethernet frames with IPv4 in them."""
    data = path.read_bytes()
    assert data[:4] == b"\xd4\xc3\xb2\xa1"
    found, offset = [], 24
    while offset < len(data):
        (length,) = struct.unpack_from("<I", data, offset + 8)
        packet = data[offset + 16 + 14 : offset + 16 + length]
        offset += 16 + length
        header = (packet[0] & 15) * 4
        if packet[9] == 17:
            source, destination, size = struct.unpack_from(">HHH", packet, header)
            found.append(Datagram(source, destination, packet[header + 8 : header + size]))
    return found
