"""The certificates that an edge shows, replaced by renewed ones while it runs.

A port keeps one TLS context for good. What that shows is decided connection by connection, by
another context made from the files as they were last read: loading files into a context that has
a certificate already keeps the former one beside it where their keys are of different kinds, and
leaves a broken context behind where certificate and key do not belong together.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from proxy import state_dir
from proxy.config import ProxyConfig
from proxy.errors import StartFailed

admin_protocols: Final = ("http/1.1",)
"""All that `proxy.admin.http_server` speaks."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate as it was read, with its key."""

    context: ssl.SSLContext
    valid_until: float
    """In seconds since 1970."""


Read = Callable[[ProxyConfig], Shown]
"""Reads a certificate's files; `proxy.errors.StartFailed` says why they cannot be used."""


class Certificates:
    """All certificates of an edge, each under the name of the port that shows it."""

    def __init__(self) -> None:
        self.valid_until: dict[str, float] = {}
        """By name, until when each one is valid, in seconds since 1970."""
        self._read: dict[str, Read] = {}
        self._shown: dict[str, Shown] = {}

    def open(self, name: str, read: Read, config: ProxyConfig) -> ssl.SSLContext:
        """Return the context for a port; what it shows is read anew with each `prepare`."""
        self._read[name] = read
        self._show({name: read(config)})

        def choose(connection: ssl.SSLObject, _name: str | None, _port: ssl.SSLContext) -> None:
            connection.context = self._shown[name].context

        port = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # Called for every connection, also of those that name no server.
        port.sni_callback = choose
        return port

    def prepare(self, config: ProxyConfig) -> Callable[[], None]:
        """Read all files again, and return what has new connections be shown that.

        Raises:
            proxy.errors.StartFailed: some cannot be used.

        """
        renewed = {name: read(config) for name, read in self._read.items()}
        return lambda: self._show(renewed)

    def _show(self, shown: dict[str, Shown]) -> None:
        self._shown.update(shown)
        self.valid_until.update((name, each.valid_until) for name, each in shown.items())


def of_agents_port(config: ProxyConfig) -> Shown:
    """Read what agents are shown; one is made where none is configured."""
    agents = config.agents
    context = state_dir.agents_context(
        config.state_dir, config.hostname, agents.certificate, agents.private_key
    )
    chain = agents.certificate or config.state_dir / state_dir.agents_certificate
    return _shown("agents", context, chain)


def of_admin_port(certificate: Path, private_key: Path) -> Read:
    """Return what reads the certificate that callers of the admin API are shown."""

    def read(_config: ProxyConfig) -> Shown:
        context = state_dir.tls_context("admin", certificate, private_key)
        # The context of the connection has a say in it, too.
        context.set_alpn_protocols(admin_protocols)
        return _shown("admin", context, certificate)

    return read


def _shown(section: str, context: ssl.SSLContext, chain: Path) -> Shown:
    try:
        return Shown(context, valid_until(chain.read_bytes()))
    except ValueError as error:
        raise StartFailed(
            f"{section}_certificate", f"{chain} holds something that is no certificate: {error}"
        ) from error


def valid_until(chain: bytes) -> float:
    """Return when the first certificate of a PEM chain to expire does, in seconds since 1970."""
    certificates = x509.load_pem_x509_certificates(chain)
    return min(one.not_valid_after_utc.timestamp() for one in certificates)
