"""What the host answers over HTTP and HTTPS: GameStream's requests, and Wolf's ``POST /pin/``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeAlias

from moonlight.applist import applist
from moonlight.errors import Malformed, ProtocolError
from moonlight.http import HttpRequest
from moonlight.identity import ClientId, client_id
from moonlight.launch import (
    LaunchRequest,
    RtspUrl,
    cancel_answer,
    launch_answer,
    resume_answer,
)
from moonlight.pairing import Phase, pair_accepted, pair_refused, phase_of
from moonlight.serverinfo import DisplayMode, ServerInfo
from moonlight.xml import Answer
from simulator.boxart import box_art
from simulator.config import HostConfig
from simulator.encoder import check_mode
from simulator.http_shell import HttpPeer, Reply
from simulator.lifecycle import Lifecycle
from simulator.pairing_desk import PairingDesk
from simulator.sessions import HostFull, Session

_Plain: TypeAlias = Callable[["NvHttp", HttpRequest, HttpPeer], Awaitable[Reply | None]]
_Secure: TypeAlias = Callable[["NvHttp", HttpRequest, "_Client"], Reply]

_STRAY_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\n\r\n" + Answer((("status_code", "400"),)).encode()
)
_NOT_PAIRED: Final = "The client is not authorized. Certificate verification failed."
_MODES: Final = tuple(
    DisplayMode(width, height, rate)
    for width, height in ((1280, 720), (1920, 1080), (2560, 1440), (3840, 2160), (1280, 800))
    for rate in (30, 60, 90, 120)
)


@dataclass(frozen=True, slots=True)
class _Client:
    """A paired client that asks."""

    id: ClientId
    address: str


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that the host's answers name, as they really are."""

    http: int
    https: int
    rtsp: int


class NvHttp:
    """Answers on both ports of one host."""

    def __init__(
        self,
        config: HostConfig,
        *,
        unique_id: str,
        ports: Ports,
        desk: PairingDesk,
        lifecycle: Lifecycle,
    ) -> None:
        self._config = config
        self._traps = config.traps
        self._unique_id = unique_id
        self._ports = ports
        self._desk = desk
        self._lifecycle = lifecycle

    async def plain(self, request: HttpRequest, peer: HttpPeer) -> Reply | None:
        """Answer one request on the HTTP port."""
        route = _PLAIN.get((request.method, request.path))
        if route is None:
            return _refusal(HTTPStatus.NOT_FOUND, "Not found here", request)
        return await route(self, request, peer)

    async def secure(self, request: HttpRequest, peer: HttpPeer) -> Reply | None:
        """Answer one request on the HTTPS port: only for certificates that are paired."""
        client = None if peer.certificate is None else client_id(peer.certificate)
        if client is None or client not in self._desk.clients:
            return _refusal(HTTPStatus.UNAUTHORIZED, _NOT_PAIRED, request)
        route = _SECURE.get(request.path)
        if route is None or request.method != "GET":
            return _refusal(HTTPStatus.NOT_FOUND, "Not found here", request)
        return route(self, request, _Client(client, peer.source))

    def turn_away(self, certificate: bytes | None) -> Reply | None:
        """Give what a stranger hears before it has asked anything; None for everybody else."""
        if not self._traps.insists_on_certificate or certificate is None:
            return None
        if client_id(certificate) in self._desk.clients:
            return None
        answer = Answer.error(HTTPStatus.UNAUTHORIZED, _NOT_PAIRED, "")
        return Reply(HTTPStatus.OK, answer.encode())

    async def _public_info(self, _request: HttpRequest, _peer: HttpPeer) -> Reply:
        return _reply(self._info(paired=False, session=self._running()))

    async def _pair(self, request: HttpRequest, peer: HttpPeer) -> Reply | None:
        try:
            phase = phase_of(request.query)
        except Malformed as error:
            return _reply(pair_refused(str(error)))
        if phase is Phase.GET_SERVER_CERT:
            answer = await self._desk.begin(request.query, peer)
            return None if answer is None else _reply(answer)
        if phase is Phase.PAIR_CHALLENGE:
            return _reply(pair_refused("This phase goes over HTTPS"))
        return _reply(self._desk.advance(request.query, peer))

    async def _unpair(self, request: HttpRequest, peer: HttpPeer) -> Reply | None:
        if self._traps.unpair_unknown:
            return _refusal(HTTPStatus.NOT_FOUND, "Not found here", request)
        self._desk.forget(request.query, peer)
        return None if self._traps.unpair_unanswered else _reply(Answer.ok())

    async def _pin(self, request: HttpRequest, _peer: HttpPeer) -> Reply:
        """Take a PIN as Wolf's web page sends it."""
        try:
            body = json.loads(request.body)
            known = self._desk.confirm(str(body["secret"]), str(body["pin"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return Reply(HTTPStatus.BAD_REQUEST, b"Bad request", None)
        if not known:
            return Reply(HTTPStatus.NOT_FOUND, b"No such pairing", None)
        return Reply(HTTPStatus.OK, b"OK", None)

    def _pair_challenge(self, request: HttpRequest, _client: _Client) -> Reply:
        try:
            expected = phase_of(request.query) is Phase.PAIR_CHALLENGE
        except Malformed:
            expected = False
        return _reply(pair_accepted() if expected else pair_refused("Out of order"))

    def _own_info(self, _request: HttpRequest, client: _Client) -> Reply:
        return _reply(self._info(paired=True, session=self._running() or self._session_of(client)))

    def _applist(self, _request: HttpRequest, _client: _Client) -> Reply:
        return _reply(applist(self._config.apps))

    def _appasset(self, request: HttpRequest, _client: _Client) -> Reply:
        for app in self._config.apps:
            if str(app.id) == request.query.get("appid"):
                return Reply(HTTPStatus.OK, box_art(app.title, self._config.region), "image/png")
        return _refusal(HTTPStatus.NOT_FOUND, "There is no such app", request)

    def _launch(self, request: HttpRequest, client: _Client) -> Reply:
        if self._running() is not None:
            message = "An app is already running on this host"
            return _refusal(HTTPStatus.BAD_REQUEST, message, request)
        had_session = self._session_of(client) is not None
        try:
            launch = LaunchRequest.parse(request.query, resume=False)
            check_mode(launch.width, launch.height, launch.fps or 60)
        except (ProtocolError, ValueError) as error:
            return _refusal(HTTPStatus.BAD_REQUEST, str(error), request)
        app = next((app for app in self._config.apps if app.id == launch.app_id), None)
        if app is None:
            return _refusal(HTTPStatus.NOT_FOUND, "There is no such app", request)
        try:
            session = self._lifecycle.launch(client.id, client.address, app, launch)
        except HostFull:
            message = "The host has no room for another session"
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, message, request)
        except OSError:
            message = "The host has no ports for another session"
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, message, request)
        return self._perhaps_stray(launch_answer(self._url(session)), stray=had_session)

    def _resume(self, request: HttpRequest, client: _Client) -> Reply:
        session = self._session_of(client)
        if session is None:
            if self._running() is not None:
                message = "This simulated host shows its app to one client"
                return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, message, request)
            return _refusal(HTTPStatus.NOT_FOUND, "There is no app to resume", request)
        try:
            launch = LaunchRequest.parse(request.query, resume=True)
        except ProtocolError as error:
            return _refusal(HTTPStatus.BAD_REQUEST, str(error), request)
        self._lifecycle.resume(session, client.address, launch)
        return self._perhaps_stray(resume_answer(self._url(session)), stray=True)

    def _cancel(self, _request: HttpRequest, client: _Client) -> Reply:
        session = self._running() or self._session_of(client)
        if session is not None:
            self._lifecycle.end(session.id)
        return _reply(cancel_answer())

    def _session_of(self, client: _Client) -> Session | None:
        return self._lifecycle.sessions.of_client(client.id)

    def _running(self) -> Session | None:
        """The session of the one app that all clients see, where there is only one for all."""
        sessions = self._lifecycle.sessions.all() if self._traps.one_app else ()
        return sessions[0] if sessions else None

    def _url(self, session: Session) -> RtspUrl:
        return RtspUrl(session.sealing is not None, session.rtsp_host, self._ports.rtsp)

    def _perhaps_stray(self, answer: Answer, *, stray: bool) -> Reply:
        stray = stray and self._traps.stray_second_answer
        return Reply(HTTPStatus.OK, answer.encode(), behind=_STRAY_ANSWER if stray else b"")

    def _info(self, *, paired: bool, session: Session | None) -> Answer:
        return ServerInfo(
            hostname=self._config.name,
            unique_id=self._unique_id,
            http_port=self._ports.http,
            https_port=self._ports.https,
            local_ip=self._config.address,
            display_modes=_MODES,
            paired=paired,
            current_game=0 if session is None else session.app.id,
            busy=session is not None,
            gpu_type=None,
            gs_version=None,
        ).to_answer()


_PLAIN: Final[Mapping[tuple[str, str], _Plain]] = {
    ("GET", "/serverinfo"): NvHttp._public_info,  # noqa: SLF001
    ("GET", "/pair"): NvHttp._pair,  # noqa: SLF001
    ("GET", "/unpair"): NvHttp._unpair,  # noqa: SLF001
    ("POST", "/pin/"): NvHttp._pin,  # noqa: SLF001
}
_SECURE: Final[Mapping[str, _Secure]] = {
    "/serverinfo": NvHttp._own_info,  # noqa: SLF001
    "/pair": NvHttp._pair_challenge,  # noqa: SLF001
    "/applist": NvHttp._applist,  # noqa: SLF001
    "/appasset": NvHttp._appasset,  # noqa: SLF001
    "/launch": NvHttp._launch,  # noqa: SLF001
    "/resume": NvHttp._resume,  # noqa: SLF001
    "/cancel": NvHttp._cancel,  # noqa: SLF001
}


def _reply(answer: Answer) -> Reply:
    return Reply(answer.status_code, answer.encode())


def _refusal(status: HTTPStatus, message: str, request: HttpRequest) -> Reply:
    return _reply(Answer.error(status, message, request.path))
