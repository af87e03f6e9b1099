"""The melody as Opus packets: their number, their size, and that one hears it."""

from __future__ import annotations

import av
import numpy as np
import pytest

from simulator.tone import encode_tone, melody


@pytest.mark.parametrize(("packet_ms", "channels"), [(5, 2), (10, 2), (5, 6), (5, 8)])
def test_packets_last_what_was_asked_and_all_have_one_size(packet_ms: int, channels: int) -> None:
    packets = encode_tone(packet_ms, channels)
    assert len(packets) == 2000 // packet_ms
    assert len({len(packet) for packet in packets}) == 1


@pytest.mark.parametrize(("packet_ms", "channels"), [(20, 2), (5, 3)])
def test_what_moonlight_never_asks_for_is_refused(packet_ms: int, channels: int) -> None:
    with pytest.raises(ValueError, match="There is no tone"):
        encode_tone(packet_ms, channels)


def test_the_melody_joins_its_own_beginning_in_silence() -> None:
    samples = melody(2)
    assert samples.shape == (96_000, 2)
    assert abs(samples[0]).max() < 1e-3
    assert abs(samples[-1]).max() < 1e-3


def test_a_decoder_hears_it() -> None:
    decoder = av.CodecContext.create("libopus", "r")
    assert isinstance(decoder, av.AudioCodecContext)
    decoder.sample_rate = 48_000
    decoder.layout = "stereo"
    samples = [
        frame.to_ndarray()
        for packet in encode_tone(5, 2)[:60]
        for frame in decoder.decode(av.Packet(packet))
    ]
    heard = np.concatenate(samples, axis=1).astype(np.float64)
    assert (
        np.abs(heard).max() > 0.1 * np.iinfo(np.int16).max if heard.max() > 1 else heard.max() > 0.1
    )
