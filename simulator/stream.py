"""One session's video and audio, paced by deadlines, from its first ping on.

A frame that cannot be sent in its time is left out and counted: a late host drops frames, it does
not send them in a burst.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from moonlight.announce import Codec, Encryption, StreamSettings
from moonlight.audio import AudioCipher, AudioPacketiser
from moonlight.errors import TooLarge
from moonlight.video import FramePacketiser, PreparedFrame
from moonlight.video_encryption import VideoSealer
from simulator.encoder import CardEncoder, CardPicture, bounded_bitrate_kbps, check_mode
from simulator.noise import NoisePicture
from simulator.ownership import stamp_of
from simulator.picture import Picture, PictureKind
from simulator.sessions import Session
from simulator.testcard import TestCard
from simulator.tone import check_tone, encode_tone
from simulator.udp import Address, UdpPort

_CLOCK_HZ: Final = 90_000
_VIDEO_SHARE: Final = (4, 5)
"""Of the bitrate that the client's user chose: the rest is for parity, as clients reckon too."""
_PACKET_SIZES: Final = range(256, 8193)
_MAX_AUDIO_DELAY_S: Final = 0.1
"""Audio that is later than this is left out."""


def check_settings(settings: StreamSettings) -> None:
    """Raise ValueError, with a sentence, for a stream that this host cannot make."""
    check_mode(settings.width, settings.height, settings.fps)
    check_tone(settings.audio_packet_ms, settings.audio_channels)
    if settings.codec is not Codec.H264:
        raise ValueError(f"The host has no encoder for {settings.codec.name}")
    if settings.packet_size not in _PACKET_SIZES:
        raise ValueError(f"The host makes no packets of {settings.packet_size} bytes")


@dataclass(slots=True)
class Counters:
    """What a host has done since it started."""

    frames_sent: int = 0
    frames_skipped: int = 0
    idr_frames: int = 0
    idr_requests: int = 0
    video_datagrams: int = 0
    audio_datagrams: int = 0
    audio_skipped: int = 0
    datagrams_dropped: int = 0
    pings: int = 0
    pings_unmatched: int = 0
    control_connects: int = 0
    control_unmatched: int = 0
    control_invalid: int = 0


@dataclass(slots=True, eq=False)
class Destination:
    """Where one flow of a session goes: the address its latest ping came from."""

    port: UdpPort
    address: Address | None = None
    heard_at: float = 0.0
    known: trio.Event = field(default_factory=trio.Event)

    def heard(self, port: UdpPort, address: Address, now: float) -> bool:
        """Take a ping; tells whether it came from somewhere new."""
        new = address != self.address
        self.port, self.address, self.heard_at = port, address, now
        self.known.set()
        return new

    def forget(self) -> None:
        """Send nothing more until the next ping."""
        self.address = None
        self.known = trio.Event()

    def send(self, datagrams: list[bytes], counters: Counters) -> int:
        """Send a burst; gives how many the kernel took."""
        if self.address is None:
            return 0
        sent, dropped = self.port.sent, self.port.dropped
        self.port.send(datagrams, self.address)
        counters.datagrams_dropped += self.port.dropped - dropped
        return self.port.sent - sent


class Stream:
    """Runs from PLAY until the client leaves."""

    def __init__(
        self,
        session: Session,
        settings: StreamSettings,
        *,
        picture: PictureKind,
        region: str,
        max_bitrate_kbps: int | None,
        slowdown: float,
        video: Destination,
        audio: Destination,
        counters: Counters,
    ) -> None:
        self._session = session
        self._settings = settings
        self._picture_kind = picture
        self._region = region
        self._max_bitrate_kbps = max_bitrate_kbps
        self._slowdown = slowdown
        self._video = video
        self._audio = audio
        self._counters = counters
        self._idr_wanted = False
        self.scope = trio.CancelScope()

    def request_idr(self) -> None:
        """Make the next frame one that a decoder can begin with."""
        self._idr_wanted = True

    async def run(self, ping_timeout_s: float) -> None:
        """Stream until the client's video pings stay out, or `scope` is cancelled."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stream_video)
                nursery.start_soon(self._stream_audio)
                await self._wait_for_silence(ping_timeout_s)
                nursery.cancel_scope.cancel()

    async def _wait_for_silence(self, ping_timeout_s: float) -> None:
        started = trio.current_time()
        while True:
            deadline = max(started, self._video.heard_at) + ping_timeout_s
            if trio.current_time() >= deadline:
                return
            await trio.sleep_until(deadline)

    async def _stream_video(self) -> None:
        await self._video.known.wait()
        picture = await trio.to_thread.run_sync(self._picture)
        encode = self._encoder(picture)
        period = self._slowdown / self._settings.fps
        started = deadline = trio.current_time()
        while True:
            skipped = int((trio.current_time() - deadline) / period)
            if skipped > 0:
                self._counters.frames_skipped += skipped
                deadline += skipped * period
            idr, self._idr_wanted = self._idr_wanted, False
            timestamp = int((deadline - started) * _CLOCK_HZ)
            if picture.repeats:
                datagrams, is_idr = encode(idr, timestamp)
            else:
                datagrams, is_idr = await trio.to_thread.run_sync(encode, idr, timestamp)
            self._counters.video_datagrams += self._video.send(datagrams, self._counters)
            self._counters.frames_sent += bool(datagrams)
            self._counters.frames_skipped += not datagrams
            self._counters.idr_frames += is_idr
            deadline += period
            await trio.sleep_until(deadline)

    def _picture(self) -> Picture:
        """Make the picture; for a card that takes a while."""
        settings = self._settings
        share, whole = _VIDEO_SHARE
        asked_kbps = min(settings.bitrate_kbps, self._max_bitrate_kbps or settings.bitrate_kbps)
        bitrate_kbps = bounded_bitrate_kbps(asked_kbps * share // whole)
        if self._picture_kind == "noise":
            stamp = self._session.launch.rikeyid
            return NoisePicture(fps=settings.fps, bitrate_kbps=bitrate_kbps, stamp=stamp)
        title = self._session.app.title
        card = TestCard(settings.width, settings.height, region=self._region, title=title)
        return CardPicture(CardEncoder(card, fps=settings.fps, bitrate_kbps=bitrate_kbps))

    def _ssrc(self) -> int:
        """Name the session in every datagram of a load test; else what real hosts write."""
        return stamp_of(self._session.launch.rikeyid) if self._picture_kind == "noise" else 0

    def _encoder(self, picture: Picture) -> Callable[[bool, int], tuple[list[bytes], bool]]:
        """Give what turns each call into the datagrams of one frame."""
        settings = self._settings
        packetiser = FramePacketiser(
            settings.packet_size, min_fec_packets=settings.min_fec_packets, ssrc=self._ssrc()
        )
        kept: dict[bool, PreparedFrame] = {}
        frame_index = 0
        sealer: VideoSealer | None = None
        if settings.encryption_enabled & Encryption.VIDEO.value:
            sealer = VideoSealer(self._session.launch.rikey, 0)

        def encode(idr: bool, timestamp: int) -> tuple[list[bytes], bool]:
            nonlocal frame_index
            frame_index += 1
            frame = picture.next_frame(idr=idr)
            prepared = kept.get(frame.idr)
            try:
                prepared = prepared or packetiser.prepare(frame.data, idr=frame.idr)
            except TooLarge:
                return [], False  # a bitrate beyond what the packets' fields can number
            if picture.repeats:
                kept[frame.idr] = prepared
            datagrams = packetiser.number(prepared, frame_index=frame_index, timestamp=timestamp)
            if sealer is not None:
                datagrams = [sealer.seal(each, len(each)) for each in datagrams]
            return datagrams, frame.idr

        return encode

    async def _stream_audio(self) -> None:
        await self._audio.known.wait()
        settings, launch = self._settings, self._session.launch
        packets = await trio.to_thread.run_sync(
            encode_tone, settings.audio_packet_ms, settings.audio_channels
        )
        cipher = AudioCipher(launch.rikey, launch.rikeyid) if settings.encrypted_audio else None
        packetiser = AudioPacketiser(cipher, packet_ms=settings.audio_packet_ms, ssrc=self._ssrc())
        period = self._slowdown * settings.audio_packet_ms / 1000
        deadline = trio.current_time()
        position = 0
        while True:
            delay = trio.current_time() - deadline
            if delay > max(_MAX_AUDIO_DELAY_S, period):
                skipped = int(delay / period)
                self._counters.audio_skipped += skipped
                deadline += skipped * period
            datagrams = packetiser.packetise(packets[position])
            position = (position + 1) % len(packets)
            self._counters.audio_datagrams += self._audio.send(datagrams, self._counters)
            deadline += period
            await trio.sleep_until(deadline)
