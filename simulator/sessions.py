"""The host's sessions: at most one a client, from launch to cancel, with nothing of their I/O."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from moonlight.applist import App
from moonlight.identity import ClientId
from moonlight.launch import LaunchRequest
from moonlight.ping import new_ping_payload
from moonlight.rtsp_encryption import EncryptedRtsp
from simulator.config import Traps
from simulator.ids import SessionId
from simulator.matching import Claim

if TYPE_CHECKING:
    from moonlight.announce import StreamSettings

RandomBytes = Callable[[int], bytes]


class SessionState(StrEnum):
    """How far a session is."""

    LAUNCHED = "launched"
    """The client was told where RTSP is, and has not played yet."""
    STREAMING = "streaming"
    PAUSED = "paused"
    """The client has left, the app runs on."""


class HostFull(Exception):
    """The host has as many sessions as it may have."""


@dataclass(slots=True, eq=False)
class Session:
    """One client in one app."""

    id: SessionId
    client: ClientId
    client_address: str
    app: App
    launch: LaunchRequest
    rtsp_host: str
    ping_payload: str | None = field(repr=False)
    connect_data: int | None = field(repr=False)
    sealing: EncryptedRtsp | None
    """The host's side of encrypted RTSP, where the client was told to use it."""
    state: SessionState = SessionState.LAUNCHED
    settings: StreamSettings | None = None
    """What the client announced; known from ANNOUNCE on."""

    @property
    def claim(self) -> Claim:
        """What this session can be recognised by now."""
        return Claim(
            self.id,
            self.client_address,
            self.rtsp_host,
            self.ping_payload,
            self.connect_data,
            played=self.state is SessionState.STREAMING,
            launched=self.state is SessionState.LAUNCHED,
        )


class SessionTable:
    """All sessions of one host, in the order of their launch."""

    def __init__(
        self,
        traps: Traps,
        *,
        own_host: str,
        max_sessions: int,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        self._traps = traps
        self._own_host = own_host
        self._max_sessions = max_sessions
        self._random_bytes = random_bytes
        self._sessions: dict[SessionId, Session] = {}
        self._launched = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> tuple[Session, ...]:
        """Every session, the oldest launch first."""
        return tuple(self._sessions.values())

    def claims(self) -> tuple[Claim, ...]:
        """What every session can be recognised by, the oldest launch first."""
        return tuple(session.claim for session in self._sessions.values())

    def get(self, session_id: SessionId | None) -> Session | None:
        """The session of that number, if it still exists."""
        return None if session_id is None else self._sessions.get(session_id)

    def of_client(self, client: ClientId) -> Session | None:
        """The client's session, if it has one."""
        return next((one for one in self._sessions.values() if one.client == client), None)

    def launched(self) -> Session | None:
        """The oldest session that waits for its client to play."""
        waiting = (one for one in self.all() if one.state is SessionState.LAUNCHED)
        return next(waiting, None)

    def launch(
        self, client: ClientId, client_address: str, app: App, request: LaunchRequest
    ) -> Session:
        """Begin a session. The client must not have one. Raises HostFull."""
        if len(self._sessions) >= self._max_sessions:
            raise HostFull
        self._launched += 1
        session = Session(
            id=SessionId(self._launched),
            client=client,
            client_address=client_address,
            app=app,
            launch=request,
            rtsp_host=self._new_rtsp_host(),
            ping_payload=self._new_ping_payload(),
            connect_data=self._new_connect_data(),
            sealing=self._new_sealing(request),
        )
        self._sessions[session.id] = session
        return session

    def resume(self, session: Session, client_address: str, request: LaunchRequest) -> None:
        """Take a session up again: same app and place in line, new keys and names."""
        session.client_address = client_address
        session.launch = request
        session.rtsp_host = self._new_rtsp_host()
        session.ping_payload = self._new_ping_payload()
        session.connect_data = self._new_connect_data()
        session.sealing = self._new_sealing(request)
        session.state = SessionState.LAUNCHED
        session.settings = None

    def end(self, session_id: SessionId) -> Session | None:
        """Forget a session; gives it once."""
        return self._sessions.pop(session_id, None)

    def _new_rtsp_host(self) -> str:
        """A random address, multicast and reserved ones included, as Wolf makes them up."""
        if not self._traps.fake_address:
            return self._own_host
        taken = {session.rtsp_host for session in self._sessions.values()} | {"0.0.0.0"}  # noqa: S104
        while (host := str(ipaddress.IPv4Address(self._random_bytes(4)))) in taken:
            continue
        return host

    def _new_sealing(self, request: LaunchRequest) -> EncryptedRtsp | None:
        if not self._traps.encrypted_rtsp or request.corever < 1:
            return None
        return EncryptedRtsp(request.rikey, "host")

    def _new_ping_payload(self) -> str | None:
        return new_ping_payload(self._random_bytes) if self._traps.ping_payloads else None

    def _new_connect_data(self) -> int | None:
        if not self._traps.ping_payloads:
            return None
        # 0 is what clients without connect data send, so it must name nobody.
        return int.from_bytes(self._random_bytes(4), "big") or 1
