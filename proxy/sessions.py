"""The sessions of an edge: which client plays what on which backend, and in which state."""

from __future__ import annotations

import enum
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NewType

from backends.model import BackendId
from backends.slots import Reservation
from moonlight.flows import Flow
from moonlight.identity import ClientId, short_id
from moonlight.launch import RtspUrl
from moonlight.video_encryption import VideoSealer
from proxy.port_pool import PortPool

SessionId = NewType("SessionId", str)

_ID_BYTES = 12
_LABEL_BYTES: Final = 10
# An old client that wanders to another address still pings the ports it was told.
_any_address: Final = ""
_label: Final = re.compile(r"[0-9a-f]{20}")
_NEVER = datetime.min.replace(tzinfo=UTC)


class SessionState(enum.StrEnum):
    """Where a session stands; entered through `SessionTable` alone."""

    LAUNCHED = "launched"
    """The host runs the app; the client's RTSP handshake is awaited."""

    STREAMING = "streaming"
    """The client has sent PLAY."""

    PAUSED = "paused"
    """The client left or fell silent; the app runs on and can be resumed."""


@dataclass(frozen=True, slots=True)
class FlowTerms:
    """What the RTSP handshake settled for one UDP flow.

    A secret is the 16 characters of video's and audio's pings, or the number in control's
    CONNECT.
    """

    host_port: int
    edge_secret: str | int = field(repr=False)
    host_secret: str | int | None = field(repr=False)
    """None: the host is of the kind that matches by address alone."""


@dataclass(frozen=True, slots=True)
class StreamKey:
    """The secret of one launch or resume, which RTSP, control, audio and video encryption use."""

    rikey: bytes = field(repr=False)
    """16 bytes, AES-128."""
    rikeyid: int


class VideoEncryptor(enum.StrEnum):
    """Who encrypts a session's video on its way to the client."""

    NOBODY = "nobody"
    OFFERED = "offered"
    """The edge would; the client has not said yet whether it can."""
    EDGE = "edge"
    HOST = "host"
    """The host offers it, so that it is a matter between it and the client."""


@dataclass(frozen=True, slots=True)
class VideoEncryption:
    """What is settled of it; see `proxy.leg_encryption`."""

    by: VideoEncryptor = VideoEncryptor.NOBODY
    next_counter: int = 0
    """The lowest counter that no packet has been sealed under yet."""


@dataclass(slots=True)
class Session:
    """One client playing one app on one backend, from launch to cancel."""

    id: SessionId
    client: ClientId
    client_address: str
    backend: BackendId
    app_id: int
    """The app's id towards clients, not the backend's own."""
    app_title: str
    mode: str
    key: StreamKey
    corever: int
    """What the client said of its protocol: 1 and above understands encrypted RTSP."""
    label: str = field(repr=False)
    """Host text of the session's own ``sessionUrl0``: unique, unguessable, a valid DNS label."""
    rtsp_port: int
    """Where its handshake is expected; among those of its address no other has it meanwhile."""
    host_rtsp: RtspUrl
    state: SessionState
    since: float
    """When the state was entered; seconds of the edge's clock."""
    reservation: Reservation
    """The slot it takes at its backend, until it ends."""
    flows: dict[Flow, FlowTerms] = field(default_factory=dict)
    kbps: int | None = None
    """The bitrate that the client asked for, once it has said so."""
    codec: str | None = None
    """The video codec that the client chose, a name of `moonlight.announce.Codec`."""
    audio_channels: int | None = None
    """How many channels of audio the client chose."""
    own_udp_ports: dict[Flow, int] = field(default_factory=dict)
    """UDP ports that no other session has; empty: it shares those of all."""
    video: VideoEncryption = VideoEncryption()
    sealer: VideoSealer | None = field(default=None, repr=False, compare=False)
    """Of this process, for all video flows under `key`, so that no counter is used twice."""
    rtsp_encrypted: bool = False
    """Whether the client was told ``rtspenc://``; what its host was told is in `host_rtsp`."""
    rtsp_sequence: int = 0
    """The highest number of an RTSP message of the client under `key`, see `proxy.sealed_rtsp`."""
    host_rtsp_sequence: int = 0
    """The highest number of a sealed RTSP answer of the host since launch or resume."""
    control_client: tuple[str, int] | None = None
    """Where the client's control connection comes from: IP address and UDP port."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = _NEVER
    """Of its last record: each is later than the one before, whatever the clock does."""

    @property
    def names(self) -> dict[str, str]:
        """What the log knows it by."""
        return {"session": self.id, "client": short_id(self.client), "backend": self.backend}

    def take_key(self, key: StreamKey, *, corever: int, rtsp_encrypted: bool) -> None:
        """Enter what a resume said; numbers begin anew, the client's own only under a new key."""
        if key.rikey != self.key.rikey:
            self.rtsp_sequence = 0
        self.host_rtsp_sequence = 0
        self.key, self.corever, self.rtsp_encrypted = key, corever, rtsp_encrypted


@dataclass(frozen=True, slots=True)
class SessionPorts:
    """What a session tells its client beside the ports that all share."""

    rtsp: int
    own_udp: dict[Flow, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PortRules:
    """Which ports there are to tell sessions apart by.

    For as long as `rest_s` after a port's use nothing that was sent to it can still come: a client
    gives up on its handshake, and stops to ping a host that does not answer, long before.
    """

    rtsp: range
    """The first one is what all get for as long as nothing is ambiguous."""
    own_udp: range
    rest_s: float = 180.0


def new_label(token_hex: Callable[[int], str] = secrets.token_hex) -> str:
    """Return an unguessable host text for a session's URL, which is a valid DNS label."""
    return token_hex(_LABEL_BYTES)


def is_label(text: str) -> bool:
    """Tell whether a host text can only be a session's label, be that session known or not."""
    return _label.fullmatch(text) is not None


def new_session_id(token_hex: Callable[[int], str] = secrets.token_hex) -> SessionId:
    """Return an unguessable id, fit for a DNS label, a file name and a log line."""
    return SessionId(token_hex(_ID_BYTES))


class SessionTable:
    """The sessions by what finds them, and the ports that tell those of one address apart.

    All times are seconds of the edge's clock.
    """

    def __init__(self, ports: PortRules) -> None:
        self._by_id: dict[SessionId, Session] = {}
        self._by_client: dict[ClientId, SessionId] = {}
        self._rtsp_ports = PortPool(ports.rtsp, ports.rest_s)
        self._own_udp_ports = PortPool(ports.own_udp, ports.rest_s)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    def get(self, session_id: SessionId) -> Session | None:
        """Return a session by its id."""
        return self._by_id.get(session_id)

    def of_client(self, client: ClientId) -> Session | None:
        """Return the one session of a client."""
        session_id = self._by_client.get(client)
        return None if session_id is None else self._by_id[session_id]

    def current_app(self, client: ClientId) -> int:
        """Return the id of the app that runs for a client, 0 for none."""
        session = self.of_client(client)
        return 0 if session is None else session.app_id

    def choose_ports(
        self, client: ClientId, address: str, now: float, *, own_udp: bool
    ) -> SessionPorts:
        """Return the ports that a client's next handshake is told.

        Below 15 Mbit/s a client's RTSP says ``0.0.0.0``, and only the port tells it from others
        of its address (``protocol.md`` §5). With `own_udp` there are ports for each flow as well,
        or the shared ones where the pool has none left: a client that sends its payloads plays
        over those, and one that does not is refused there.

        Raises:
            LookupError: every RTSP port is, or was just now, another client's of that address.

        """
        (rtsp,) = self._rtsp_ports.choose(address, client, now)
        if not own_udp:
            return SessionPorts(rtsp)
        flows = tuple(Flow)
        try:
            own = self._own_udp_ports.choose(_any_address, client, now, len(flows))
        except LookupError:
            return SessionPorts(rtsp)
        return SessionPorts(rtsp, dict(zip(flows, own, strict=True)))

    def add(self, session: Session) -> None:
        """Take up a session, new or restored; the caller has ended the client's former one."""
        if session.client in self._by_client:
            raise ValueError(f"client {short_id(session.client)} has a session already")
        self._by_id[session.id] = session
        self._by_client[session.client] = session.id
        self._hold_ports(session)
        # A restored session may have left its handshake, or its stream, a moment before.
        client, since = session.client, session.since
        if session.state is not SessionState.LAUNCHED:
            self._rtsp_ports.rest_anew(
                session.client_address, client, [session.rtsp_port], now=since
            )
        if session.state is SessionState.PAUSED:
            own = session.own_udp_ports.values()
            self._own_udp_ports.rest_anew(_any_address, client, own, now=since)

    def remove(self, session_id: SessionId, now: float) -> Session | None:
        """Forget a session, if it is still known."""
        session = self._by_id.pop(session_id, None)
        if session is not None:
            del self._by_client[session.client]
            self._rest_ports(session, now)
        return session

    def await_handshake(
        self, session: Session, address: str, ports: SessionPorts, now: float
    ) -> None:
        """Let a session have a new handshake, from `address` and at `ports`."""
        self._rest_ports(session, now)
        session.client_address = address
        session.rtsp_port, session.own_udp_ports = ports.rtsp, ports.own_udp
        session.state, session.since = SessionState.LAUNCHED, now
        self._hold_ports(session)

    def move(self, session: Session, state: SessionState, now: float) -> None:
        """Let a session stream or pause; entering its state again only renews its time."""
        session.state, session.since = state, now
        if state is SessionState.PAUSED:
            self._rest_ports(session, now)
        else:
            self._rtsp_ports.rest(session.client, now)

    def set_up(self, session: Session) -> None:
        """Note that a flow of a session is about to be set up, perhaps after it was paused.

        A client that names its session may go on with its handshake then. While it was paused its
        own UDP ports have rested: those that others may have by now it has lost.
        """
        own = session.own_udp_ports.values()
        if self._own_udp_ports.has(_any_address, session.client, own):
            self._own_udp_ports.hold(_any_address, session.client, own)
        else:
            session.own_udp_ports = {}

    def _hold_ports(self, session: Session) -> None:
        client, address = session.client, session.client_address
        if session.state is SessionState.LAUNCHED:
            self._rtsp_ports.hold(address, client, [session.rtsp_port])
        if session.state is not SessionState.PAUSED:
            self._own_udp_ports.hold(_any_address, client, session.own_udp_ports.values())

    def _rest_ports(self, session: Session, now: float) -> None:
        self._rtsp_ports.rest(session.client, now)
        self._own_udp_ports.rest(session.client, now)
