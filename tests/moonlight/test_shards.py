"""What a datagram of media is, told from a look at a few of its bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moonlight.audio import AudioPacketiser
from moonlight.flows import Flow
from moonlight.rtp import VideoPacketHeader
from moonlight.shards import audio_shard, shard_of, video_shard
from moonlight.video import FramePacketiser


@given(st.integers(1, 60_000), st.integers(1, 2**32 - 1))
def test_video_tells_its_frame_and_its_parity(size: int, frame_index: int) -> None:
    packetiser = FramePacketiser(1024)
    for datagram in packetiser.packetise(bytes(size), frame_index=frame_index, idr=False):
        header = VideoPacketHeader.parse(datagram)
        assert video_shard(datagram) == (frame_index, header.is_parity)
        assert video_shard(memoryview(datagram)) == (frame_index, header.is_parity)


def test_encrypted_video_tells_its_frame_alone() -> None:
    ciphertext = bytes(range(200))
    datagram = bytes(12) + (7).to_bytes(4, "little") + bytes(16) + ciphertext
    assert video_shard(datagram) == (7, False)


def test_audio_tells_its_parity() -> None:
    packetiser = AudioPacketiser(None, packet_ms=5)
    datagrams = [one for _ in range(4) for one in packetiser.packetise(b"opus")]
    assert [audio_shard(one) for one in datagrams] == [(None, False)] * 4 + [(None, True)] * 2


@given(st.binary(max_size=100))
def test_anything_is_some_shard(datagram: bytes) -> None:
    assert shard_of.keys() == {Flow.VIDEO, Flow.AUDIO}
    for tell in shard_of.values():
        frame, parity = tell(datagram)
        assert frame is None or 0 <= frame < 2**32
        assert not (parity and len(datagram) < 2)
