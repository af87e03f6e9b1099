"""The sessions of an edge: which client plays what on which backend, and in which state."""

from __future__ import annotations

import enum
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NewType

from backends.model import BackendId
from backends.slots import Reservation
from moonlight.flows import Flow
from moonlight.identity import ClientId
from moonlight.launch import RtspUrl

SessionId = NewType("SessionId", str)

_ID_BYTES = 12
_NEVER = datetime.min.replace(tzinfo=UTC)


class SessionState(enum.StrEnum):
    """Where a session stands; only these steps exist: see `Session.move_to`."""

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
    host_rtsp: RtspUrl
    state: SessionState
    since: float
    """When the state was entered; seconds of the edge's clock."""
    reservation: Reservation
    """The slot it takes at its backend, until it ends."""
    flows: dict[Flow, FlowTerms] = field(default_factory=dict)
    kbps: int | None = None
    """The bitrate that the client asked for, once it has said so."""
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

    def take_key(self, key: StreamKey, *, corever: int, rtsp_encrypted: bool) -> None:
        """Enter what a resume said; numbers begin anew, the client's own only under a new key."""
        if key.rikey != self.key.rikey:
            self.rtsp_sequence = 0
        self.host_rtsp_sequence = 0
        self.key, self.corever, self.rtsp_encrypted = key, corever, rtsp_encrypted

    def move_to(self, state: SessionState, now: float) -> None:
        """Enter a state; entering the present one again only renews its time."""
        self.state = state
        self.since = now


def new_session_id(token_hex: Callable[[int], str] = secrets.token_hex) -> SessionId:
    """Return an unguessable id, fit for a DNS label, a file name and a log line."""
    return SessionId(token_hex(_ID_BYTES))


class SessionTable:
    """All sessions of the edge: one a client, found by id, client, label, address and port."""

    def __init__(self, rtsp_ports: range) -> None:
        self._by_id: dict[SessionId, Session] = {}
        self._by_client: dict[ClientId, SessionId] = {}
        self._rtsp_ports = rtsp_ports

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

    def add(self, session: Session) -> None:
        """Take up a session; the caller has ended the client's former one."""
        if session.client in self._by_client:
            raise ValueError(f"client {session.client[:12]} has a session already")
        self._by_id[session.id] = session
        self._by_client[session.client] = session.id

    def remove(self, session_id: SessionId) -> Session | None:
        """Forget a session, if it is still known."""
        session = self._by_id.pop(session_id, None)
        if session is not None:
            del self._by_client[session.client]
        return session

    def choose_rtsp_port(self, client_address: str, *, for_session: SessionId) -> int:
        """Return the RTSP port that the next handshake of a session is told.

        That is the shared (first) port while no other session of the same client address could
        be confused with it: below 15 Mbit/s a client's RTSP says ``0.0.0.0`` and only the port
        tells sessions apart (see ``protocol.md`` §5). Otherwise it is a port that no session of
        that address has.

        Raises:
            LookupError: every port of the pool is taken by a session of that address.

        """
        taken = {
            session.rtsp_port
            for session in self._by_id.values()
            if session.client_address == client_address
            and session.id != for_session
            and session.state is not SessionState.PAUSED
        }
        for port in self._rtsp_ports:
            if port not in taken:
                return port
        raise LookupError(f"all {len(self._rtsp_ports)} RTSP ports are in use by that address")
