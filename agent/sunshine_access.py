"""What gives access to one Sunshine: its password, its certificate, and a key of the agent's own.

All of it is read when the agent starts, so that what cannot be used is told then.
"""

from __future__ import annotations

import base64
import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent.config import HostConfig
from agent.host_kinds import fingerprint_in
from moonlight.errors import ProtocolError
from moonlight.identity import Identity, PeerCertificate
from settings import ConfigError, Problem, read_secret

max_pem_bytes: Final = 65_536


@dataclass(frozen=True, slots=True)
class Access:
    """How to come in, and whom to believe there."""

    authorization: str = field(repr=False)
    """The value of HTTP's header."""
    fingerprint: str
    identity: Identity | None
    """Whose apps to read; None where the configuration lists them."""


def read_access(host: HostConfig) -> Access:
    """Read what a host's settings name; makes the agent's key on first use, in some 100 ms.

    Raises `ConfigError`.
    """
    if host.api_password is not None:
        password = host.api_password.get_secret_value()
    else:
        assert host.api_password_file is not None  # noqa: S101 - the model has one of the two
        password = read_secret(host.api_password_file)
    assert host.api_certificate is not None  # noqa: S101 - the model has all of the API's or none
    return Access(
        authorization=_basic(f"{host.api_username}:{password}"),
        fingerprint=fingerprint_in(host.api_certificate) or _fingerprint_of(host.api_certificate),
        identity=None if host.identity_file is None else _kept_identity(host.identity_file),
    )


def _basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode("ascii")


def _fingerprint_of(certificate: str) -> str:
    path = Path(certificate)
    try:
        return PeerCertificate.from_pem(_read(path)).id
    except OSError as error:
        raise _failure(
            path,
            "api_certificate",
            f"neither a SHA-256 fingerprint (64 hexadecimal digits) nor a file: {error.strerror}",
        ) from error
    except ProtocolError as error:
        raise _failure(path, "api_certificate", str(error)) from error


def _kept_identity(path: Path) -> Identity:
    try:
        if not path.exists():
            return _new_identity(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o007:
            raise _failure(
                path, "identity_file", f"everybody can read this key; run: chmod 600 {path}"
            )
        content = _read(path)
        return Identity.from_pem(content, content)
    except OSError as error:
        raise _failure(
            path, "identity_file", f"it cannot be read or made: {error.strerror}"
        ) from error
    except ProtocolError as error:
        raise _failure(path, "identity_file", str(error)) from None


def _new_identity(path: Path) -> Identity:
    identity = Identity.generate("moonhost agent", now=datetime.now(UTC))
    # Whole or not at all: another name first, which an agent that was killed may have left behind.
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(identity.key_pem + identity.certificate.pem)
    unfinished.replace(path)
    return identity


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(max_pem_bytes)


def _failure(path: Path, setting: str, message: str) -> ConfigError:
    return ConfigError(path, (Problem(setting, message),))
