"""The files in an edge's state folder, each made on first use and readable by its owner alone."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from backends.tokens import max_token_characters, new_api_token
from proxy.errors import StartFailed
from settings import ConfigError, read_secret

database: Final = "edge.sqlite"
store_key: Final = "store.key"
admin_token: Final = "admin.token"  # noqa: S105 - a file's name
agents_certificate: Final = "agents.pem"
agents_private_key: Final = "agents.key"

_certificate_years: Final = 20
_min_token_characters: Final = 16
_private: Final = 0o600


def prepare(state_dir: Path) -> None:
    """Make the folder, and see that it can be written.

    Raises:
        StartFailed: it cannot.

    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = state_dir / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StartFailed(
            "state_dir",
            f"the state folder {state_dir} cannot be written: {error.strerror}. "
            "Set state_dir to a folder of the user that runs the edge.",
        ) from error


def local_token(state_dir: Path, token_file: Path | None) -> str:
    """Return the local operator's token: from `token_file`, or one that is made at first.

    Raises:
        StartFailed: the file cannot be read or made, or what it holds would protect nothing.

    """
    if token_file is not None:
        try:
            token = read_secret(token_file)
        except ConfigError as error:
            raise StartFailed("admin_token", str(error)) from error
        what_to_do = "put a longer one there, as from `openssl rand -hex 32`."
        return _strong(token, token_file, what_to_do)
    path = state_dir / admin_token
    try:
        if not path.exists():
            _write_private(path, new_api_token().encode() + b"\n")
        path.chmod(_private)
        token = path.read_bytes().decode("ascii", "replace").strip()
    except OSError as error:
        raise StartFailed("admin_token", f"{path} cannot be used: {error.strerror}") from error
    return _strong(token, path, "delete it, and a new one is made at the next start.")


def _strong(token: str, path: Path, what_to_do: str) -> str:
    is_long = _min_token_characters <= len(token) <= max_token_characters
    if not is_long or not all("!" <= letter <= "~" for letter in token):
        raise StartFailed(
            "admin_token",
            f"{path} does not hold a token of {_min_token_characters} to {max_token_characters} "
            f"characters: {what_to_do}",
        )
    return token


def agents_context(
    state_dir: Path, hostname: str, certificate: Path | None, private_key: Path | None
) -> ssl.SSLContext:
    """Return the TLS context of the agents' port.

    Where no certificate is configured, a self-signed one for `hostname` is made once; agents then
    need its file as their ``edge.ca_file``.

    Raises:
        StartFailed: the configured files cannot be used.

    """
    if certificate is None or private_key is None:
        certificate = state_dir / agents_certificate
        private_key = state_dir / agents_private_key
        if not (certificate.exists() and private_key.exists()):
            _make_certificate(hostname, certificate, private_key)
    return tls_context("agents", certificate, private_key)


def tls_context(section: str, certificate: Path, private_key: Path) -> ssl.SSLContext:
    """Return the TLS context of a server with these files, which a section of settings names.

    Raises:
        StartFailed: they cannot be used.

    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError) as error:
        raise StartFailed(
            f"{section}_certificate",
            f"{section}.certificate {certificate} and {section}.private_key {private_key} "
            f"cannot be used: {error}",
        ) from error
    return context


def _make_certificate(hostname: str, certificate: Path, private_key: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    alternative: x509.GeneralName = x509.DNSName(hostname)
    with suppress(ValueError):
        alternative = x509.IPAddress(ip_address(hostname))
    now = datetime.now(UTC)
    key_usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * _certificate_years))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage, critical=True)
        .add_extension(subject_key, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    _write_private(
        private_key,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))


def _write_private(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, whatever the mode of one that is there already."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(
        os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _private), "wb"
    ) as file:
        file.write(content)
    unfinished.replace(path)
