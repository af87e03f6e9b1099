"""The picture for load tests: the right size, the right frames, and whose it is."""

from __future__ import annotations

import random

import pytest

from moonlight.video import FrameAssembler, FramePacketiser
from simulator.noise import IDR_SIZE, NoisePicture, noise_stamp

STAMP = -280119551


def picture(kbps: int = 8000, fps: int = 60) -> NoisePicture:
    return NoisePicture(fps=fps, bitrate_kbps=kbps, stamp=STAMP)


@pytest.mark.parametrize(("kbps", "fps"), [(8000, 60), (100_000, 30), (100, 240)])
def test_a_second_of_frames_has_the_bitrate_that_was_asked_for(kbps: int, fps: int) -> None:
    noise = picture(kbps, fps)
    noise.next_frame(idr=True)

    bits = sum(len(noise.next_frame(idr=False).data) * 8 for _ in range(fps))

    assert kbps * 1000 - fps * 8 <= bits <= kbps * 1000


def test_the_first_frame_is_an_idr_frame_and_so_is_every_one_that_is_asked_for() -> None:
    noise = picture()

    frames = [noise.next_frame(idr=wanted) for wanted in (False, False, True, False)]

    assert [frame.idr for frame in frames] == [True, False, True, False]
    assert len(frames[0].data) == IDR_SIZE * len(frames[1].data)
    for frame in frames:
        assert frame.data[:5] == b"\0\0\0\1" + (b"\x65" if frame.idr else b"\x41")
        assert b"\0\0\1" not in frame.data[5 + 15 + 4 :]  # behind slice, mark and stamp


def test_a_frame_tells_whose_it_is() -> None:
    noise = picture()

    assert {noise_stamp(noise.next_frame(idr=idr).data) for idr in (True, False)} == {
        STAMP & 0xFFFFFFFF
    }
    for other in (b"", b"\0\0\0\1\x65", b"\0\0\0\1\x65" + bytes(40)):
        assert noise_stamp(other) is None


def test_frames_kept_cut_are_numbered_as_if_they_were_new() -> None:
    kept, fresh = (FramePacketiser(1024, min_fec_packets=2) for _ in range(2))
    frame = picture().next_frame(idr=False).data
    prepared = kept.prepare(frame, idr=False)

    for index in range(1, 6):
        numbered = kept.number(prepared, frame_index=index, timestamp=index * 1500)
        assert numbered == fresh.packetise(
            frame, frame_index=index, idr=False, timestamp=index * 1500
        )


def test_parity_gives_lost_packets_back() -> None:
    packetiser, assembler = FramePacketiser(1024, min_fec_packets=2), FrameAssembler()
    noise, chance = picture(), random.Random(7)
    for index in range(1, 6):
        frame = noise.next_frame(idr=index == 3)
        packets = packetiser.number(
            packetiser.prepare(frame.data, idr=frame.idr), frame_index=index
        )
        del packets[chance.randrange(len(packets))]
        whole = [got for packet in packets if (got := assembler.receive(packet)) is not None]
        assert [(got.frame_index, got.data) for got in whole] == [(index, frame.data)]
