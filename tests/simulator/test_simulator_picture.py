"""The test card and its encoder: what is burned in, how many bits it takes, when it starts anew."""

from __future__ import annotations

import av
import numpy as np
import pytest

from simulator.encoder import CardEncoder, check_mode
from simulator.font import Face
from simulator.testcard import TestCard, read_counter

CLOCK = "12:34:56.789"


def nal_types(data: bytes) -> list[int]:
    types = []
    position = data.find(b"\0\0\1")
    while position >= 0:
        types.append(data[position + 3] & 0x1F)
        position = data.find(b"\0\0\1", position + 3)
    return types


def encoder(width: int = 640, height: int = 360, fps: int = 60, kbps: int = 4000) -> CardEncoder:
    card = TestCard(width, height, region="eu-west", title="Test ball")
    return CardEncoder(card, fps=fps, bitrate_kbps=kbps)


def test_text_is_written_in_two_shades_and_never_outside_the_picture() -> None:
    plane = np.zeros((20, 30), np.uint8)
    Face(2, ink=200, paper=50).draw(plane, 2, 3, "a~z")
    written = plane[3:17, 2:26]
    assert set(np.unique(written)) == {50, 200}
    assert plane[:3].max() == plane[17:].max() == plane[:, 26:].max() == 0
    Face(4, ink=200, paper=50).draw(plane, 0, 0, "A")  # 28 rows do not fit
    assert plane[:3].max() == 0


def test_a_lower_case_letter_is_drawn_as_its_capital_and_an_unknown_one_as_a_question() -> None:
    small, capital, unknown, question = (np.zeros((7, 6), np.uint8) for _ in range(4))
    face = Face(1, ink=1, paper=0)
    for plane, text in ((small, "q"), (capital, "Q"), (unknown, "ß"), (question, "?")):
        face.draw(plane, 0, 0, text[:1])
    assert np.array_equal(small, capital)
    assert not np.array_equal(capital, question)
    face.draw(unknown, 0, 0, "~")
    assert np.array_equal(unknown, question)


@pytest.mark.parametrize("counter", [0, 1, 0x5A5A_1234, 0xFFFF_FFFF])
def test_the_frame_counter_can_be_read_back_from_the_picture(counter: int) -> None:
    card = TestCard(1280, 720, region="x", title="y")
    card.draw(counter, CLOCK)
    assert read_counter(card._luma) == counter


def test_clock_counter_and_region_are_burned_in() -> None:
    pictures = []
    for region, counter, clock in (
        ("west", 1, CLOCK),
        ("east", 1, CLOCK),
        ("west", 1, "12:34:56.790"),
    ):
        card = TestCard(1280, 720, region=region, title="Snow")
        card.draw(counter, clock)
        pictures.append(card._luma.copy())
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_the_moving_bar_leaves_no_trail() -> None:
    card = TestCard(640, 360, region="west", title="Snow")
    card.draw(1, CLOCK)
    before = card._luma.copy()
    for counter in (2, 3, 200, 1):
        card.draw(counter, CLOCK)
    assert np.array_equal(card._luma, before)


@pytest.mark.parametrize(
    ("width", "height", "fps"),
    [
        (641, 360, 60),
        (640, 361, 60),
        (64, 48, 60),
        (8192, 4096, 60),
        (640, 360, 0),
        (640, 360, 500),
    ],
)
def test_a_mode_that_cannot_be_made_is_refused(width: int, height: int, fps: int) -> None:
    with pytest.raises(ValueError, match="The host makes"):
        check_mode(width, height, fps)


@pytest.mark.parametrize(("kbps", "fps"), [(2000, 30), (8000, 60), (16000, 60)])
def test_the_asked_bitrate_is_produced_though_the_picture_is_nearly_still(
    kbps: int, fps: int
) -> None:
    card = encoder(fps=fps, kbps=kbps)
    sizes = [len(card.encode(CLOCK, idr=False).data) for _ in range(60)]
    produced = sum(sizes) * 8 * fps / len(sizes) / 1000
    assert produced == pytest.approx(kbps, rel=0.02)
    assert max(sizes) <= 1.6 * kbps * 1000 / 8 / fps


def test_the_picture_starts_with_an_idr_frame_and_anew_only_when_asked() -> None:
    card = encoder()
    frames = [card.encode(CLOCK, idr=index == 20) for index in range(40)]
    assert [index for index, frame in enumerate(frames) if frame.idr] == [0, 20]
    assert [index for index, frame in enumerate(frames) if 5 in nal_types(frame.data)] == [0, 20]
    for index in (0, 20):  # a decoder can begin there: parameter sets come first
        assert nal_types(frames[index].data)[:2] == [7, 8]


def test_each_frame_decodes_at_once_bright_and_with_its_own_number() -> None:
    card = encoder(width=1280, height=720)
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.options = {"flags": "low_delay"}
    for number in range(1, 6):
        data = card.encode(CLOCK, idr=False).data
        (decoded,) = decoder.decode(av.Packet(data))
        picture = decoded.to_ndarray(format="gray8")
        assert read_counter(picture) == number
        assert decoded.to_ndarray(format="bgr24").mean() > 40
