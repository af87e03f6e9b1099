"""Video encryption on the client's leg: who does it, what RTSP says of it, which counters it uses.

Hosts that offer it do it themselves, end to end, and nothing here is changed. For the others the
edge offers it in DESCRIBE's answer, takes it out of ANNOUNCE, which the host must not obey, and
encrypts each datagram with the session's key. A client chooses it where it is offered and its
settings allow, and in any case where it is requested; so the edge requests what it offers.

What encryption is on stays on until the next launch or resume: whoever can forge RTSP messages
in the clear cannot turn it off in the middle of a stream.
"""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final, Literal, TypeVar

from moonlight.announce import Encryption
from moonlight.rtsp import RtspRequest, RtspResponse
from moonlight.video_encryption import COUNTERS
from proxy.sessions import VideoEncryption, VideoEncryptor

EncryptVideo = Literal["auto", "always", "never"]
"""``[sessions] encrypt_video``; "auto" is for clients outside private networks."""

max_counters: Final = 1 << 42
"""What is set aside for one sealer: a year of a gigabit."""
_clock_modulus: Final = 1 << 63

_private: Final = tuple(
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
        *("127.0.0.0/8", "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10"),
    )
)
_prefix: Final = b"x-ss-general."
_supported: Final = _prefix + b"encryptionSupported"
_requested: Final = _prefix + b"encryptionRequested"
_enabled: Final = _prefix + b"encryptionEnabled"
# As clients read it: a number in C's notation, of which decimal is all that anybody writes.
_number: Final = re.compile(rb":[ \t]*(0|[1-9][0-9]{0,9})(?![0-9A-Za-z])")
_max_u32: Final = 0xFFFFFFFF
_video: Final = Encryption.VIDEO.value

_Message = TypeVar("_Message", RtspRequest, RtspResponse)


def is_wanted(setting: EncryptVideo, client_address: str) -> bool:
    """Tell whether the edge is to offer encryption to a client at this address."""
    if setting != "auto":
        return setting == "always"
    try:
        address = ip_address(client_address.partition("%")[0])
    except ValueError:
        return True
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return not any(address in network for network in _private)


def offer(
    answer: RtspResponse, video: VideoEncryption, *, wanted: bool
) -> tuple[RtspResponse, VideoEncryption]:
    """Say in DESCRIBE's answer that video can be encrypted, where the host does not say so.

    Returns what the client gets, and what is settled now. An answer that cannot be read is left
    alone, and so is what its host may have offered.
    """
    already = video.by is VideoEncryptor.EDGE
    try:
        supported = _flags(answer.body, _supported) or 0
        requested = _flags(answer.body, _requested) or 0
    except ValueError:
        return answer, video if already else replace(video, by=VideoEncryptor.HOST)
    if (supported | requested) & _video and not already:
        return answer, replace(video, by=VideoEncryptor.HOST)
    if not wanted and not already:
        return answer, replace(video, by=VideoEncryptor.NOBODY)
    body = _with_flags(answer.body, _supported, supported | _video)
    body = _with_flags(body, _requested, requested | _video)
    return _with_body(answer, body), video if already else replace(video, by=VideoEncryptor.OFFERED)


def for_host(request: RtspRequest, video: VideoEncryption) -> RtspRequest:
    """Take out of ANNOUNCE that video is to be encrypted, unless the host itself does that."""
    if request.method != "ANNOUNCE" or video.by is VideoEncryptor.HOST:
        return request
    try:
        enabled = _flags(request.body, _enabled) or 0
    except ValueError:
        return request
    if not enabled & _video:
        return request
    return _with_body(request, _with_flags(request.body, _enabled, enabled & ~_video))


def announced(request: RtspRequest, video: VideoEncryption) -> VideoEncryption:
    """Return what is settled once the host has accepted the client's ANNOUNCE."""
    if video.by is not VideoEncryptor.OFFERED:
        return video
    try:
        enabled = _flags(request.body, _enabled) or 0
    except ValueError:
        enabled = 0
    by = VideoEncryptor.EDGE if enabled & _video else VideoEncryptor.NOBODY
    return replace(video, by=by)


def set_counters_aside(video: VideoEncryption, clock_ns: int) -> tuple[int, VideoEncryption]:
    """Return the first counter for a new sealer, and what is settled once it has it.

    Every sealer of a session begins beyond all that those before it may have used, be they of
    this process or of one before it, as far as the session's record tells. Where that could not
    be written, or a client uses a key again in another session, the clock does the same: no
    stream has as many packets as nanoseconds. Both would have to fail for a counter to repeat:
    the clock stepping back to within a fraction of a second of where the former sealer began.
    After some four million launches in one session they begin from 0, under a key of their own.
    """
    first = max(video.next_counter, clock_ns % _clock_modulus) % (COUNTERS - max_counters)
    return first, replace(video, next_counter=first + max_counters)


def _flags(body: bytes, name: bytes) -> int | None:
    """Give the number behind the first `name`, as clients search it; None where it is not there.

    Raises:
        ValueError: the name is there, and no such number.

    """
    at = body.find(name)
    if at < 0:
        return None
    match = _number.match(body, at + len(name))
    if match is None or int(match[1]) > _max_u32:
        raise ValueError("a flag line without a number")
    return int(match[1])


def _with_flags(body: bytes, name: bytes, flags: int) -> bytes:
    """Write another number behind the first `name`, or a line of its own at the end."""
    text = str(flags).encode()
    at = body.find(name)
    if at >= 0:
        match = _number.match(body, at + len(name))
        assert match is not None  # noqa: S101 - it has been read before
        return body[: match.start(1)] + text + body[match.end(1) :]
    line_end = b"\n" if b"\n" in body and b"\r\n" not in body else b"\r\n"
    first_end = b"" if not body or body.endswith(b"\n") else line_end
    return b"".join((body, first_end, b"a=", name, b":", text, line_end))


def _with_body(message: _Message, body: bytes) -> _Message:
    if len(body) != len(message.body) and message.header("Content-length") is not None:
        message = message.with_header("Content-length", str(len(body)))
    return replace(message, body=body)
