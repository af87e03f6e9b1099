"""How datagrams travel in WebSocket messages: a preamble once, then batches of equal-size runs.

A flow's data WebSocket carries media in binary messages. The first one, from edge to agent, is the
`Preamble`: u32 magic, u8 version, u8 flow kind, u8 length of the session id, u8 length of the
client address, then both as UTF-8. Every message after it, either way, is a batch: u32
microseconds of the sender's clock (wrapping), then runs of u16 segment size, u16 byte count, bytes.

A run is what one GRO read yields and one GSO write takes: datagrams of one size, of which only
the last may be shorter. A run of 0 and 0 is one empty datagram. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from revdial.errors import BadMessage

Buffer: TypeAlias = bytes | bytearray | memoryview

preamble_magic = 0xDEADBEEF
preamble_version = 1
max_datagram_bytes = 65_507
max_run_bytes = 65_535
max_batch_bytes = 262_144
max_preamble_bytes = 8 + 2 * 255


class FlowKind(StrEnum):
    """Which of a session's three UDP streams a flow is; equal to the plain words."""

    VIDEO = "video"
    AUDIO = "audio"
    CONTROL = "control"


_KIND_CODES = {FlowKind.VIDEO: 1, FlowKind.AUDIO: 2, FlowKind.CONTROL: 3}
_KINDS = {code: kind for kind, code in _KIND_CODES.items()}
_PREAMBLE = struct.Struct(">IBBBB")
_CLOCK = struct.Struct(">I")
_RUN = struct.Struct(">HH")


@dataclass(frozen=True, slots=True)
class Preamble:
    """What a flow is, said once at its start."""

    session: str
    flow: FlowKind
    client_address: str = ""

    def encode(self) -> bytes:
        """The first message of a flow's data WebSocket."""
        session, address = self.session.encode(), self.client_address.encode()
        if len(session) > 255 or len(address) > 255:
            raise BadMessage("too_large", "a flow's session id or client address is too long")
        header = _PREAMBLE.pack(
            preamble_magic, preamble_version, _KIND_CODES[self.flow], len(session), len(address)
        )
        return header + session + address

    @classmethod
    def decode(cls, message: Buffer) -> Preamble:
        """The reverse of `encode`; `BadMessage` for anything else."""
        message = bytes(message[: max_preamble_bytes + 1])
        if len(message) < _PREAMBLE.size:
            raise BadMessage("bad_preamble", "a flow's preamble is cut short")
        magic, version, code, session_length, address_length = _PREAMBLE.unpack_from(message)
        if magic != preamble_magic:
            raise BadMessage("bad_preamble", "a flow does not begin with a preamble")
        if version != preamble_version or code not in _KINDS:
            raise BadMessage("bad_preamble", "a flow's preamble has an unknown version or kind")
        if len(message) != _PREAMBLE.size + session_length + address_length:
            raise BadMessage("bad_preamble", "a flow's preamble has a wrong length")
        split = _PREAMBLE.size + session_length
        try:
            return cls(
                session=message[_PREAMBLE.size : split].decode(),
                flow=_KINDS[code],
                client_address=message[split:].decode(),
            )
        except UnicodeDecodeError:
            raise BadMessage("bad_preamble", "a flow's preamble is not UTF-8") from None


@dataclass(slots=True)
class Run:
    """Datagrams of `segment_size` bytes back to back in `data`; the last may be shorter.

    A value that nobody changes; not frozen, which would make each cost three times as much.
    """

    segment_size: int
    data: memoryview = field(repr=False)

    def __len__(self) -> int:
        """How many datagrams these are."""
        return -(-len(self.data) // self.segment_size) if self.segment_size else 1

    def datagrams(self) -> Iterator[memoryview]:
        """Each datagram, as a view."""
        if not self.segment_size:
            yield self.data
        else:
            for start in range(0, len(self.data), self.segment_size):
                yield self.data[start : start + self.segment_size]


@dataclass(slots=True)
class Batch:
    """What one message carried: runs in order, and the sender's clock when it was made."""

    microseconds: int
    runs: tuple[Run, ...]

    def datagrams(self) -> Iterator[memoryview]:
        """Each datagram of each run, in order, as views into the message."""
        for run in self.runs:
            yield from run.datagrams()


def encode_batch(microseconds: int, datagrams: Iterable[Buffer]) -> bytes:
    """One message of these datagrams in order, gathered into runs; see `encode_runs`."""
    return encode_runs(microseconds, gather(datagrams))


def encode_runs(microseconds: int, runs: Iterable[Run]) -> bytes:
    """One message of these runs; `BadMessage` where it would be larger than `max_batch_bytes`."""
    parts: list[Buffer] = [_CLOCK.pack(microseconds & 0xFFFFFFFF)]
    for run in runs:
        parts += (_RUN.pack(run.segment_size, len(run.data)), run.data)
    message = b"".join(parts)
    if len(message) > max_batch_bytes:
        raise BadMessage("too_large", f"a batch of {len(message)} bytes is too large")
    return message


def gather(datagrams: Iterable[Buffer]) -> Iterator[Run]:
    """Consecutive datagrams as runs: as many of one size as fit, closed by a shorter one."""
    size, total, parts = 0, 0, list[Buffer]()
    for datagram in datagrams:
        length = len(datagram)
        if length > max_datagram_bytes:
            raise BadMessage("too_large", f"a datagram of {length} bytes is too large")
        if parts and not (0 < length <= size and total + length <= max_run_bytes):
            yield Run(size, memoryview(b"".join(parts)))
            total, parts = 0, []
        if not parts:
            size = length
        parts.append(datagram)
        total += length
        if length < size or not length:
            yield Run(size, memoryview(b"".join(parts)))
            total, parts = 0, []
    if parts:
        yield Run(size, memoryview(b"".join(parts)))


def decode_batch(message: Buffer) -> Batch:
    """The reverse of `encode_batch`, without copying; `BadMessage` for anything else."""
    view = memoryview(message)
    if not _CLOCK.size <= len(view) <= max_batch_bytes:
        raise BadMessage("bad_batch", "a batch is cut short or too large")
    (microseconds,) = _CLOCK.unpack_from(view)
    runs: list[Run] = []
    position = _CLOCK.size
    while position < len(view):
        start = position + _RUN.size
        if start > len(view):
            raise BadMessage("bad_batch", "a batch ends within a run's header")
        size, count = _RUN.unpack_from(view, position)
        position = start + count
        if position > len(view):
            raise BadMessage("bad_batch", "a batch ends within a run")
        # A size without bytes, bytes without a size, or a size beyond the bytes says nothing.
        if size > count or (count and not size) or size > max_datagram_bytes:
            raise BadMessage("bad_batch", "a batch has an impossible run")
        runs.append(Run(size, view[start:position]))
    return Batch(microseconds, tuple(runs))
