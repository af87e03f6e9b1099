"""What a host remembers: its identity, and the certificates of the clients it is paired with."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from moonlight.identity import ClientId, Identity, PeerCertificate

_KEY_FILE: Final = "host-key.pem"
_CERTIFICATE_FILE: Final = "host-certificate.pem"
_CLIENTS: Final = "clients"


class HostState:
    """Kept in a directory, or in memory alone where there is none."""

    def __init__(self, identity: Identity, directory: Path | None) -> None:
        self.identity = identity
        self._directory = directory
        self.clients: dict[ClientId, PeerCertificate] = {}

    @classmethod
    def open(cls, name: str, directory: Path | None) -> HostState:
        """Read what is there, make what is missing. Takes some 100 ms: call it in a thread."""
        if directory is None:
            return cls(Identity.generate(name, now=datetime.now(UTC)), None)
        (directory / _CLIENTS).mkdir(parents=True, exist_ok=True)
        state = cls(_kept_identity(name, directory), directory)
        for file in sorted((directory / _CLIENTS).glob("*.pem")):
            certificate = PeerCertificate.from_pem(file.read_bytes())
            state.clients[certificate.id] = certificate
        return state

    @property
    def unique_id(self) -> str:
        """The UUID by which clients know this host for ever."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.identity.certificate.id))

    def add_client(self, certificate: PeerCertificate) -> None:
        """Remember a client that has paired."""
        self.clients[certificate.id] = certificate
        if self._directory is not None:
            file = self._directory / _CLIENTS / f"{certificate.id}.pem"
            file.write_bytes(certificate.pem)


def _kept_identity(name: str, directory: Path) -> Identity:
    key_file, certificate_file = directory / _KEY_FILE, directory / _CERTIFICATE_FILE
    if key_file.exists() and certificate_file.exists():
        return Identity.from_pem(key_file.read_bytes(), certificate_file.read_bytes())
    identity = Identity.generate(name, now=datetime.now(UTC))
    key_file.touch(mode=0o600)
    key_file.chmod(0o600)
    key_file.write_bytes(identity.key_pem)
    certificate_file.write_bytes(identity.certificate.pem)
    return identity
