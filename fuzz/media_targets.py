"""Targets of a session's datagrams: pings, video, audio, ENet, control."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Final, Literal

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fuzz import captures
from fuzz.target import Target, as_datagrams, datagrams, promise
from moonlight.audio import AudioCipher, AudioPacketiser, AudioReceiver
from moonlight.control import ControlCipher, ControlKind, termination_reason
from moonlight.enet import (
    ACKNOWLEDGE_FLAG,
    CommandKind,
    EnetCommand,
    EnetPacket,
    SendReliable,
    connect_data,
    parse_packet,
    peer_id,
    rewrite_connect_data,
)
from moonlight.enet_peer import EnetLimits, EnetPeer, Received
from moonlight.errors import Malformed, ProtocolError
from moonlight.ping import build_ping, parse_ping
from moonlight.rtp import FrameHeader, RtpHeader, VideoPacketHeader
from moonlight.video import FrameAssembler, FramePacketiser
from moonlight.video_encryption import VideoOpener, VideoSealer
from moonlight.wake import format_mac, magic_packet, own_mac, parse_mac, woken_mac
from proxy.control_proof import ControlTrail, Verdict

_KEY: Final = bytes(16)
_VIDEO_PORT: Final = 48100
_CONTROL_PORT: Final = 47999
_AUDIO_PORT: Final = 48200
_STEP_MS: Final = 20
_max_frame_bytes: Final = 2048


def _ping(data: bytes) -> None:
    ping = parse_ping(data)
    if ping is not None:
        promise(build_ping(ping.payload, ping.counter) == data, "a ping round-trips")


def _ping_seeds() -> list[bytes]:
    recorded = [
        data for port in (_VIDEO_PORT, _AUDIO_PORT) for up, data in captures.udp(port) if up
    ]
    return [b"PING", build_ping("0123456789abcdef", 7), *recorded[:4]]


def _wake(data: bytes) -> None:
    mac = woken_mac(data)
    if mac is not None:
        packet = magic_packet(mac)
        promise(data.startswith(packet), "what wakes is a magic packet")
        promise(len(data) - len(packet) in (0, 4, 6), "a password has 4 or 6 bytes")
    read = parse_mac(data.decode("latin-1"))
    promise(parse_mac(format_mac(read)) == read, "addresses round-trip")
    promise(woken_mac(magic_packet(read)) == read, "and can be woken")


def _wake_seeds() -> list[bytes]:
    packet = magic_packet(own_mac("edge"))
    return [packet, packet + bytes(4), packet[:-1], b"02:00:5e:10:00:01", b"02-00-5e-10-00-01"]


# -- video and audio ---------------------------------------------------------------------------


def _video(data: bytes) -> None:
    assembler = FrameAssembler()
    for datagram in datagrams(data):
        with suppress(ProtocolError):
            promise(RtpHeader.parse(datagram).pack() == datagram[:12], "RTP headers round-trip")
            header = VideoPacketHeader.parse(datagram)
            promise(header.pack() == datagram[:32], "video headers round-trip")
            with suppress(ProtocolError):
                FrameHeader.parse(datagram[32:]).pack()
            assembler.receive(datagram)


def _video_loss(data: bytes) -> None:
    """Send the input as one frame, and lose of each block what parity can give back."""
    losses, frame = data[:8], data[8 : 8 + _max_frame_bytes]
    assembler = FrameAssembler()
    sent = FramePacketiser(64, fec_percentage=50).packetise(frame, frame_index=1, idr=True)
    headers = [VideoPacketHeader.parse(datagram) for datagram in sent]
    spare = {header.block_index: header.parity_shards for header in headers}
    found = []
    for number, (header, datagram) in enumerate(zip(headers, sent, strict=True)):
        lost = losses and losses[number // 8 % len(losses)] >> number % 8 & 1
        if lost and spare[header.block_index]:
            spare[header.block_index] -= 1
        elif (whole := assembler.receive(datagram)) is not None:
            found.append(whole.data)
    promise(found == [frame], "parity gives back what was lost")


def _video_seeds() -> list[bytes]:
    packetiser = FramePacketiser(64, fec_percentage=50)
    frames = [
        packetiser.packetise(bytes(120), frame_index=index, idr=index == 1) for index in (1, 2, 3)
    ]
    recorded = [data for up, data in captures.udp(_VIDEO_PORT) if not up]
    return [
        as_datagrams(frames[0]),
        as_datagrams([*frames[0][1:], *frames[2], *frames[1]]),
        *([as_datagrams(recorded[:8])] if recorded else []),
    ]


def _video_loss_seeds() -> list[bytes]:
    return [bytes(8) + b"frame", b"\x55" * 8 + bytes(700), b"\xff" * 8 + bytes(_max_frame_bytes)]


def _audio(data: bytes) -> None:
    for cipher in (None, AudioCipher(_KEY, 1)):
        receiver, given, count = AudioReceiver(cipher), 0, 0
        for datagram in datagrams(data):
            count += 1
            with suppress(ProtocolError):
                given += len(receiver.receive(datagram))
        promise(given <= 2 * count, "two parity packets give back two packets at most")


def _audio_seeds() -> list[bytes]:
    found = []
    for cipher in (None, AudioCipher(_KEY, 1)):
        packetiser = AudioPacketiser(cipher)
        sent = [each for number in range(9) for each in packetiser.packetise(bytes([number]) * 20)]
        found += [as_datagrams(sent), as_datagrams(sent[:1] + sent[3:])]
    far = [RtpHeader(0x80, 97, number, 0, 0).pack() + b"opus" for number in (0, 32_767, 65_534)]
    recorded = [each for up, each in captures.udp(_AUDIO_PORT) if not up]
    return [*found, as_datagrams(far), *([as_datagrams(recorded[:8])] if recorded else [])]


# -- ENet and control --------------------------------------------------------------------------


def _enet(data: bytes) -> None:
    peer_id(data)
    carried = connect_data(data)
    if carried is not None:
        changed = rewrite_connect_data(data, 7)
        promise(len(changed) == len(data) and connect_data(changed) == 7, "connect data changes")
        promise(rewrite_connect_data(changed, carried) == data, "and nothing else")
    promise(parse_packet(data).encode() == data, "an ENet packet round-trips")


def _enet_peers(data: bytes) -> None:
    for peer in (
        EnetPeer.server(limits=EnetLimits(max_message_bytes=4096)),
        EnetPeer.client(connect_data=1, connect_id=2),
    ):
        for now_ms, datagram in _timed(datagrams(data)):
            with suppress(ProtocolError):
                for event in peer.receive(datagram, now_ms):
                    if isinstance(event, Received) and peer.connected:
                        peer.send(event.channel, event.data[:64], reliable=bool(event.data))
            for sent in peer.datagrams(now_ms):
                promise(parse_packet(sent).encode() == sent, "a peer sends ENet")
            peer.tick(now_ms)
            peer.next_timeout(now_ms)
        peer.disconnect()
        peer.datagrams(1_000_000)


def _timed(sent: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    return ((number * _STEP_MS, datagram) for number, datagram in enumerate(sent))


@cache
def _enet_dialogue() -> tuple[list[bytes], list[bytes]]:
    """Let a client and a server talk in steps; give what each sent, one datagram a step."""
    client = EnetPeer.client(connect_data=1, connect_id=2)
    server = EnetPeer.server()
    up, down = list[bytes](), list[bytes]()
    for step in range(12):
        now_ms = step * _STEP_MS
        if client.connected:
            client.send(
                step % 3, bytes([step]) * (2000 if step == 8 else 30), reliable=step % 2 == 0
            )
        if step == 11:
            client.disconnect()
        for datagram in client.datagrams(now_ms):
            up.append(datagram)
            server.receive(datagram, now_ms)
        for datagram in server.datagrams(now_ms):
            down.append(datagram)
            client.receive(datagram, now_ms)
    return up, down


def _enet_seeds() -> list[bytes]:
    up, down = _enet_dialogue()
    return [*up, *down, *(data for _, data in captures.udp(_CONTROL_PORT)[:20])]


def _enet_peer_seeds() -> list[bytes]:
    up, down = _enet_dialogue()
    recorded = [data for is_up, data in captures.udp(_CONTROL_PORT) if is_up][:30]
    return [as_datagrams(up), as_datagrams(down), *([as_datagrams(recorded)] if recorded else [])]


def _control(data: bytes) -> None:
    versions: tuple[Literal[1, 2], ...] = (1, 2)
    for version in versions:
        host = ControlCipher(_KEY, "host", version=version)
        with suppress(ProtocolError):
            host.open(data)
        client = ControlCipher(_KEY, "client", version=version)
        if len(data) <= 1024:
            opened = host.open(client.seal(ControlKind.INPUT, data))
            promise(opened == (ControlKind.INPUT, data), "a sealed message opens")
    with suppress(ProtocolError):
        ControlCipher(_KEY, "host").open(_sealed(data[:1024]))
    with suppress(ProtocolError):
        termination_reason(data)


def _control_proof(data: bytes) -> None:
    trail = ControlTrail(_KEY)
    versions: tuple[Literal[1, 2], ...] = (2, 1)
    for version in versions:
        sealed = ControlCipher(_KEY, "client", version=version).seal(ControlKind.INPUT, b"key")
        for first in (data, _in_enet(data)):
            trail.note(first, 1.0)
            if trail.may_know(data):
                trail.judge(data)
        trail.note(_in_enet(sealed), 2.0)
        promise(trail.sealed, "what the key has sealed is known")
        if trail.may_know(data):
            promise(trail.judge(data) is not Verdict.PLAUSIBLE, "a seal is never done without")
        promise(trail.judge(_in_enet(sealed)) is Verdict.REPLAYED, "nothing is new twice")


def _in_enet(payload: bytes) -> bytes:
    message = EnetCommand(
        CommandKind.SEND_RELIABLE, ACKNOWLEDGE_FLAG, 0, 1, SendReliable(), payload[:1024]
    )
    return EnetPacket(0, 0, 0, (message,)).encode()


def _control_proof_seeds() -> list[bytes]:
    sealed = ControlCipher(_KEY, "client", version=2).seal(ControlKind.PERIODIC_PING, bytes(8))
    return [_in_enet(sealed), sealed, _in_enet(b"in the clear")]


def _sealed(inner: bytes) -> bytes:
    """Seal any inner text, as a client that has the key but no sense would (version 1)."""
    sealed = AESGCM(_KEY).encrypt(bytes(16), inner, None)
    return struct.pack("<HHI", 1, 4 + len(sealed), 0) + sealed[-16:] + sealed[:-16]


def _control_seeds() -> list[bytes]:
    client = ControlCipher(_KEY, "client")
    inner = struct.pack("<HH", ControlKind.TERMINATION, 4) + bytes(4)
    return [client.seal(ControlKind.PERIODIC_PING, bytes(8)), inner, _sealed(inner), bytes(3)]


def _video_encryption(data: bytes) -> None:
    opener = VideoOpener(_KEY)
    with suppress(ProtocolError):
        opener.open(data)
    if data:
        size, packets = max(12, data[0]), data[1:]
        sealed, step = VideoSealer(_KEY, len(data)).seal(packets, size), size + 32
        opened = b""
        for at in range(0, len(sealed), step):
            with suppress(Malformed):  # a last packet that is shorter than any header
                opened += opener.open(sealed[at : at + step])
        promise(packets.startswith(opened), "sealed packets open")
        promise(len(packets) - len(opened) < 12, "all of them")


def _video_encryption_seeds() -> list[bytes]:
    packet = FramePacketiser(64).packetise(b"frame", frame_index=1, idr=True)[0]
    return [VideoSealer(_KEY, 0).seal(packet, len(packet)), b"\x50" + packet + packet, b""]


MEDIA_TARGETS: Final = (
    Target("ping", ("moonlight.ping",), _ping, (), _ping_seeds),
    Target("wake", ("moonlight.wake",), _wake, (ProtocolError,), _wake_seeds),
    Target("video", ("moonlight.rtp", "moonlight.video"), _video, (), _video_seeds),
    Target("video_loss", ("moonlight.video", "moonlight.fec"), _video_loss, (), _video_loss_seeds),
    Target(
        "video_encryption",
        ("moonlight.video_encryption",),
        _video_encryption,
        (),
        _video_encryption_seeds,
    ),
    Target("audio", ("moonlight.audio",), _audio, (), _audio_seeds),
    Target("enet", ("moonlight.enet",), _enet, (ProtocolError,), _enet_seeds),
    Target(
        "enet_peer",
        ("moonlight.enet_peer", "moonlight.enet_channel", "moonlight.enet_sender"),
        _enet_peers,
        (),
        _enet_peer_seeds,
    ),
    Target("control", ("moonlight.control",), _control, (), _control_seeds),
    Target("control_proof", ("proxy.control_proof",), _control_proof, (), _control_proof_seeds),
)
