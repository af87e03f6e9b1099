"""The admin API's port, with TLS where a certificate is configured.

A caller that stops reading is given up, so that nothing waits for it: hypercorn lets nobody
interrupt what it sends, and an edge that is told to stop would wait for as long as somebody keeps
a connection open and reads nothing. So the kernel gives such connections up.
"""

from __future__ import annotations

import os
import socket
import ssl
from ipaddress import ip_address
from typing import Final

import hypercorn.trio
import structlog
import trio
from hypercorn.config import Config, Sockets
from starlette.applications import Starlette

from proxy.certificates import Certificates, admin_protocols, of_admin_port
from proxy.config import Admin, ProxyConfig
from proxy.doors import open_doors

grace_s: Final = 1.0
max_unread_s: Final = 10.0
"""For how long a caller may leave unread, or unacknowledged, what is sent to it."""

_log = structlog.get_logger()


class PortConfig(Config):
    """Settings for hypercorn: impatient connections, and certificates that can be renewed.

    Args:
        tls: the context to serve with; None: without TLS.
        patience_s: as `max_unread_s`.

    """

    def __init__(self, tls: ssl.SSLContext | None, patience_s: float = max_unread_s) -> None:
        super().__init__()
        self._tls = tls
        self._patience_ms = round(patience_s * 1000)
        self.graceful_timeout = grace_s
        self.shutdown_timeout = grace_s
        self.errorlog = None
        self.include_server_header = False

    @property
    def ssl_enabled(self) -> bool:
        """Whether to serve with TLS."""
        return self._tls is not None

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """Return the context to serve with."""
        return self._tls

    def create_sockets(self) -> Sockets:
        """Return the sockets, whose connections inherit the patience."""
        made = super().create_sockets()
        for listener in (*made.secure_sockets, *made.insecure_sockets):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._patience_ms)
        return made


async def serve(
    application: Starlette,
    config: ProxyConfig,
    certificates: Certificates,
    *,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled.

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
    settings = PortConfig(tls)
    (listener,) = await open_doors([admin.address], admin.port)
    # Hypercorn closes what it is given.
    settings.bind = [f"fd://{os.dup(listener.socket.fileno())}"]
    await listener.aclose()
    await hypercorn.trio.serve(application, settings, task_status=task_status)  # type: ignore[arg-type]


def _warn_of_listeners(admin: Admin) -> None:
    _log.warning(
        "admin_without_tls",
        local_address=admin.address,
        why="Whoever sees the traffic sees tokens: set admin.certificate and admin.private_key, "
        "or admin.address to 127.0.0.1 behind a proxy that ends TLS.",
    )
