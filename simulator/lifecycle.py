"""Moves sessions through launch, play, pause, resume and end, and tells the streams about it."""

from __future__ import annotations

from typing import Protocol

import structlog

from moonlight.applist import App
from moonlight.identity import ClientId
from moonlight.launch import LaunchRequest
from simulator.ids import SessionId
from simulator.sessions import Session, SessionState, SessionTable

_log = structlog.get_logger("simulator.sessions")


class Media(Protocol):
    """What streams video and audio."""

    def open(self, session: Session) -> None:
        """Make the session's ports known; nothing flows yet. Raises OSError."""

    def start(self, session: Session) -> None:
        """Stream, as soon as the client's pings show where to; an earlier stream ends."""

    def stop(self, session_id: SessionId) -> None:
        """Stop streaming and forget where to; the ports stay."""

    def close(self, session_id: SessionId) -> None:
        """Stop, and give the ports back."""


class Control(Protocol):
    """What speaks to the client's control stream."""

    def terminate(self, session_id: SessionId) -> None:
        """Tell the client that its session has ended, if it is connected."""

    def drop(self, session_id: SessionId) -> None:
        """Break off the connection without a word."""


class Lifecycle:
    """All state changes of sessions go through here."""

    def __init__(self, sessions: SessionTable, media: Media, control: Control) -> None:
        self.sessions = sessions
        self._media = media
        self._control = control

    def launch(
        self, client: ClientId, client_address: str, app: App, request: LaunchRequest
    ) -> Session:
        """Begin a session; the one that the client had ends. Raises HostFull and OSError."""
        earlier = self.sessions.of_client(client)
        if earlier is not None:
            self.end(earlier.id)
        session = self.sessions.launch(client, client_address, app, request)
        try:
            self._media.open(session)
        except OSError:
            self.sessions.end(session.id)
            raise
        _log.info("session_launched", **_names(session))
        return session

    def resume(self, session: Session, client_address: str, request: LaunchRequest) -> None:
        """Take up a session again; a client that still streams it loses it."""
        self._media.stop(session.id)
        self._control.drop(session.id)
        self.sessions.resume(session, client_address, request)
        _log.info("session_resumed", **_names(session))

    def play(self, session: Session) -> None:
        """The client's RTSP handshake is through."""
        session.state = SessionState.STREAMING
        self._media.start(session)
        _log.info("session_playing", **_names(session))

    def pause(self, session_id: SessionId) -> None:
        """The client has left; the app stays."""
        session = self.sessions.get(session_id)
        if session is not None and session.state is SessionState.STREAMING:
            self._media.stop(session_id)
            self._control.drop(session_id)
            session.state = SessionState.PAUSED
            _log.info("session_paused", **_names(session))

    def end(self, session_id: SessionId) -> bool:
        """The app has ended. False where there is no such session."""
        session = self.sessions.end(session_id)
        if session is None:
            return False
        self._control.terminate(session_id)
        self._media.close(session_id)
        _log.info("session_ended", **_names(session))
        return True


def _names(session: Session) -> dict[str, object]:
    return {
        "session": session.id,
        "client_address": session.client_address,
        "app": session.app.title,
    }
