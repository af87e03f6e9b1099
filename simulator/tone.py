"""The sound a simulated host streams: a short melody as Opus packets, encoded once and repeated.

A host needs two hundred packets a second for each session; the melody begins and ends in silence,
so that a repetition is as good as encoding it again, and costs nothing.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Final

import av
import numpy as np

SAMPLE_RATE_HZ: Final = 48_000
STEREO_BITRATE_BPS: Final = 96_000
SURROUND_BITRATE_BPS: Final = 256_000

PACKET_MS: Final = (5, 10)
_LAYOUTS: Final = {2: "stereo", 6: "5.1", 8: "7.1"}
_TONES: Final = len(PACKET_MS) * len(_LAYOUTS)
_NOTES_HZ: Final = (440.0, 554.37, 659.25, 880.0)
_NOTE_MS: Final = 500
_LOUDNESS: Final = 0.2


def melody(channels: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Two seconds of samples, one row a moment; every note swells from silence and dies away."""
    moments = np.arange(SAMPLE_RATE_HZ * _NOTE_MS // 1000) / SAMPLE_RATE_HZ
    envelope = np.sin(np.pi * moments / moments[-1]) ** 2 * _LOUDNESS
    notes = [np.sin(2 * np.pi * hertz * moments) * envelope for hertz in _NOTES_HZ]
    mono = np.concatenate(notes).astype(np.float32)
    return np.repeat(mono[:, np.newaxis], channels, axis=1)


def check_tone(packet_ms: int, channels: int) -> None:
    """Raise ValueError, with a sentence for a log, for a sound that Moonlight never asks for."""
    if channels not in _LAYOUTS or packet_ms not in PACKET_MS:
        raise ValueError(f"There is no tone of {channels} channels in packets of {packet_ms} ms")


@lru_cache(maxsize=_TONES)
def encode_tone(packet_ms: int, channels: int) -> tuple[bytes, ...]:
    """The melody as Opus packets of `packet_ms`, to be sent round and round.

    All have the same size (hard constant bitrate), which the stream's error correction needs.
    Takes some 50 ms the first time: call it in a thread. Raises ValueError as `check_tone`.
    """
    check_tone(packet_ms, channels)
    layout = _LAYOUTS[channels]
    codec = _opus(packet_ms, layout)
    samples_per_packet = SAMPLE_RATE_HZ * packet_ms // 1000
    samples = melody(channels)
    packets: list[bytes] = []
    for start in range(0, len(samples), samples_per_packet):
        interleaved = samples[start : start + samples_per_packet].reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate = SAMPLE_RATE_HZ
        frame.pts = start
        packets.extend(bytes(packet) for packet in codec.encode(frame))
    return tuple(packets)


def _opus(packet_ms: int, layout: str) -> av.AudioCodecContext:
    codec = av.CodecContext.create("libopus", "w")
    stereo = layout == "stereo"
    codec.sample_rate = SAMPLE_RATE_HZ
    codec.layout = layout
    codec.format = "flt"
    codec.bit_rate = STEREO_BITRATE_BPS if stereo else SURROUND_BITRATE_BPS
    codec.time_base = Fraction(1, SAMPLE_RATE_HZ)
    codec.options = {
        "frame_duration": str(packet_ms),
        "vbr": "off",
        "application": "lowdelay",
        "mapping_family": "-1" if stereo else "1",
    }
    codec.open()
    return codec
