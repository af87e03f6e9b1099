"""Serves the admin API's application at its port, over TLS where a certificate is configured."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Final

import hypercorn.config
import hypercorn.trio
import structlog
import trio
from starlette.applications import Starlette

from proxy import state_dir
from proxy.config import Admin
from proxy.doors import open_doors

grace_s: Final = 1.0

_log = structlog.get_logger()


async def serve(
    application: Starlette,
    admin: Admin,
    *,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled.

    Raises:
        proxy.errors.StartFailed: the port or the certificate cannot be had.

    """
    settings = hypercorn.config.Config()
    settings.graceful_timeout = grace_s
    settings.shutdown_timeout = grace_s
    settings.errorlog = None
    settings.include_server_header = False
    # An HTTP/2 answer that is under way when the edge stops would never end.
    settings.alpn_protocols = ["http/1.1"]
    if admin.certificate is not None and admin.private_key is not None:
        state_dir.check_certificate("admin", admin.certificate, admin.private_key)
        settings.certfile, settings.keyfile = str(admin.certificate), str(admin.private_key)
    elif not ip_address(admin.address).is_loopback:
        _log.warning(
            "admin_without_tls",
            address=admin.address,
            what_to_do="Whoever sees the traffic sees tokens: set admin.certificate and "
            "admin.private_key, or admin.address to 127.0.0.1 behind a proxy that ends TLS.",
        )
    (listener,) = await open_doors([admin.address], admin.port)
    # Hypercorn closes what it is given.
    settings.bind = [f"fd://{os.dup(listener.socket.fileno())}"]
    await listener.aclose()
    await hypercorn.trio.serve(application, settings, task_status=task_status)  # type: ignore[arg-type]
