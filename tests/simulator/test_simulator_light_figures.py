"""What the light client counts, from datagrams alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlight.audio import AudioCipher, AudioPacketiser
from moonlight.enet_peer import EnetPeer
from moonlight.video import FramePacketiser
from moonlight.video_encryption import VideoOpener, VideoSealer
from simulator.light_figures import (
    MAX_USELESS_FRAMES,
    AudioMeter,
    RoundTrips,
    SequenceLoss,
    VideoMeter,
)
from simulator.noise import NoisePicture
from simulator.ownership import Whose

STAMP = 77
KEY = bytes(range(16))


@given(
    st.integers(0, 0xFFFF),
    st.sets(st.integers(1, 98), max_size=40),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_every_number_that_never_came_is_lost_in_whatever_order_the_others_do(
    first: int, lost: set[int], jumble: int, chance: object
) -> None:
    loss = SequenceLoss()
    numbers = [number for number in range(1, 99) if number not in lost]
    numbers.sort(key=lambda number: number + chance.randint(0, jumble))  # type: ignore[attr-defined]
    for number in [0, *numbers, 99]:
        loss.note((first + number) & 0xFFFF)
    assert (loss.received, loss.lost) == (100 - len(lost), len(lost))


def test_what_was_lost_before_counting_began_is_forgiven() -> None:
    loss = SequenceLoss()
    loss.begin()
    assert loss.lost == 0
    for number in (0xFFF0, 0xFFFF):
        loss.note(number)
    assert loss.lost == 14
    loss.begin()
    loss.note(0xFFF5)  # late, and of the time before
    assert (loss.received, loss.lost) == (0, 0)
    loss.note(2)
    assert (loss.received, loss.lost) == (1, 2)


class Source:
    """Frames of one session as datagrams."""

    def __init__(self, stamp: int = STAMP, ssrc: int = 0) -> None:
        self._noise = NoisePicture(fps=60, bitrate_kbps=2000, stamp=stamp)
        self._packetiser = FramePacketiser(1024, fec_percentage=0, ssrc=ssrc)
        self._index = 0

    def frame(self, *, idr: bool = False) -> list[bytes]:
        self._index += 1
        frame = self._noise.next_frame(idr=idr)
        return self._packetiser.packetise(frame.data, frame_index=self._index, idr=frame.idr)


def test_a_whole_stream_is_counted_and_needs_nothing() -> None:
    meter, source = VideoMeter(STAMP), Source()
    sent = [source.frame() for _ in range(5)]

    assert not any(meter.receive(frame) for frame in sent)

    assert meter.begun
    assert (meter.whole, meter.lost, meter.foreign, meter.loss.lost) == (5, 0, 0, 0)
    assert meter.loss.received == sum(map(len, sent))


def test_a_lost_frame_is_counted_and_an_idr_frame_asked_for_once() -> None:
    meter, source = VideoMeter(STAMP), Source()
    meter.receive(source.frame())
    meter.receive(source.frame()[1:])

    asked = [meter.receive(source.frame()) for _ in range(5)]

    assert asked == [True, False, False, False, False]
    assert (meter.lost, meter.loss.lost) == (1, 1)
    assert not meter.receive(source.frame(idr=True))
    meter.receive(source.frame()[1:])
    assert meter.receive(source.frame())


def test_an_idr_frame_that_never_comes_is_asked_for_again_after_many_frames() -> None:
    meter, source = VideoMeter(STAMP), Source()
    source.frame()  # the IDR frame, lost before anything came

    asked = [meter.receive(source.frame()) for _ in range(2 * MAX_USELESS_FRAMES)]

    assert [at for at, wanted in enumerate(asked, 1) if wanted] == [
        MAX_USELESS_FRAMES,
        2 * MAX_USELESS_FRAMES,
    ]
    assert not meter.begun


def test_counting_begins_anew() -> None:
    meter, source = VideoMeter(STAMP), Source()
    for frame in (source.frame(), source.frame()[1:], source.frame()):
        meter.receive(frame)
    meter.begin()
    assert (meter.whole, meter.lost, meter.loss.received, meter.loss.lost) == (0, 0, 0, 0)


def test_encrypted_video_is_counted_and_what_does_not_open_is_too() -> None:
    meter, source = VideoMeter(STAMP), Source()
    meter.opener = VideoOpener(KEY)
    ours, theirs = VideoSealer(KEY, 0), VideoSealer(bytes(16), 0)
    in_the_clear, sealed = source.frame(), source.frame(idr=True)
    meter.receive(in_the_clear)
    meter.receive(theirs.seal(each, len(each)) for each in sealed)
    assert (meter.undecryptable, meter.loss.received) == (len(in_the_clear) + len(sealed), 0)
    meter.receive(ours.seal(each, len(each)) for each in sealed)
    assert (meter.whole, meter.loss.received, meter.foreign) == (1, len(sealed), 0)
    meter.begin()
    assert meter.undecryptable == len(in_the_clear) + len(sealed), "what is foreign stays"


def test_the_picture_of_another_session_is_noticed() -> None:
    meter = VideoMeter(STAMP)
    meter.receive(Source(stamp=STAMP + 1).frame())
    assert (meter.whole, meter.foreign) == (1, 1)


@pytest.mark.parametrize("noise", [b"", b"x" * 11, b"\x90" * 40, b"\x80\x7f" + bytes(40)])
def test_noise_is_no_frame_and_no_sound(noise: bytes) -> None:
    meter, audio = VideoMeter(STAMP), AudioMeter(KEY, 1)
    assert not meter.receive([noise])
    audio.receive([noise])
    assert (meter.whole, audio.loss.received) == (0, 0)


def sound(key: bytes, count: int, ssrc: int = 0) -> list[bytes]:
    packetiser = AudioPacketiser(AudioCipher(key, 1), ssrc=ssrc)
    return [datagram for _ in range(count) for datagram in packetiser.packetise(bytes(60))]


def test_sound_is_counted_without_its_parity() -> None:
    meter = AudioMeter(KEY, 1)
    datagrams = sound(KEY, 8)
    del datagrams[2]
    meter.receive(datagrams)
    assert (meter.loss.received, meter.loss.lost, meter.foreign) == (7, 1, 0)


def test_a_single_datagram_of_another_session_is_noticed_where_hosts_stamp_them() -> None:
    meter, own, other = VideoMeter(STAMP), Source(ssrc=STAMP), Source(STAMP + 1, ssrc=STAMP + 1)
    stale = other.frame()
    for _ in range(3):
        meter.receive(own.frame())
    assert meter.whose is Whose.OWN

    meter.receive(stale[:1])  # of a frame that is long over: no picture shows it

    assert (meter.foreign, meter.foreign_datagrams) == (0, 1)
    assert meter.whose is Whose.FOREIGN


def test_a_picture_without_stamps_names_nobody() -> None:
    meter, packetiser = VideoMeter(STAMP), FramePacketiser(1024)
    assert meter.whose is Whose.NOTHING
    meter.receive(packetiser.packetise(bytes(3000), frame_index=1, idr=True))
    assert meter.whose is Whose.UNNAMED


def test_parity_of_another_sessions_sound_is_noticed_where_hosts_stamp_it() -> None:
    meter = AudioMeter(KEY, 1)
    assert meter.whose is Whose.NOTHING
    meter.receive(sound(KEY, 4, ssrc=1))
    assert meter.whose is Whose.OWN
    meter.receive(sound(bytes(16), 4, ssrc=2)[-1:])
    assert (meter.foreign, meter.whose) == (1, Whose.FOREIGN)


def test_sound_of_another_key_is_noticed_also_where_it_would_be_too_late_to_be_played() -> None:
    meter = AudioMeter(KEY, 1)
    own, other = sound(KEY, 64), sound(bytes(16), 8)
    meter.receive(own)
    assert meter.whose is Whose.OWN
    meter.receive(other)
    assert meter.whose is Whose.FOREIGN


def test_sound_under_another_key_is_noticed() -> None:
    meter = AudioMeter(KEY, 1)
    meter.receive(sound(bytes(16), 8))
    assert meter.foreign > 4  # a wrong key makes valid padding now and then
    assert meter.whose is Whose.FOREIGN
    meter.begin()
    assert meter.foreign > 4  # that is not forgiven
    assert meter.loss.received == 0


def test_round_trips_are_timed_by_acknowledgements() -> None:
    trips = RoundTrips()
    client, host = EnetPeer.client(connect_data=5), EnetPeer.server()
    now_ms = 0

    def exchange(delay_ms: int) -> None:
        nonlocal now_ms
        for datagram in client.datagrams(now_ms):
            trips.sent(datagram, now_ms / 1000)
            host.receive(datagram, now_ms)
        now_ms += delay_ms
        for datagram in host.datagrams(now_ms):
            trips.received(datagram, now_ms / 1000)
            client.receive(datagram, now_ms)

    exchange(3)
    exchange(3)
    trips.begin()
    assert client.connected
    for delay_ms in (7, 12):
        client.send(0, b"ping")
        exchange(delay_ms)
    assert trips.samples_ms == pytest.approx([7, 12])
