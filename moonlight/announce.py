"""What a host says it can do (DESCRIBE) and what a client chooses (ANNOUNCE), as SDP-like lines.

Both are lists of ``a=name:value`` with more names than anybody reads; the ones here are those that
a stream needs (protocol §5). Unknown lines are ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from moonlight.errors import Malformed, TooLarge

_HEVC_LINE: Final = "sprop-parameter-sets=AAAAAU"
_AV1_LINE: Final = "a=rtpmap:98 AV1/90000"
_SURROUND_PREFIX: Final = "a=fmtp:97 surround-params="
_SURROUND_PARAMS: Final = re.compile(r"[1-8][0-9]{2}[0-7]{1,8}")
_INVALIDATION_LINE: Final = "x-nv-video[0].refPicInvalidation=1"
_ENCRYPTED_AUDIO: Final = 0x20
_MAX_U32: Final = 0xFFFFFFFF


class Codec(IntEnum):
    """``bitStreamFormat``."""

    H264 = 0
    HEVC = 1
    AV1 = 2


class Encryption(IntFlag):
    """What ``encryptionSupported``, ``…Requested`` and ``…Enabled`` say."""

    CONTROL_V2 = 1
    VIDEO = 2
    AUDIO = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """The stream that a client asks for."""

    width: int
    height: int
    fps: int
    packet_size: int
    bitrate_kbps: int
    """What the user configured; the client leaves room for parity below it."""
    codec: Codec = Codec.H264
    min_fec_packets: int = 0
    audio_packet_ms: int = 5
    audio_channels: int = 2
    encrypted_audio: bool = False
    encryption_enabled: int = 0

    @classmethod
    def parse(cls, body: bytes, *, max_lines: int = 512) -> StreamSettings:
        """Read ANNOUNCE's body. Raises Malformed for missing or impossible values, TooLarge."""
        lines = _Attributes(body, max_lines)
        codec = lines.number("x-nv-vqos[0].bitStreamFormat", 0, max(Codec), default=0)
        encryption = lines.number("x-ss-general.encryptionEnabled", 0, _MAX_U32, default=0)
        features = lines.number("x-nv-general.featureFlags", 0, _MAX_U32, default=0)
        in_total = lines.number("x-ml-video.configuredBitrateKbps", 1, 10_000_000, default=0)
        of_video = "x-nv-vqos[0].bw.maximumBitrateKbps"
        return cls(
            width=lines.number("x-nv-video[0].clientViewportWd", 1, 16_384),
            height=lines.number("x-nv-video[0].clientViewportHt", 1, 16_384),
            fps=lines.number("x-nv-video[0].maxFPS", 1, 1000),
            packet_size=lines.number("x-nv-video[0].packetSize", 64, 65_000),
            bitrate_kbps=in_total or lines.number(of_video, 1, 10_000_000),
            codec=Codec(codec),
            min_fec_packets=lines.number(
                "x-nv-vqos[0].fec.minRequiredFecPackets", 0, 255, default=0
            ),
            audio_packet_ms=lines.number("x-nv-aqos.packetDuration", 1, 60, default=5),
            audio_channels=lines.number("x-nv-audio.surround.numChannels", 1, 8, default=2),
            encrypted_audio=bool(
                features & _ENCRYPTED_AUDIO or encryption & Encryption.AUDIO.value
            ),
            encryption_enabled=encryption,
        )

    def encode(self) -> bytes:
        """Write a body for ANNOUNCE with these settings, and with nothing else chosen."""
        features = _ENCRYPTED_AUDIO if self.encrypted_audio else 0
        attributes = {
            "x-ss-general.encryptionEnabled": self.encryption_enabled,
            "x-nv-video[0].clientViewportWd": self.width,
            "x-nv-video[0].clientViewportHt": self.height,
            "x-nv-video[0].maxFPS": self.fps,
            "x-nv-video[0].packetSize": self.packet_size,
            "x-nv-vqos[0].bw.maximumBitrateKbps": self.bitrate_kbps,
            "x-ml-video.configuredBitrateKbps": self.bitrate_kbps,
            "x-nv-general.featureFlags": features,
            "x-nv-vqos[0].fec.minRequiredFecPackets": self.min_fec_packets,
            "x-nv-vqos[0].bitStreamFormat": int(self.codec),
            "x-nv-audio.surround.numChannels": self.audio_channels,
            "x-nv-aqos.packetDuration": self.audio_packet_ms,
        }
        lines = ["v=0", "o=android 0 14 IN IPv4 0.0.0.0", "s=NVIDIA Streaming Client"]
        lines += [f"a={name}:{value} " for name, value in attributes.items()]
        return "\r\n".join([*lines, "t=0 0", "m=video 47998  ", ""]).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCapabilities:
    """What a host offers. None stands for a line that is not there."""

    hevc: bool = False
    av1: bool = False
    reference_invalidation: bool = False
    surround_params: tuple[str, ...] = ()
    """Channels, streams, coupled streams and mapping, as digits; e.g. ``21101`` for stereo."""
    feature_flags: int | None = None
    encryption_supported: int | None = None
    encryption_requested: int | None = None

    @classmethod
    def parse(cls, body: bytes, *, max_lines: int = 512) -> HostCapabilities:
        """Read the body of DESCRIBE's answer. Raises Malformed, TooLarge."""
        lines = _Attributes(body, max_lines)
        params = [
            line.removeprefix(_SURROUND_PREFIX).strip()
            for line in lines.lines
            if line.startswith(_SURROUND_PREFIX)
        ]
        if not all(_SURROUND_PARAMS.fullmatch(text) for text in params):
            raise Malformed("sdp_surround", "impossible surround-params in DESCRIBE's answer")
        return cls(
            hevc=any(_HEVC_LINE in line for line in lines.lines),
            av1=any("AV1/90000" in line for line in lines.lines),
            reference_invalidation=any("refPicInvalidation" in line for line in lines.lines),
            surround_params=tuple(params),
            feature_flags=lines.flags("x-ss-general.featureFlags"),
            encryption_supported=lines.flags("x-ss-general.encryptionSupported"),
            encryption_requested=lines.flags("x-ss-general.encryptionRequested"),
        )

    def encode(self) -> bytes:
        """Write the body of DESCRIBE's answer, in the order that Wolf has."""
        lines = [_HEVC_LINE] if self.hevc else []
        if self.av1:
            lines.append(_AV1_LINE)
        if self.reference_invalidation:
            lines.append(_INVALIDATION_LINE)
        lines += [_SURROUND_PREFIX + params for params in self.surround_params]
        flags = {
            "featureFlags": self.feature_flags,
            "encryptionSupported": self.encryption_supported,
            "encryptionRequested": self.encryption_requested,
        }
        lines += [
            f"a=x-ss-general.{name}: {value}" for name, value in flags.items() if value is not None
        ]
        return "\r\n".join([*lines, ""]).encode()


class _Attributes:
    """The lines of a body, and the values of its ``a=name:value``; the first of a name counts."""

    def __init__(self, body: bytes, max_lines: int) -> None:
        self.lines = body.decode("latin-1").replace("\r\n", "\n").split("\n", max_lines)
        if len(self.lines) > max_lines:
            raise TooLarge("sdp_lines", f"session description of more than {max_lines} lines")
        self._values: dict[str, str] = {}
        for line in self.lines:
            name, colon, value = line.removeprefix("a=").partition(":")
            if colon and line.startswith("a="):
                self._values.setdefault(name, value.strip(" \t"))

    def flags(self, name: str) -> int | None:
        """Give a 32-bit number, or None where it is not there."""
        return self.number(name, 0, _MAX_U32) if name in self._values else None

    def number(self, name: str, low: int, high: int, *, default: int | None = None) -> int:
        """Give a number within limits, or the default where it is not there."""
        text = self._values.get(name)
        if text is None and default is not None:
            return default
        if text is None:
            raise Malformed("sdp_missing", f"session description without {name}")
        if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= high:
            raise Malformed("sdp_value", f"session description with an impossible {name}")
        return int(text)
