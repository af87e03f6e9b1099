"""A whole simulated host: its sockets, put together and taken down."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import trio

from moonlight.identity import ClientId, PeerCertificate
from moonlight.tls import peer_certificate, server_context
from simulator.config import HostConfig
from simulator.control_server import ControlServer
from simulator.http_shell import Handler, Reply, bare, serve_http
from simulator.ids import SessionId
from simulator.lifecycle import Lifecycle
from simulator.listeners import Serve, accept, listening_port, open_tcp, open_unix
from simulator.media import MediaPorts
from simulator.nvhttp import NvHttp, Ports
from simulator.pairing_desk import PairingDesk, PendingPairing
from simulator.rtsp_server import RtspServer
from simulator.sessions import Session, SessionState, SessionTable
from simulator.state import HostState
from simulator.stream import Counters
from simulator.sunshine_api import SunshineApi
from simulator.wolf_api import WolfApi

_log = structlog.get_logger("simulator.host")


@dataclass(frozen=True, slots=True)
class SessionView:
    """One session as it is at a moment."""

    id: SessionId
    client: ClientId
    client_address: str
    app: str
    state: SessionState

    @classmethod
    def of(cls, session: Session) -> SessionView:
        """Take the picture."""
        return cls(
            session.id, session.client, session.client_address, session.app.title, session.state
        )


class HostHandle:
    """A running host, for whoever started it.

    `video_port` and `audio_port` are None where every session has its own, `api_port` where there
    is no Sunshine-like API.
    """

    def __init__(
        self,
        config: HostConfig,
        *,
        ports: Ports,
        media_ports: tuple[int, int] | None,
        control_port: int,
        api_port: int | None,
        certificate: PeerCertificate,
        counters: Counters,
        desk: PairingDesk,
        lifecycle: Lifecycle,
        scope: trio.CancelScope,
    ) -> None:
        self.config = config
        self.address = config.address
        self.http_port = ports.http
        self.https_port = ports.https
        self.rtsp_port = ports.rtsp
        self.video_port: int | None
        self.audio_port: int | None
        self.video_port, self.audio_port = media_ports or (None, None)
        self.control_port = control_port
        self.api_port = api_port
        self.certificate = certificate
        self.counters = counters
        self._desk = desk
        self._lifecycle = lifecycle
        self._scope = scope

    def crash(self) -> None:
        """Drop everything at once, without a word to anybody; `run_host` returns."""
        self._scope.cancel()

    def sessions(self) -> tuple[SessionView, ...]:
        """The sessions of this moment, the oldest launch first."""
        return tuple(SessionView.of(session) for session in self._lifecycle.sessions.all())

    def end_session(self, session_id: SessionId) -> bool:
        """End a session as if its app had exited: the client is told. False if there is none."""
        return self._lifecycle.end(session_id)

    @property
    def clients(self) -> Mapping[ClientId, PeerCertificate]:
        """Who is paired."""
        return self._desk.clients

    def pending_pairings(self) -> tuple[PendingPairing, ...]:
        """The pairings that wait for their PIN, the oldest first."""
        return self._desk.pending()

    def confirm_pin(self, secret: str, pin: str) -> bool:
        """Give a pending pairing its PIN; False where none waits under that secret."""
        return self._desk.confirm(secret, pin)


async def run_host(
    config: HostConfig, *, task_status: trio.TaskStatus[HostHandle] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run one host until it is cancelled or crashed. Starts with the handle of the running host.

    Raises OSError where a port is taken.
    """
    state = await trio.to_thread.run_sync(HostState.open, config.name, config.state_dir)
    with trio.CancelScope() as scope:
        async with AsyncExitStack() as stack:
            await _run(config, state, stack, scope, task_status)


async def _run(
    config: HostConfig,
    state: HostState,
    stack: AsyncExitStack,
    scope: trio.CancelScope,
    task_status: trio.TaskStatus[HostHandle],
) -> None:
    counters = Counters()
    sessions = SessionTable(config.traps, own_host=config.address, max_sessions=config.max_sessions)
    media = MediaPorts(config, sessions, counters)
    control = ControlServer(config, sessions, counters)
    lifecycle = Lifecycle(sessions, media, control)
    desk = PairingDesk(state, config)
    sockets = _Sockets(config, stack)
    http_listener = await sockets.listen(config.http_port)
    https_listener = await sockets.listen(config.https_port)
    rtsp_listener = await sockets.listen(config.rtsp_port)
    ports = Ports(*map(listening_port, (http_listener, https_listener, rtsp_listener)))
    http = NvHttp(config, unique_id=state.unique_id, ports=ports, desk=desk, lifecycle=lifecycle)
    insists = config.traps.insists_on_certificate
    tls = await trio.to_thread.run_sync(
        partial(server_context, state.identity, insists_on_certificate=insists)
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(media.run, lifecycle.pause)
        await nursery.start(control.run, media.request_idr, lifecycle.pause)
        rtsp = RtspServer(
            traps=config.traps, lifecycle=lifecycle, media=media, control_port=control.port
        )
        nursery.start_soon(sockets.serve, http_listener, partial(_serve_plain, config, http.plain))
        nursery.start_soon(
            sockets.serve,
            https_listener,
            partial(_serve_secure, config, http.secure, http.turn_away, tls),
        )
        nursery.start_soon(sockets.serve, rtsp_listener, partial(_serve_rtsp, config, rtsp))
        if config.api_socket is not None:
            api = WolfApi(apps=config.apps, traps=config.traps, desk=desk, lifecycle=lifecycle)
            api_listener = await sockets.listen_unix(config.api_socket)
            nursery.start_soon(sockets.serve, api_listener, partial(_serve_api, config, api.handle))
        api_port = await _open_sunshine_api(config, state, desk, sockets, nursery)
        handle = HostHandle(
            config,
            ports=ports,
            media_ports=media.shared_ports,
            control_port=control.port,
            api_port=api_port,
            certificate=state.identity.certificate,
            counters=counters,
            desk=desk,
            lifecycle=lifecycle,
            scope=scope,
        )
        _log.info(
            "host_started", name=config.name, local_address=config.address, http_port=ports.http
        )
        task_status.started(handle)


async def _open_sunshine_api(
    config: HostConfig,
    state: HostState,
    desk: PairingDesk,
    sockets: _Sockets,
    nursery: trio.Nursery,
) -> int | None:
    if config.api_port is None:
        return None
    api = SunshineApi(config, desk)
    listener = await sockets.listen(config.api_port)
    # With the certificate that streaming has, and open to those who have none.
    tls = await trio.to_thread.run_sync(server_context, state.identity)
    serve = partial(_serve_secure, config, api.handle, lambda _: None, tls)
    nursery.start_soon(sockets.serve, listener, serve)
    return listening_port(listener)


class _Sockets:
    """A host's listening sockets, closed with its exit stack."""

    def __init__(self, config: HostConfig, stack: AsyncExitStack) -> None:
        self._config = config
        self._stack = stack

    async def listen(self, port: int) -> trio.SocketListener:
        listener = await open_tcp(self._config.address, port)
        self._stack.callback(listener.socket.close)
        return listener

    async def listen_unix(self, path: Path) -> trio.SocketListener:
        listener = await open_unix(path)
        self._stack.callback(path.unlink, missing_ok=True)
        self._stack.callback(listener.socket.close)
        return listener

    async def serve(self, listener: trio.SocketListener, serve: Serve) -> None:
        await accept(listener, serve, self._config.max_connections)


async def _serve_plain(config: HostConfig, handler: Handler, stream: trio.SocketStream) -> None:
    if config.traps.silent_close:
        # Answer and FIN in one segment: that the connection is gone is then no matter of luck to
        # a client that looks before it asks again.
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    await serve_http(
        stream,
        handler,
        source=_source(stream),
        silent_close=config.traps.silent_close,
        timeout_s=config.request_timeout_s,
    )


async def _serve_secure(
    config: HostConfig,
    handler: Handler,
    turn_away: Callable[[bytes | None], Reply | None],
    tls: ssl.SSLContext,
    stream: trio.SocketStream,
) -> None:
    source = _source(stream)
    secured: trio.SSLStream[trio.abc.Stream] = trio.SSLStream(
        stream, tls, server_side=True, https_compatible=True
    )
    try:
        with trio.fail_after(config.request_timeout_s):
            await secured.do_handshake()
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        return
    async with secured:
        if (reply := turn_away(peer_certificate(secured))) is not None:
            await secured.send_all(bare(reply))
            return
        await serve_http(
            secured,
            handler,
            source=source,
            certificate=peer_certificate(secured),
            encrypted=True,
            silent_close=config.traps.silent_close,
            timeout_s=config.request_timeout_s,
        )


async def _serve_rtsp(config: HostConfig, rtsp: RtspServer, stream: trio.SocketStream) -> None:
    await rtsp.serve(stream, _source(stream), config.request_timeout_s)


async def _serve_api(config: HostConfig, handler: Handler, stream: trio.SocketStream) -> None:
    await serve_http(
        stream, handler, source="unix", silent_close=False, timeout_s=config.request_timeout_s
    )


def _source(stream: trio.SocketStream) -> str:
    """The address a connection came from; empty where it is gone already."""
    try:
        address: str = stream.socket.getpeername()[0]
    except OSError:
        return ""
    return address
