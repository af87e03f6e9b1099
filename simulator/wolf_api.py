"""Wolf's API on a Unix socket, as far as something beside the host needs it.

Pending pairings and their PIN, apps, sessions, clients. Answers are JSON with ``"success"``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from moonlight.applist import App
from moonlight.errors import printable
from moonlight.http import HttpRequest
from moonlight.identity import ClientId
from simulator.config import Traps
from simulator.http_shell import HttpPeer, Reply
from simulator.lifecycle import Lifecycle
from simulator.pairing_desk import PairingDesk
from simulator.sessions import Session

Json: TypeAlias = dict[str, Any]
_Route: TypeAlias = Callable[["WolfApi", HttpRequest], Json]

_MAX_PIN_CHARACTERS: Final = 16


class _Refused(Exception):
    """A request that the API cannot do; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WolfApi:
    """Answers the API's requests."""

    def __init__(
        self, *, apps: tuple[App, ...], traps: Traps, desk: PairingDesk, lifecycle: Lifecycle
    ) -> None:
        self._apps = apps
        self._traps = traps
        self._desk = desk
        self._lifecycle = lifecycle

    async def handle(self, request: HttpRequest, peer: HttpPeer) -> Reply:
        """Answer one request."""
        route = _ROUTES.get((request.method, request.path))
        if route is None:
            return _json(404, {"success": False, "error": "no such endpoint"})
        try:
            return _json(200, {"success": True, **route(self, request)})
        except _Refused as refused:
            return _json(refused.status, {"success": False, "error": str(refused)})

    def _pending(self, _request: HttpRequest) -> Json:
        address = "pin" if self._traps.address_under_pin else "client_ip"
        return {
            "requests": [
                {"pair_secret": pending.secret, address: pending.client_address}
                for pending in self._desk.pending()
            ]
        }

    def _confirm(self, request: HttpRequest) -> Json:
        body = _body(request)
        secret, pin = _text(body, "pair_secret"), _text(body, "pin")
        if not self._desk.confirm(secret, pin[:_MAX_PIN_CHARACTERS]):
            raise _Refused(404, "no pending pairing has that secret")
        return {}

    def _list_apps(self, _request: HttpRequest) -> Json:
        return {
            "apps": [
                {
                    "title": app.title,
                    "id": str(app.id),
                    "support_hdr": app.hdr,
                    "icon_png_path": None,
                    "start_virtual_compositor": True,
                }
                for app in self._apps
            ]
        }

    def _list_clients(self, _request: HttpRequest) -> Json:
        return {"clients": [{"client_id": client} for client in sorted(self._desk.clients)]}

    def _list_sessions(self, _request: HttpRequest) -> Json:
        return {"sessions": [_session(session) for session in self._lifecycle.sessions.all()]}

    def _stop(self, request: HttpRequest) -> Json:
        client = ClientId(_text(_body(request), "session_id"))
        session = self._lifecycle.sessions.of_client(client)
        if session is None:
            raise _Refused(404, f"no session {printable(client)}")
        self._lifecycle.end(session.id)
        return {}


# Wolf's session id is its client's: a client has one session.
_ROUTES: Final[Mapping[tuple[str, str], _Route]] = {
    ("GET", "/api/v1/pair/pending"): WolfApi._pending,  # noqa: SLF001
    ("POST", "/api/v1/pair/client"): WolfApi._confirm,  # noqa: SLF001
    ("GET", "/api/v1/apps"): WolfApi._list_apps,  # noqa: SLF001
    ("GET", "/api/v1/clients"): WolfApi._list_clients,  # noqa: SLF001
    ("GET", "/api/v1/sessions"): WolfApi._list_sessions,  # noqa: SLF001
    ("POST", "/api/v1/sessions/stop"): WolfApi._stop,  # noqa: SLF001
}


def _session(session: Session) -> Json:
    return {
        "app_id": str(session.app.id),
        "client_id": session.client,
        "client_ip": session.client_address,
        "video_width": session.launch.width,
        "video_height": session.launch.height,
        "video_refresh_rate": session.launch.fps,
        "audio_channel_count": session.launch.audio_channels,
    }


def _body(request: HttpRequest) -> Json:
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        raise _Refused(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise _Refused(400, "the body is not a JSON object")
    return body


def _text(body: Json, name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str):
        raise _Refused(400, f"{name} is missing or no text")
    return text


def _json(status: int, body: Json) -> Reply:
    return Reply(status, json.dumps(body).encode(), "application/json")
