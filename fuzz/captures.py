"""Seeds out of the exchanges recorded between real peers, where they lie beside the checkout."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Final

_CAPTURES: Final = Path(__file__).resolve().parents[2] / "shared" / "captures"
_FRAME_BYTES: Final = 14
_UDP: Final = 17
_max_datagrams: Final = 60


@dataclass(frozen=True, slots=True)
class Conversation:
    """One TCP connection: its server's port, and what each side sent."""

    port: int
    asked: bytes
    answered: bytes


@cache
def conversations() -> tuple[Conversation, ...]:
    """Give all recorded connections; none where there are no recordings."""
    return tuple(
        conversation
        for path in sorted(_CAPTURES.glob("*.wire.txt"))
        for block in re.split(rb"=====+\n", path.read_bytes())
        if (conversation := _conversation(block))
    )


def asked(*ports: int) -> list[bytes]:
    """Give what clients sent to these ports."""
    return sorted({each.asked for each in conversations() if each.port in ports})


def answered(*ports: int) -> list[bytes]:
    """Give what servers answered on these ports."""
    return sorted({each.answered for each in conversations() if each.port in ports})


def _conversation(block: bytes) -> Conversation | None:
    head, _, rest = block.partition(b"\n")
    port = re.search(rb"port ([0-9]+)", head)
    # Segments: a line with the byte count, indented for one of the sides, then the bytes.
    parts = re.split(rb"(?:\A|(?<=\n))(\t?[0-9]{2,5})\n", rest)
    if port is None or len(parts) < 3:
        return None
    sides = {True: b"", False: b""}
    indented_first = parts[1].startswith(b"\t")
    for count, segment in zip(parts[1::2], parts[2::2], strict=True):
        sides[count.startswith(b"\t") == indented_first] += segment.removesuffix(b"\n")
    return Conversation(int(port[1]), sides[True], sides[False])


@cache
def udp(port: int) -> tuple[tuple[bool, bytes], ...]:
    """Give a port's first datagrams, and whether each went to that port."""
    found = (
        (destination == port, payload)
        for source, destination, payload in _packets()
        if port in (source, destination)
    )
    return tuple(islice(found, _max_datagrams))


def _packets() -> Iterator[tuple[int, int, bytes]]:
    for path in sorted(_CAPTURES.glob("*.pcap")):
        data, at = path.read_bytes(), 24
        while at < len(data):
            (length,) = struct.unpack_from("<I", data, at + 8)
            packet = data[at + 16 + _FRAME_BYTES : at + 16 + length]
            at += 16 + length
            if packet[9] == _UDP:
                header = (packet[0] & 15) * 4
                source, destination, size = struct.unpack_from(">HHH", packet, header)
                yield source, destination, packet[header + 8 : header + size]
