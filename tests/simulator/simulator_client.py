"""A client of simulated hosts, made of moonlight/'s parts, that shows what is on the wire."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

from moonlight.http import HttpClient, HttpResponse, Query
from moonlight.identity import Identity
from moonlight.launch import RtspUrl, session_url
from moonlight.pairing import PairingClient
from moonlight.rtsp import RtspParser, RtspRequest, RtspResponse
from moonlight.tls import client_context
from moonlight.xml import Answer
from simulator.config import HostConfig, Traps
from simulator.host import HostHandle
from tests.waiting import until

UNIQUE_ID = "0123456789ABCDEF"
PIN = "1234"
RIKEY = bytes(range(16))
RIKEYID = -280119551
DEADLINE_S = 10.0

StartHost = Callable[..., Awaitable[HostHandle]]
"""The fixture `start_host`: takes traps and changes to the configuration."""


@functools.cache
def identity(name: str) -> Identity:
    """One identity a name for all tests: making one takes a while."""
    return Identity.generate(name, now=datetime.now(UTC))


def host_config(state_dir: Path, traps: Traps, **changes: object) -> HostConfig:
    """A host on free ports that need not make an identity first."""
    key, certificate = state_dir / "host-key.pem", state_dir / "host-certificate.pem"
    key.write_bytes(identity("host").key_pem)
    certificate.write_bytes(identity("host").certificate.pem)
    ports = dict.fromkeys(
        ("http_port", "https_port", "rtsp_port", "video_port", "audio_port", "control_port"), 0
    )
    return HostConfig(
        name="sim", region="eu-west", traps=traps, state_dir=state_dir, **{**ports, **changes}
    )


@dataclass(frozen=True)
class Exchange:
    """What one connection brought: all bytes up to its end."""

    raw: bytes

    @property
    def response(self) -> HttpResponse:
        client = HttpClient()
        client.request("GET", "/", [("Host", "x")])
        client.receive(self.raw)
        client.receive(b"")
        response = client.response()
        assert response is not None
        return response

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def answer(self) -> Answer:
        return Answer.parse(self.response.body)


@dataclass(frozen=True)
class Player:
    """One client of one host, at one address."""

    host: HostHandle
    name: str = "alice"
    source: str = "127.0.0.1"

    @property
    def identity(self) -> Identity:
        return identity(self.name)

    async def connect(self, port: int) -> trio.SocketStream:
        sock = trio.socket.socket()
        await sock.bind((self.source, 0))
        await sock.connect((self.host.address, port))
        return trio.SocketStream(sock)

    async def secured(self) -> trio.SSLStream[trio.abc.Stream]:
        stream = await self.connect(self.host.https_port)
        context = client_context(self.identity, pinned_der=self.host.certificate.der)
        return trio.SSLStream(stream, context, https_compatible=True)

    async def get(self, path: str, *pairs: tuple[str, str], secure: bool) -> Exchange:
        query = Query.of(("uniqueid", UNIQUE_ID), ("uuid", "1"), *pairs).encode()
        stream = await (self.secured() if secure else self.connect(self.host.http_port))
        return await exchange(stream, f"GET {path}?{query} HTTP/1.1\r\nHost: x\r\n")

    async def post_pin(self, body: bytes) -> Exchange:
        head = f"POST /pin/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        return await exchange(await self.connect(self.host.http_port), head, body)

    async def pair_step(self, pairing: PairingClient) -> Answer:
        """One step; the host's answer, not yet judged."""
        query = pairing.next_query()
        return (await self.get("/pair", *query.pairs, secure=pairing.over_https)).answer

    async def pair(self, pin: str = PIN, told: str = PIN) -> None:
        """Pair while the host is told the PIN `told`; raises as PairingClient does."""
        pairing = PairingClient(self.identity, pin)
        before = {pending.secret for pending in self.host.pending_pairings()}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_pin, before, told)
            pairing.receive(await self.pair_step(pairing))
        while not pairing.finished:
            pairing.receive(await self.pair_step(pairing))

    async def _tell_pin(self, before: set[str], pin: str) -> None:
        await until(lambda: any(p.secret not in before for p in self.host.pending_pairings()))
        for pending in self.host.pending_pairings():
            if pending.secret not in before:
                assert self.host.confirm_pin(pending.secret, pin)

    async def launch(
        self, path: str = "/launch", mode: str = "640x360x60", app: int = 378473508
    ) -> Exchange:
        return await self.get(
            path,
            ("appid", str(app)),
            ("mode", mode),
            ("rikey", RIKEY.hex()),
            ("rikeyid", str(RIKEYID)),
            ("surroundAudioInfo", "196610"),
            ("corever", "1"),
            secure=True,
        )

    async def launched(self, path: str = "/launch") -> RtspUrl:
        return session_url((await self.launch(path)).answer)

    async def rtsp_bytes(self, *segments: bytes) -> bytes:
        """What RTSP answers to these bytes, up to its orderly end."""
        with trio.fail_after(DEADLINE_S):
            async with await self.connect(self.host.rtsp_port) as stream:
                for segment in segments:
                    await stream.send_all(segment)
                return await _read_all(stream)

    async def rtsp(
        self, method: str, target: str, host: str = "0.0.0.0", body: bytes = b""
    ) -> RtspResponse:
        headers = [("CSeq", "1"), ("Host", host)]
        if body:
            headers.append(("Content-length", str(len(body))))
        request = RtspRequest(method, target, headers=tuple(headers), body=body)
        parser = RtspParser("response")
        parser.receive(await self.rtsp_bytes(request.encode()))
        parser.end()
        response = parser.next()
        assert response is not None
        return response


async def exchange(stream: trio.abc.Stream, head: str, body: bytes = b"") -> Exchange:
    """Send one request, take all that comes until the host closes."""
    with trio.fail_after(DEADLINE_S):
        async with stream:
            await stream.send_all(f"{head}Connection: close\r\n\r\n".encode() + body)
            return Exchange(await _read_all(stream))


async def _read_all(stream: trio.abc.Stream) -> bytes:
    received = b""
    while data := await stream.receive_some(65_536):
        received += bytes(data)
    return received


def announcement(
    *,
    width: int = 640,
    height: int = 360,
    fps: int = 60,
    kbps: int = 4000,
    encrypted_audio: bool = True,
    codec: int = 0,
    packet_size: int = 1024,
    channels: int = 2,
) -> bytes:
    """The body of an ANNOUNCE, as Moonlight writes it."""
    lines = (
        "v=0",
        "o=android 0 14 IN IPv4 127.0.0.1",
        "s=NVIDIA Streaming Client",
        "a=x-ml-general.featureFlags:3 ",
        "a=x-ss-general.encryptionEnabled:0 ",
        "a=x-ss-video[0].chromaSamplingType:0 ",
        f"a=x-nv-video[0].clientViewportWd:{width} ",
        f"a=x-nv-video[0].clientViewportHt:{height} ",
        f"a=x-nv-video[0].maxFPS:{fps} ",
        f"a=x-nv-video[0].packetSize:{packet_size} ",
        f"a=x-nv-vqos[0].bw.maximumBitrateKbps:{kbps * 4 // 5} ",
        f"a=x-ml-video.configuredBitrateKbps:{kbps} ",
        f"a=x-nv-general.featureFlags:{167 if encrypted_audio else 135} ",
        "a=x-nv-vqos[0].fec.minRequiredFecPackets:2 ",
        f"a=x-nv-vqos[0].bitStreamFormat:{codec} ",
        f"a=x-nv-audio.surround.numChannels:{channels} ",
        "a=x-nv-audio.surround.channelMask:3 ",
        "a=x-nv-aqos.packetDuration:5 ",
        "t=0 0",
        "m=video 48100  ",
        "",
    )
    return "\r\n".join(lines).encode()
