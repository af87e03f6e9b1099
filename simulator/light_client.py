"""A light Moonlight client: it does on the wire what Moonlight does, and decodes nothing.

Made to run many times in one process, so that whole sessions can be put on an edge: it pairs,
launches, shakes hands, pings, controls and receives, and measures what arrives.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from moonlight.announce import Encryption, StreamSettings
from moonlight.applist import App
from moonlight.control import ControlCipher
from moonlight.enet_peer import EnetPeer
from moonlight.flows import Flow
from moonlight.identity import Identity
from moonlight.launch import RtspUrl
from moonlight.ping import build_ping
from moonlight.rtsp_encryption import EncryptedRtsp
from moonlight.video_encryption import VideoOpener
from simulator.light_control import PING_INTERVAL_S as CONTROL_PING_INTERVAL_S
from simulator.light_control import LightControl
from simulator.light_errors import ClientFailed, first_failure
from simulator.light_figures import AudioMeter, SessionFigures, VideoMeter
from simulator.light_http import ConfirmPin, LaunchWish, LightHttp, Target
from simulator.light_rtsp import FlowTerms, Handshake, shake_hands
from simulator.light_udp import LightSocket
from simulator.ownership import Ownership, Whose

PING_INTERVAL_S: Final = 0.5
PICTURE_TIMEOUT_S: Final = 10.0
"""How long the first whole frame may take, and how long video may pause."""
PACKET_SIZE: Final = 1024
"""What Moonlight asks for where the host is not in its own network."""
AUDIO_PACKET_MS: Final = 5
LEAVE_TIMEOUT_S: Final = 10.0
MIN_FEC_PACKETS: Final = 2
COMMON_NAME: Final = "NVIDIA GameStream Client"
_MODE: Final = re.compile(r"([1-9][0-9]{2,3})x([1-9][0-9]{2,3})x([1-9][0-9]{0,2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamWish:
    """What to play. Raises ValueError for a mode that is not WIDTHxHEIGHTxFPS."""

    app_id: int
    mode: str
    bitrate_kbps: int
    packet_size: int = PACKET_SIZE
    encrypts_video: bool = True
    """Where it is offered. Clients of before 2024 never do."""
    corever: int = 1
    """0 offers the host no encrypted RTSP."""
    knows_secrets: bool = True
    """Clients of before 2023 do not: neither ping payloads nor connect data."""
    audio_packet_ms: int = AUDIO_PACKET_MS
    control_ping_interval_s: float = CONTROL_PING_INTERVAL_S

    def launch(self) -> LaunchWish:
        """What /launch and /resume say of it, under a new key."""
        return LaunchWish(
            self.app_id,
            self.mode,
            secrets.token_bytes(16),
            secrets.randbits(32) - 2**31,
            self.corever,
        )

    def __post_init__(self) -> None:
        parse_mode(self.mode)

    def settings(self) -> StreamSettings:
        """What ANNOUNCE says of it."""
        width, height, fps = parse_mode(self.mode)
        return StreamSettings(
            width=width,
            height=height,
            fps=fps,
            packet_size=self.packet_size,
            bitrate_kbps=self.bitrate_kbps,
            min_fec_packets=MIN_FEC_PACKETS,
            audio_packet_ms=self.audio_packet_ms,
            encrypted_audio=True,
        )


def parse_mode(mode: str) -> tuple[int, int, int]:
    """Read WIDTHxHEIGHTxFPS. Raises ValueError."""
    match = _MODE.fullmatch(mode)
    if match is None:
        raise ValueError("a mode is WIDTHxHEIGHTxFPS")
    return int(match[1]), int(match[2]), int(match[3])


class LightClient:
    """One installation of Moonlight: an identity, and one host or edge it goes to.

    Every method raises `ClientFailed`.
    """

    def __init__(self, target: Target, identity: Identity) -> None:
        self.identity = identity
        self._target = target
        self._http = LightHttp(target, identity)
        self.latest: Playing | None = None
        """The session that began last: what it saw is told also if it failed before it played."""

    @classmethod
    async def new(cls, target: Target) -> LightClient:
        """Make a client that nobody knows yet. Its key takes some 100 ms, in a thread."""
        identity = await trio.to_thread.run_sync(
            lambda: Identity.generate(COMMON_NAME, now=datetime.now(UTC))
        )
        return cls(target, identity)

    async def pair(self, confirm: ConfirmPin) -> None:
        """Pair by a PIN of one's own choice, which `confirm` brings to the other side."""
        await self._http.pair(f"{secrets.randbelow(10_000):04}", confirm)

    async def apps(self) -> tuple[App, ...]:
        """See that the host knows this client, and read its apps."""
        info = await self._http.serverinfo()
        if not info.paired:
            raise ClientFailed("not_paired", "The host does not know this client.")
        return await self._http.apps()

    async def abandon(self, wish: StreamWish) -> None:
        """Launch and go no further, as a player who thinks better of it: the app runs on."""
        await self._http.launch(wish.launch())

    async def cancel(self) -> None:
        """End the app that runs."""
        await self._http.cancel()

    @asynccontextmanager
    async def playing(
        self, wish: StreamWish, *, resume: bool = False, quit_app: bool = True
    ) -> AsyncIterator[Playing]:
        """Launch, and play for a block, from the first whole frame on; then leave and cancel.

        Leaving and cancelling happen whatever ends the block, within `LEAVE_TIMEOUT_S`. With
        `resume` the app runs already; without `quit_app` it runs on when the block ends well.
        """
        launch = wish.launch()
        ended_well = False
        try:
            with first_failure():
                asked_at = trio.current_time()
                url = await self._http.launch(launch, resume=resume)
                playing = self.latest = Playing(self._target, wish, launch, asked_at)
                async with playing.streaming(url, self._http.ports):
                    yield playing
            ended_well = True
        finally:
            if quit_app or not ended_well:
                await self._cancel(must=ended_well)

    async def _cancel(self, *, must: bool) -> None:
        """End the app, also when cancelled; `must` tells whether its failure is worth telling."""
        with trio.move_on_after(LEAVE_TIMEOUT_S, shield=True):
            try:
                await self._http.cancel()
            except ClientFailed:
                if must:
                    raise


class Playing:
    """One session of a light client while it plays."""

    def __init__(
        self, target: Target, wish: StreamWish, launch: LaunchWish, asked_at: float
    ) -> None:
        self._target = target
        self._launch = launch
        self._settings = wish.settings()
        self._wish = wish
        self._asked_at = asked_at
        self._launch_ms = (trio.current_time() - asked_at) * 1000
        self._first_frame_ms = 0.0
        self._first_frame = trio.Event()
        self._sockets: dict[Flow, LightSocket] = {}
        self._video = VideoMeter(launch.rikeyid)
        self._audio = AudioMeter(launch.rikey, launch.rikeyid)
        self._asked_for_video_at = self._video_at = asked_at
        self._control: LightControl | None = None
        self._drops_before = 0

    def begin(self) -> None:
        """Count anew from now on: what was lost while things were set up is forgiven."""
        self._take()
        self._video.begin()
        self._audio.begin()
        if self._control is not None:
            self._control.round_trips.begin()
        self._drops_before = self._drops()

    def move(self, source: str | None = None) -> None:
        """Go on from other UDP ports, and from another of one's own addresses if one is given.

        Raises `ClientFailed`.
        """
        for socket in self._sockets.values():
            try:
                socket.move(source)
            except OSError as error:
                raise ClientFailed("no_socket", f"No UDP socket: {error.strerror}.") from error

    def figures(self) -> SessionFigures:
        """What was measured since the start, or since `begin`."""
        self._take()
        video, audio = self._video, self._audio
        control = self._control
        round_trips = () if control is None else tuple(control.round_trips.samples_ms)
        return SessionFigures(
            launch_ms=self._launch_ms,
            first_frame_ms=self._first_frame_ms,
            frames_whole=video.whole,
            frames_lost=video.lost,
            frames_foreign=video.foreign,
            video_foreign=video.foreign_datagrams,
            packets_recovered=video.recovered,
            video_datagrams=video.loss.received,
            video_datagrams_lost=video.loss.lost,
            video_encrypted=video.opener is not None,
            video_undecryptable=video.undecryptable,
            audio_packets=audio.loss.received,
            audio_packets_lost=audio.loss.lost,
            audio_foreign=audio.foreign,
            control_foreign=0 if control is None else control.foreign,
            socket_drops=self._drops() - self._drops_before,
            control_round_trips_ms=round_trips,
            ownership=Ownership(
                video.whose, audio.whose, Whose.NOTHING if control is None else control.whose
            ),
        )

    @asynccontextmanager
    async def streaming(self, url: RtspUrl, http_ports: tuple[int, ...]) -> AsyncIterator[None]:
        """Set the stream up and keep it going for a block, which begins with the first frame."""
        handshake = Handshake(
            url,
            self._settings,
            encrypts_video=self._wish.encrypts_video,
            knows_secrets=self._wish.knows_secrets,
        )
        offered = self._launch.corever >= 1
        sealing = EncryptedRtsp(self._launch.rikey, "client") if offered else None
        with ExitStack() as closing:
            try:
                async with trio.open_nursery() as nursery:

                    def set_up(flow: Flow, terms: FlowTerms) -> None:
                        self._sockets[flow] = socket = self._open(terms.port)
                        closing.callback(socket.close)
                        if flow is Flow.AUDIO:
                            nursery.start_soon(self._ping, socket, terms.ping_payload)

                    await shake_hands(
                        self._target,
                        url,
                        handshake,
                        sealing=sealing,
                        other_ports=http_ports,
                        on_terms=set_up,
                    )
                    await self._start(handshake, nursery)
                    yield
                    nursery.cancel_scope.cancel()
            finally:
                if self._control is not None:
                    with trio.move_on_after(LEAVE_TIMEOUT_S, shield=True):
                        await self._control.leave()

    def _open(self, port: int) -> LightSocket:
        try:
            return LightSocket(self._target, port)
        except OSError as error:
            raise ClientFailed("no_socket", f"No UDP socket: {error.strerror}.") from error

    async def _start(self, handshake: Handshake, nursery: trio.Nursery) -> None:
        """Connect control, ask for video, and wait for its first whole frame."""
        control_terms, video_terms = handshake.terms[Flow.CONTROL], handshake.terms[Flow.VIDEO]
        second = handshake.settings.encryption_enabled & Encryption.CONTROL_V2
        control = self._control = LightControl(
            self._sockets[Flow.CONTROL],
            EnetPeer.client(connect_data=control_terms.connect_data or 0),
            ControlCipher(self._launch.rikey, "client", version=2 if second else 1),
            ping_interval_s=self._wish.control_ping_interval_s,
        )
        await control.connect()
        nursery.start_soon(control.run)
        if handshake.settings.encryption_enabled & Encryption.VIDEO.value:
            self._video.opener = VideoOpener(self._launch.rikey)
        video = self._sockets[Flow.VIDEO]
        self._asked_for_video_at = self._video_at = trio.current_time()
        nursery.start_soon(self._ping, video, video_terms.ping_payload)
        nursery.start_soon(self._receive, video)
        nursery.start_soon(self._watch)
        await self._first_frame.wait()

    async def _ping(self, socket: LightSocket, payload: str | None) -> None:
        counter = 1
        next_ping = trio.current_time()
        while True:
            socket.send(build_ping(payload, counter))
            counter += 1
            next_ping += PING_INTERVAL_S
            await trio.sleep_until(next_ping)

    async def _receive(self, video: LightSocket) -> None:
        while True:
            await video.readable()
            self._take()

    async def _watch(self) -> None:
        """Notice a video stream that stays out, and take audio that comes without video."""
        while True:
            await trio.sleep(PING_INTERVAL_S)
            self._take()
            now, limit_s = trio.current_time(), PICTURE_TIMEOUT_S
            if now - self._video_at > limit_s:
                raise ClientFailed("video_silent", f"No video came for {limit_s:g} s.")
            if not self._first_frame.is_set() and now - self._asked_for_video_at > limit_s:
                raise ClientFailed("no_picture", f"No frame was whole within {limit_s:g} s.")

    def _take(self) -> None:
        """Take what has arrived; audio too, which would wake a task of its own for each packet."""
        video, audio = self._sockets.get(Flow.VIDEO), self._sockets.get(Flow.AUDIO)
        if video is not None and (datagrams := video.drain()):
            self._video_at = trio.current_time()
            if self._video.receive(datagrams) and self._control is not None:
                self._control.request_idr()
            if self._video.begun and not self._first_frame.is_set():
                self._first_frame_ms = (trio.current_time() - self._asked_at) * 1000
                self._first_frame.set()
        if audio is not None:
            self._audio.receive(audio.drain())

    def _drops(self) -> int:
        return sum(socket.dropped() for socket in self._sockets.values())
