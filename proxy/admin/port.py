"""The admin API's port, with TLS where a certificate is configured.

A caller that stops reading is given up, so that nothing waits for it: hypercorn lets nobody
interrupt what it sends, and an edge that is told to stop would wait for as long as somebody keeps
a connection open and reads nothing. So the kernel gives such connections up.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Final

import structlog
import trio
from starlette.types import ASGIApp

from proxy.admin.http_server import HttpServer
from proxy.certificates import Certificates, admin_protocols, of_admin_port
from proxy.config import Admin, ProxyConfig
from proxy.doors import Doors, open_doors

max_connections: Final = 512
"""At once; an idle one is closed after some seconds."""
max_connections_per_address: Final = 256
"""Many: behind a proxy all are of one address."""
max_unread_s: Final = 10.0
"""For how long a caller may leave unread, or unacknowledged, what is sent to it."""

_log = structlog.get_logger()


def admin_doors() -> Doors:
    """Return what bounds the port's connections."""
    return Doors(
        max_connections=max_connections, max_connections_per_address=max_connections_per_address
    )


async def listen(address: str, port: int, patience_s: float = max_unread_s) -> trio.SocketListener:
    """Listen, for connections that inherit the patience.

    Raises:
        proxy.errors.StartFailed: the port cannot be had.

    """
    (listener,) = await open_doors([address], port)
    listener.socket.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(patience_s * 1000)
    )
    return listener


async def serve(
    application: ASGIApp,
    config: ProxyConfig,
    certificates: Certificates,
    doors: Doors,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; the status is the port.

    Raises:
        proxy.errors.StartFailed: the port or the certificate cannot be had.

    """
    admin = config.admin
    tls = None
    if admin.certificate is not None and admin.private_key is not None:
        read = of_admin_port(admin.certificate, admin.private_key)
        tls = certificates.open("admin", read, config)
        tls.set_alpn_protocols(admin_protocols)
    elif not ip_address(admin.address).is_loopback:
        _warn_of_listeners(admin)
    listener = await listen(admin.address, admin.port)
    server = HttpServer(application, tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(doors.serve, [listener], server.serve)
        task_status.started(listener.socket.getsockname()[1])
        await trio.sleep_forever()


def _warn_of_listeners(admin: Admin) -> None:
    _log.warning(
        "admin_without_tls",
        local_address=admin.address,
        why="Whoever sees the traffic sees tokens: set admin.certificate and admin.private_key, "
        "or admin.address to 127.0.0.1 behind a proxy that ends TLS.",
    )
