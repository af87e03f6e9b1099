"""Whole streams of a simulated host on real sockets: media, control, pause, end and crash."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import av
import pytest
import trio
from simulator_client import (
    DEADLINE_S,
    RIKEY,
    RIKEYID,
    Player,
    StartHost,
    announcement,
    until,
)

from moonlight.audio import AudioCipher, AudioReceiver
from moonlight.control import ControlCipher, ControlKind
from moonlight.enet_peer import Connected, Disconnected, EnetEvent, EnetPeer, Received
from moonlight.ping import build_ping
from moonlight.rtp import FrameKind
from moonlight.video import AssembledFrame, FrameAssembler
from simulator.config import Traps
from simulator.host import HostHandle
from simulator.sessions import SessionState
from simulator.testcard import read_counter

WOLF, OLD, NONE = Traps.wolf_2026(), Traps.wolf_2024(), Traps.none()
ALL = pytest.mark.parametrize("traps", [WOLF, OLD, NONE], ids=["wolf", "2024", "none"])


@dataclass
class Udp:
    """A client's socket towards one port of the host."""

    source: str
    host: str
    port: int
    socket: trio.socket.SocketType = field(init=False)

    async def __aenter__(self) -> Udp:
        self.socket = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await self.socket.bind((self.source, 0))
        await self.socket.connect((self.host, self.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    async def send(self, datagram: bytes) -> None:
        await self.socket.send(datagram)

    async def receive(self) -> bytes:
        with trio.fail_after(DEADLINE_S):
            return await self.socket.recv(2048)

    def silent(self) -> bool:
        """Whether nothing has arrived that was not read; a port that is gone is silent, too."""
        try:
            self.socket._sock.recv(2048, socket.MSG_PEEK | socket.MSG_DONTWAIT)  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionRefusedError):
            return True
        return False


@dataclass
class Playing:
    """A client after PLAY, before its pings."""

    player: Player
    payload: str | None
    connect_data: int
    video: Udp
    audio: Udp
    control: Udp
    assembler: FrameAssembler = field(default_factory=FrameAssembler)

    async def ping(self) -> None:
        await self.video.send(build_ping(self.payload, 1))
        await self.audio.send(build_ping(self.payload, 1))

    async def next_frame(self) -> AssembledFrame:
        while True:
            frame = self.assembler.receive(await self.video.receive())
            if frame is not None:
                return frame

    async def frame(self, *, idr: bool) -> AssembledFrame:
        """The next frame of that kind."""
        while True:
            frame = await self.next_frame()
            if (frame.kind == FrameKind.IDR) is idr:
                return frame


@asynccontextmanager
async def playing(
    host: HostHandle,
    player: Player,
    path: str = "/launch",
    host_text: str | None = None,
    **sdp: bool,
) -> AsyncIterator[Playing]:
    """Launch and go through RTSP."""
    name = host_text or (await player.launched(path)).host
    audio, video, control = [
        await player.rtsp("SETUP", f"streamid={stream}", name)
        for stream in ("audio/0/0", "video/0/0", "control/13/0")
    ]
    await player.rtsp("ANNOUNCE", "streamid=control/13/0", name, announcement(**sdp))
    assert (await player.rtsp("PLAY", "/", name)).status == 200
    ports = [answer.server_port or 0 for answer in (video, audio, control)]
    sockets = [Udp(player.source, host.address, port) for port in ports]
    async with sockets[0], sockets[1], sockets[2]:
        yield Playing(player, video.ping_payload, control.connect_data or 0, *sockets)


async def paired(host: HostHandle, name: str = "alice", source: str = "127.0.0.1") -> Player:
    player = Player(host, name, source)
    await player.pair()
    return player


class Control:
    """The client's end of the control stream."""

    def __init__(self, client: Playing) -> None:
        self._udp = client.control
        self.peer = EnetPeer.client(connect_data=client.connect_data)
        self.cipher = ControlCipher(RIKEY, "client", version=1)
        self.seen: list[EnetEvent] = []

    async def flush(self) -> None:
        for datagram in self.peer.datagrams(_now_ms()):
            await self._udp.send(datagram)

    async def await_event(self, kind: type[EnetEvent]) -> EnetEvent:
        """Keep the connection going until something of that kind happens."""
        await self.flush()
        with trio.fail_after(DEADLINE_S):
            while True:
                events = self.peer.receive(await self._udp.receive(), _now_ms())
                await self.flush()
                self.seen += events
                for event in events:
                    if isinstance(event, kind):
                        return event

    async def send(self, kind: int, payload: bytes = b"") -> None:
        self.peer.send(0, self.cipher.seal(kind, payload))
        await self.flush()


def _now_ms() -> int:
    return int(trio.current_time() * 1000)


@ALL
async def test_the_picture_comes_after_the_ping_starts_with_an_idr_frame_and_decodes(
    start_host: StartHost, traps: Traps
) -> None:
    host = await start_host(traps)
    async with playing(host, await paired(host)) as client:
        assert client.video.silent()
        await client.ping()
        decoder = av.CodecContext.create("h264", "r")
        decoder.options = {"flags": "low_delay"}
        numbers = []
        while len(numbers) < 5:
            frame = await client.next_frame()
            assert (frame.kind == FrameKind.IDR) is (not numbers)
            (picture,) = decoder.decode(av.Packet(frame.data))
            numbers.append(read_counter(picture.to_ndarray(format="gray8")))
        assert numbers == [1, 2, 3, 4, 5]
        assert (picture.width, picture.height) == (640, 360)
        assert host.counters.pings == 2


@ALL
@pytest.mark.parametrize("encrypted_audio", [True, False])
async def test_audio_is_sealed_with_rikey_where_the_client_asked_for_it(
    start_host: StartHost, traps: Traps, encrypted_audio: bool
) -> None:
    host = await start_host(traps)
    player = await paired(host)
    async with playing(host, player, encrypted_audio=encrypted_audio) as client:
        await client.ping()
        cipher = AudioCipher(RIKEY, RIKEYID) if encrypted_audio else None
        receiver = AudioReceiver(cipher)
        packets = []
        while len(packets) < 12:
            packets += receiver.receive(await client.audio.receive())
        assert {len(packet.opus) for packet in packets} == {60}
        assert (receiver.lost_packets, receiver.undecipherable_packets) == (0, 0)


async def test_a_ping_with_a_foreign_payload_gets_nothing(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    async with playing(host, await paired(host)) as client:
        await client.video.send(build_ping("A" * 16, 1))
        await client.video.send(b"noise")
        await until(lambda: host.counters.pings_unmatched == 2)
        assert client.video.silent()
        assert host.counters.video_datagrams == 0


async def test_a_ping_on_another_sessions_port_gets_nothing(start_host: StartHost) -> None:
    host = await start_host(OLD)
    alice = await paired(host)
    bob = await paired(host, "bob", "127.0.0.2")
    async with playing(host, alice), playing(host, bob) as client:
        async with Udp(alice.source, host.address, client.video.port) as astray:
            await astray.send(build_ping(None, 1))
            await until(lambda: host.counters.pings_unmatched == 1)
        assert host.counters.pings == 0


async def test_a_picture_follows_its_client_to_a_new_port_with_a_new_idr_frame(
    start_host: StartHost,
) -> None:
    host = await start_host(WOLF)
    async with playing(host, await paired(host)) as client:
        await client.ping()
        await client.frame(idr=False)
        async with Udp("127.0.0.1", host.address, client.video.port) as moved:
            client.video = moved
            await client.ping()
            assert (await client.frame(idr=True)).frame_index > 1


@ALL
async def test_an_idr_request_is_honoured(start_host: StartHost, traps: Traps) -> None:
    host = await start_host(traps)
    async with playing(host, await paired(host)) as client:
        await client.ping()
        control = Control(client)
        await control.await_event(Connected)
        await client.frame(idr=False)
        await control.send(ControlKind.REQUEST_IDR)
        assert (await client.frame(idr=True)).frame_index > 1
        assert host.counters.idr_requests == 1


async def test_a_client_that_disconnects_is_paused_and_resumes(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    player = await paired(host)
    async with playing(host, player) as client:
        await client.ping()
        control = Control(client)
        await control.await_event(Connected)
        control.peer.disconnect()
        assert await control.await_event(Disconnected) == Disconnected("local")
        await until(lambda: host.sessions()[0].state is SessionState.PAUSED)
    (before,) = host.sessions()
    async with playing(host, player, "/resume") as client:
        await client.ping()
        assert (await client.frame(idr=True)).frame_index == 1
        assert [session.id for session in host.sessions()] == [before.id]
        assert host.sessions()[0].state is SessionState.STREAMING


async def test_a_client_is_told_when_its_session_ends(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    async with playing(host, await paired(host)) as client:
        control = Control(client)
        await control.await_event(Connected)
        await until(lambda: host.counters.control_connects == 1)  # the host knows it, too
        (session,) = host.sessions()
        assert host.end_session(session.id)
        message = await control.await_event(Received)
        assert isinstance(message, Received)
        host_cipher = ControlCipher(RIKEY, "client", version=1)
        kind, payload = host_cipher.open(message.data)
        assert kind == ControlKind.TERMINATION == 0x0109
        assert payload == struct.pack(">I", 0x80030023)
        assert host.sessions() == ()
        assert not host.end_session(session.id)


@ALL
async def test_nothing_is_sent_any_more_when_a_session_has_ended(
    start_host: StartHost, traps: Traps
) -> None:
    host = await start_host(traps)
    async with playing(host, await paired(host)) as client:
        await client.ping()
        await client.frame(idr=True)
        host.end_session(host.sessions()[0].id)
        sent = host.counters.frames_sent
        if traps.ports_per_session:
            await until(lambda: _free(client.video.port) and _free(client.audio.port))
        else:
            await client.ping()
            await until(lambda: host.counters.pings_unmatched == 2)
        # At most the frame that was in the encoder when the session ended.
        assert host.counters.frames_sent - sent <= 1


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def test_a_client_whose_pings_stay_out_is_paused(start_host: StartHost) -> None:
    host = await start_host(WOLF, ping_timeout_s=0.2)
    async with playing(host, await paired(host)) as client:
        await client.ping()
        await client.frame(idr=True)
        await until(lambda: host.sessions()[0].state is SessionState.PAUSED)


async def test_a_control_message_of_another_key_is_counted_and_has_no_effect(
    start_host: StartHost,
) -> None:
    host = await start_host(WOLF)
    async with playing(host, await paired(host)) as client:
        control = Control(client)
        await control.await_event(Connected)
        control.cipher = ControlCipher(bytes(16), "client", version=1)
        await control.send(ControlKind.REQUEST_IDR)
        await client.control.send(b"\0" * 3)
        await until(lambda: host.counters.control_invalid >= 1)
        assert host.counters.idr_requests == 0


async def test_a_connect_of_nobody_is_not_answered(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    async with playing(host, await paired(host)) as client:
        client.connect_data ^= 1
        await Control(client).flush()
        await until(lambda: host.counters.control_unmatched == 1)
        assert client.control.silent()


async def test_wolf_seals_one_clients_audio_with_anothers_key_where_rtsp_names_nobody(
    start_host: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await start_host(WOLF)
    alice, bob = await paired(host), await paired(host, "bob")
    await alice.launched()
    monkeypatch.setattr("simulator_client.RIKEY", bytes(16))  # what bob launches with
    await bob.launched()
    async with playing(host, bob, host_text="0.0.0.0") as client:
        await client.ping()
        receiver = AudioReceiver(AudioCipher(RIKEY, RIKEYID))  # alice's
        packets = []
        while not packets:
            packets = receiver.receive(await client.audio.receive())
        assert len(packets[0].opus) == 60
    states = {session.client: session.state for session in host.sessions()}
    assert states[alice.identity.certificate.id] is SessionState.STREAMING
    assert states[bob.identity.certificate.id] is SessionState.LAUNCHED


async def test_a_crash_is_silent_and_leaves_no_port_open(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    async with playing(host, await paired(host)) as client:
        control = Control(client)
        await control.await_event(Connected)
        host.crash()
        for port in (host.http_port, host.https_port, host.rtsp_port):
            await until(lambda port=port: not _listens(port))
        while not client.control.silent():
            control.seen += control.peer.receive(await client.control.receive(), _now_ms())
        assert not any(isinstance(event, Disconnected) for event in control.seen)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_no_secret_is_logged(
    start_host: StartHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host = await start_host(WOLF)
    async with playing(host, await paired(host)) as client:
        await client.ping()
        await client.frame(idr=True)
        await Control(client).await_event(Connected)
    host.end_session(host.sessions()[0].id)
    logged = "".join(capsys.readouterr())
    assert "session_launched" in logged
    assert client.payload is not None
    for secret in (RIKEY.hex(), client.payload, str(client.connect_data), "1234"):
        assert secret not in logged
