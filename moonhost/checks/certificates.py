"""Judges the certificate of the agents' port, as agents will: names, key, chain, time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from moonhost.checks.finding import Finding, ok, problem, warning

expiry_warning: Final = timedelta(days=14)
_check: Final = "certificate"


class UnusableCertificate(ValueError):
    """A file does not hold what it should; ``str()`` says what it should."""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What there is to know of a chain and its key. Times are those in which all of it is valid."""

    names: tuple[str, ...]
    """DNS names and IP addresses."""
    not_before: datetime
    not_after: datetime
    key_matches: bool
    self_signed: bool
    is_chained: bool
    """Each certificate is the next one's work."""
    certificates: int
    fingerprint: bytes = b""
    """SHA-256 of the first one."""


def read_certificate(chain_pem: bytes, key_pem: bytes) -> CertificateFacts:
    """Read PEM files.

    Raises:
        UnusableCertificate: they are none.

    """
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
        names = _names(chain[0])
    except ValueError:
        raise UnusableCertificate("the certificate's file holds no PEM certificate") from None
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except TypeError:
        raise UnusableCertificate("the private key has a password, which nobody can type") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableCertificate("the key's file holds no PEM private key") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    leaf = chain[0]
    return CertificateFacts(
        names=names,
        not_before=max(one.not_valid_before_utc for one in chain),
        not_after=min(one.not_valid_after_utc for one in chain),
        key_matches=key.public_key().public_bytes(*form) == leaf.public_key().public_bytes(*form),
        self_signed=_issued(leaf, leaf),
        is_chained=all(_issued(lower, upper) for lower, upper in pairwise(chain)),
        certificates=len(chain),
        fingerprint=leaf.fingerprint(hashes.SHA256()),
    )


def judge_certificate(facts: CertificateFacts, hostname: str, now: datetime) -> list[Finding]:
    """Say what agents, and whoever has to renew it, will find wrong."""
    found = [*_key_and_chain(facts), *_names_and_time(facts, hostname, now)]
    if found:
        return found
    until = f"{facts.not_after:%Y-%m-%d}"
    if facts.self_signed:
        return [
            ok(
                _check,
                f"for {hostname}, valid until {until}; self-signed, so agents need a copy of it "
                "as edge.ca_file",
            )
        ]
    return [ok(_check, f"for {hostname}, valid until {until}")]


def judge_shown(facts: CertificateFacts, shown: bytes | None) -> list[Finding]:
    """Say whether a running edge shows what its file holds, by SHA-256; None: nobody knows."""
    if shown is None or shown == facts.fingerprint:
        return []
    return [
        problem(
            _check,
            "the running edge shows another one than its file holds",
            "Run `systemctl reload moonhost-edge` (or send it SIGHUP), and it reads them again.",
        )
    ]


def _key_and_chain(facts: CertificateFacts) -> list[Finding]:
    found = []
    if not facts.key_matches:
        found.append(
            problem(
                _check,
                "agents.private_key is not the key of agents.certificate",
                "Name the two files that belong together.",
            )
        )
    if not facts.is_chained:
        found.append(
            problem(
                _check,
                "the certificates in agents.certificate are not each the issuer of the one before",
                "Write the edge's own certificate first, then its issuer's, and so on "
                '(certbot calls that file "fullchain.pem").',
            )
        )
    if facts.certificates == 1 and not facts.self_signed:
        found.append(
            warning(
                _check,
                "agents.certificate holds no certificate of an intermediate authority",
                'Unless your authority has none, name the file with the chain ("fullchain.pem"): '
                "agents cannot verify without it.",
            )
        )
    return found


def _names_and_time(facts: CertificateFacts, hostname: str, now: datetime) -> list[Finding]:
    renew = (
        "Renew it (delete agents.pem and agents.key in state_dir, and copy the new agents.pem to "
        "the agents), then restart the edge."
        if facts.self_signed
        else "Renew it, then restart the edge."
    )
    found = []
    if not any(covers(name, hostname) for name in facts.names):
        names = ", ".join(facts.names) or "nobody"
        found.append(
            problem(
                _check,
                f"it is for {names}, and hostname is {hostname}",
                "Get one for hostname, or agents that dial that name will not connect. "
                "(One that the edge made itself: delete agents.pem and agents.key in state_dir.)",
            )
        )
    if now >= facts.not_after:
        found.append(problem(_check, f"it expired at {facts.not_after:%Y-%m-%d %H:%M} UTC", renew))
    elif now < facts.not_before:
        found.append(
            problem(
                _check,
                f"it is not valid before {facts.not_before:%Y-%m-%d %H:%M} UTC",
                "Set this machine's clock right, or wait.",
            )
        )
    elif facts.not_after - now < expiry_warning:
        left = facts.not_after - now
        found.append(
            warning(_check, f"it expires in {left.days} days, at {facts.not_after:%Y-%m-%d}", renew)
        )
    return found


def covers(name: str, hostname: str) -> bool:
    """Tell whether a certificate's name is that of a host; ``*.`` stands for one label."""
    try:
        return ip_address(name) == ip_address(hostname)
    except ValueError:
        pass
    name, hostname = name.lower().rstrip("."), hostname.lower().rstrip(".")
    if name.startswith("*."):
        return hostname.partition(".")[2] == name[2:]
    return name == hostname


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    names = extension.value
    return (
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    )


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
