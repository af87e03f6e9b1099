"""The media ports of a host: whose ping is this, and which streams run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from moonlight.flows import Flow
from moonlight.ping import parse_ping
from simulator.config import HostConfig
from simulator.ids import SessionId
from simulator.matching import match_ping
from simulator.sessions import Session, SessionTable
from simulator.stream import Counters, Destination, Stream
from simulator.udp import Address, UdpPort

_log = structlog.get_logger("simulator.media")


@dataclass(slots=True, eq=False)
class _Flows:
    """One session's media."""

    video: Destination
    audio: Destination
    slot: int | None
    """Which of the ports that sessions have of their own are this one's; None: all share theirs."""
    stream: Stream | None = None


class MediaPorts:
    """Video and audio of all sessions. Use inside `run`."""

    def __init__(self, config: HostConfig, sessions: SessionTable, counters: Counters) -> None:
        self._config = config
        self._traps = config.traps
        self._sessions = sessions
        self._counters = counters
        self._flows: dict[SessionId, _Flows] = {}
        self._nursery: trio.Nursery | None = None
        self._video: UdpPort | None = None
        self._audio: UdpPort | None = None
        self._on_left: Callable[[SessionId], None] | None = None

    async def run(
        self,
        on_left: Callable[[SessionId], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Read pings and run streams; `on_left` is told of clients whose pings stay out."""
        self._on_left = on_left
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if not self._traps.ports_per_session:
                    self._video = UdpPort(self._config.address, self._config.video_port)
                    self._audio = UdpPort(self._config.address, self._config.audio_port)
                    nursery.start_soon(self._read, Flow.VIDEO, self._video, None)
                    nursery.start_soon(self._read, Flow.AUDIO, self._audio, None)
                task_status.started()
                await trio.sleep_forever()
        finally:
            for session_id in list(self._flows):
                self.close(session_id)
            for port in (self._video, self._audio):
                if port is not None:
                    port.close()

    @property
    def shared_ports(self) -> tuple[int, int] | None:
        """The video and audio port of all sessions, None where each has its own."""
        if self._video is None or self._audio is None:
            return None
        return self._video.port, self._audio.port

    def ports(self, session_id: SessionId) -> tuple[int, int]:
        """The session's video and audio ports."""
        flows = self._flows[session_id]
        return flows.video.port.port, flows.audio.port.port

    def open(self, session: Session) -> None:
        """Make the session's ports known. Raises OSError where its own ones are taken."""
        video, audio, slot = self._video, self._audio, None
        if video is None or audio is None:
            slot = self._free_slot()
            video, audio = self._own_ports(slot)
            self._spawn(partial(self._read, Flow.VIDEO, video, session.id))
            self._spawn(partial(self._read, Flow.AUDIO, audio, session.id))
        self._flows[session.id] = _Flows(Destination(video), Destination(audio), slot)

    def start(self, session: Session) -> None:
        """Stream to wherever the client's pings come from. Needs the session's settings."""
        flows = self._flows[session.id]
        settings = session.settings
        if settings is None:
            raise ValueError("a session is played after it was announced")
        if flows.stream is not None:
            flows.stream.scope.cancel()
        flows.stream = Stream(
            session,
            settings,
            picture=self._config.picture,
            region=self._config.region,
            max_bitrate_kbps=self._config.max_bitrate_kbps,
            slowdown=self._config.slowdown,
            video=flows.video,
            audio=flows.audio,
            counters=self._counters,
        )
        self._spawn(partial(self._stream, session.id, flows.stream))

    def stop(self, session_id: SessionId) -> None:
        """Stop the session's stream and forget where it went."""
        flows = self._flows.get(session_id)
        if flows is None:
            return
        if flows.stream is not None:
            flows.stream.scope.cancel()
            flows.stream = None
        flows.video.forget()
        flows.audio.forget()

    def close(self, session_id: SessionId) -> None:
        """Stop, and give the session's own ports back."""
        self.stop(session_id)
        flows = self._flows.pop(session_id, None)
        if flows is not None and flows.slot is not None:
            flows.video.port.close()
            flows.audio.port.close()

    def request_idr(self, session_id: SessionId) -> None:
        """Make the session's next frame an IDR frame."""
        flows = self._flows.get(session_id)
        if flows is not None and flows.stream is not None:
            self._counters.idr_requests += 1
            flows.stream.request_idr()

    def _free_slot(self) -> int:
        taken = {flows.slot for flows in self._flows.values()}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)

    def _own_ports(self, slot: int) -> tuple[UdpPort, UdpPort]:
        config = self._config
        video = UdpPort(config.address, config.video_port and config.video_port + slot)
        try:
            audio = UdpPort(config.address, config.audio_port and config.audio_port + slot)
        except OSError:
            video.close()
            raise
        return video, audio

    def _spawn(self, task: Callable[[], object]) -> None:
        if self._nursery is None:
            raise RuntimeError("media ports are used inside run()")
        self._nursery.start_soon(task)  # type: ignore[arg-type]

    async def _stream(self, session_id: SessionId, stream: Stream) -> None:
        await stream.run(self._config.ping_timeout_s)
        flows = self._flows.get(session_id)
        if flows is not None and flows.stream is stream and self._on_left is not None:
            _log.info("pings_stayed_out", session=session_id)
            self._on_left(session_id)

    async def _read(self, flow: Flow, port: UdpPort, owner: SessionId | None) -> None:
        """Take the pings of one port; `owner` is the only session it can be, if it is its own."""
        while True:
            try:
                received = await port.receive()
            except trio.ClosedResourceError:
                return  # its session has ended
            for datagram, address in received:
                self._hear(flow, port, owner, datagram, address)

    def _hear(
        self, flow: Flow, port: UdpPort, owner: SessionId | None, datagram: bytes, address: Address
    ) -> None:
        ping = parse_ping(datagram)
        session_id = None if ping is None else self._match(ping.payload, address, owner)
        flows = None if session_id is None else self._flows.get(session_id)
        if flows is None:
            self._counters.pings_unmatched += 1
            return
        self._counters.pings += 1
        destination = flows.video if flow is Flow.VIDEO else flows.audio
        moved = destination.address is not None
        if destination.heard(port, address, trio.current_time()) and moved and flows.stream:
            flows.stream.request_idr()

    def _match(
        self, payload: str | None, address: Address, owner: SessionId | None
    ) -> SessionId | None:
        claims = self._sessions.claims()
        if owner is not None:
            claims = tuple(claim for claim in claims if claim.session == owner)
        return match_ping(claims, payload=payload, source=address[0], traps=self._traps)
