"""Frames taken apart by the short way are those that the library's own parser sees."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from revdial.frames import FrameSplitter, binary_frame
from revdial.framing import Buffer

MAX = 70_000


class Reader:
    """A splitter before the library's protocol, as a connection has it."""

    def __init__(self, *, masked: bool) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.protocol = Protocol(Side.SERVER if masked else Side.CLIENT, state=OPEN, max_size=MAX)
        self.direct = 0
        self.splitter = FrameSplitter(
            masked=masked, on_message=self.on_message, on_other=self.on_other
        )

    def on_message(self, message: Buffer) -> None:
        self.direct += 1
        self.seen.append(("BINARY", bytes(message)))

    def on_other(self, data: Buffer) -> bool:
        self.protocol.receive_data(bytes(data))
        self.seen += events(self.protocol)
        return self.protocol.current_size is None

    def feed(self, data: bytes, cuts: list[int]) -> None:
        for piece in cut(data, cuts):
            self.splitter.feed(piece, MAX)


def events(protocol: Protocol) -> list[tuple[str, bytes]]:
    return [
        (event.opcode.name, bytes(event.data))
        for event in protocol.events_received()
        if isinstance(event, Frame)
    ]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(place, len(data)) for place in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


frames = st.builds(
    Frame,
    st.sampled_from([Opcode.BINARY, Opcode.BINARY, Opcode.TEXT, Opcode.PING, Opcode.PONG]),
    st.one_of(st.binary(max_size=130), st.sampled_from([bytes(126), bytes(65_535), bytes(65_536)])),
    st.just(True),
)
fragments = st.lists(st.binary(max_size=50), min_size=2, max_size=3).map(
    lambda parts: [
        Frame(Opcode.BINARY if n == 0 else Opcode.CONT, part, n == len(parts) - 1)
        for n, part in enumerate(parts)
    ]
)
streams = st.lists(st.one_of(frames.map(lambda frame: [frame]), fragments), max_size=6).map(
    lambda groups: [frame for group in groups for frame in group]
)
cut_places = st.lists(st.integers(0, 140_000) | st.integers(0, 300), max_size=12)


@settings(max_examples=300)
@given(streams, cut_places, st.booleans())
def test_the_same_frames_come_out_wherever_the_stream_is_cut(
    stream: list[Frame], cuts: list[int], masked: bool
) -> None:
    stream = [
        frame
        for frame in stream
        if frame.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT) or len(frame.data) <= 125
    ]
    data = b"".join(frame.serialize(mask=masked) for frame in stream)
    reader = Reader(masked=masked)
    reader.feed(data, cuts)
    assert reader.seen == [(frame.opcode.name, bytes(frame.data)) for frame in stream]
    whole = [frame for frame in stream if frame.opcode is Opcode.BINARY and frame.fin]
    assert reader.direct == len(whole)
    assert not reader.splitter._kept


@settings(max_examples=300)
@given(st.binary(max_size=400), cut_places, st.booleans())
def test_noise_is_refused_as_the_library_refuses_it(
    noise: bytes, cuts: list[int], masked: bool
) -> None:
    reader = Reader(masked=masked)
    library = Protocol(Side.SERVER if masked else Side.CLIENT, state=OPEN, max_size=MAX)
    reader.feed(noise, cuts)
    library.receive_data(noise)
    if library.parser_exc is not None and reader.protocol.parser_exc is not None:
        assert type(reader.protocol.parser_exc) is type(library.parser_exc)
    if library.state is OPEN:
        assert reader.protocol.state is OPEN
    seen = [(name, data) for name, data in events(library) if name != "CLOSE"]
    assert [one for one in reader.seen if one[0] != "CLOSE"][: len(seen)] == seen


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("masked", [True, False])
def test_a_frame_written_is_the_librarys(length: int, masked: bool) -> None:
    message = bytes(range(256)) * (length // 256 + 1)
    message = message[:length]
    library = Protocol(Side.SERVER if masked else Side.CLIENT, state=OPEN, max_size=MAX)
    library.receive_data(binary_frame(memoryview(message), masked=masked))
    assert events(library) == [("BINARY", message)]
    if not masked:
        assert binary_frame(message, masked=False) == Frame(Opcode.BINARY, message).serialize(
            mask=False
        )


@pytest.mark.parametrize("masked", [True, False])
def test_a_frame_that_is_too_long_or_wrongly_masked_is_refused_at_its_header(masked: bool) -> None:
    reader = Reader(masked=masked)
    reader.splitter.feed(binary_frame(bytes(MAX + 1), masked=masked)[:20], MAX)
    assert type(reader.protocol.parser_exc).__name__ == "PayloadTooBig"
    reader = Reader(masked=masked)
    reader.splitter.feed(binary_frame(b"x", masked=not masked), MAX)
    reader.splitter.feed(binary_frame(b"x", masked=masked), MAX)
    assert type(reader.protocol.parser_exc).__name__ == "ProtocolError"
    assert reader.direct == 0
