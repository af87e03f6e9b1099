"""Who a client, a host or the edge is: an RSA key and an X.509 certificate of any age or shape.

Moonlight's certificates have the serial number 0 and odd dates, which strict X.509 libraries
refuse or are about to refuse. A certificate is therefore its DER bytes, and only what pairing
needs is read out of them: the signature and the public key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import warnings
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NewType

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from moonlight.errors import Malformed, TooLarge

ClientId = NewType("ClientId", str)
_shown_characters: Final = 12
"""Lower-case hex SHA-256 of a client certificate's DER."""

max_certificate_bytes: Final = 8192
max_rsa_key_bits: Final = 8192  # verifying with a larger key costs more than a peer may ask for

key_bits: Final = 2048
validity: Final = timedelta(days=20 * 365)

_pem_begin: Final = b"-----BEGIN CERTIFICATE-----"
_pem_end: Final = b"-----END CERTIFICATE-----"

# Tags of the few DER values that lie on the way to a key and a signature.
_bit_string: Final = 0x03
_sequence: Final = 0x30
_explicit_version: Final = 0xA0


def short_id(client: str) -> str:
    """Return the beginning of a client's id, which is all of it that logs and lists show."""
    return client[:_shown_characters]


def client_id(der: bytes) -> ClientId:
    """Name the holder of a certificate by what cannot be chosen twice: its hash."""
    return ClientId(hashlib.sha256(der).hexdigest())


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A certificate as its owner sent it. Makes no promise about names, dates or issuer.

    Raises `Malformed` or `TooLarge` when the bytes are not one X.509 certificate.
    """

    der: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.der) > max_certificate_bytes:
            raise TooLarge(
                "certificate_too_large",
                f"A certificate may have {max_certificate_bytes} bytes; this one has more.",
            )
        _certificate_parts(self.der)

    @classmethod
    def from_der(cls, der: bytes) -> PeerCertificate:
        """Take a certificate as TLS hands it over."""
        return cls(bytes(der))

    @classmethod
    def from_pem(cls, pem: bytes) -> PeerCertificate:
        """Take the first certificate of a PEM text, as pairing carries it."""
        if len(pem) > 2 * max_certificate_bytes:
            raise TooLarge("certificate_too_large", "The PEM text of a certificate is too long.")
        _, begin, rest = pem.partition(_pem_begin)
        body, end, _ = rest.partition(_pem_end)
        if not begin or not end:
            raise Malformed("bad_certificate", "The PEM text holds no certificate.")
        try:
            der = base64.b64decode(b"".join(body.split()), validate=True)
        except binascii.Error:
            raise Malformed("bad_certificate", "The PEM text is not base64.") from None
        return cls(der)

    @property
    def pem(self) -> bytes:
        """The certificate in PEM: lines of 64 characters, the last one ended too."""
        text = base64.b64encode(self.der)
        lines = [text[start : start + 64] for start in range(0, len(text), 64)]
        return b"\n".join([_pem_begin, *lines, _pem_end, b""])

    @property
    def id(self) -> ClientId:
        """The name of whoever holds the key to this certificate."""
        return client_id(self.der)

    @property
    def signature(self) -> bytes:
        """The issuer's signature, which pairing mixes into its hashes."""
        return _certificate_parts(self.der)[1]

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Tell whether this certificate's key made `signature` (RSA, PKCS#1 v1.5, SHA-256).

        False for any key that is not RSA: GameStream pairing knows no other.
        """
        try:
            key = serialization.load_der_public_key(_certificate_parts(self.der)[0])
        except (ValueError, UnsupportedAlgorithm):
            return False
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size > max_rsa_key_bits:
            return False
        try:
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A key and the certificate that goes with it; the key never shows in a repr."""

    key: rsa.RSAPrivateKey = field(repr=False)
    certificate: PeerCertificate

    @classmethod
    def generate(
        cls, common_name: str, *, now: datetime, key: rsa.RSAPrivateKey | None = None
    ) -> Identity:
        """Make an identity as Moonlight's peers use them: self-signed RSA-2048, for 20 years.

        Takes some 100 ms of CPU, nearly all of it for the key: whoever plays many peers passes one
        key for all, and they still differ by their certificates. `now` carries its time zone.
        """
        key = key or rsa.generate_private_key(public_exponent=65537, key_size=key_bits)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))  # clocks of living rooms are not exact
            .not_valid_after(now + validity)
            .sign(key, hashes.SHA256())
        )
        der = certificate.public_bytes(serialization.Encoding.DER)
        return cls(key, PeerCertificate(der))

    @classmethod
    def from_pem(cls, key_pem: bytes, certificate_pem: bytes) -> Identity:
        """Load a kept identity. Raises `Malformed` when key and certificate are not a pair."""
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # The cause is left out on purpose: it may quote key material.
            raise Malformed("bad_identity", "The private key is no unencrypted PEM key.") from None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise Malformed("bad_identity", "The private key is not an RSA key.")
        certificate = PeerCertificate.from_pem(certificate_pem)
        public_key = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if public_key != _certificate_parts(certificate.der)[0]:
            raise Malformed("bad_identity", "The certificate belongs to another private key.")
        return cls(key, certificate)

    @property
    def key_pem(self) -> bytes:
        """The private key in PEM (PKCS#8), not encrypted: for a store that does."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def sign(self, data: bytes) -> bytes:
        """Sign with RSA, PKCS#1 v1.5, SHA-256, as pairing does."""
        return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())

    def x509(self) -> x509.Certificate:
        """Own certificate for a TLS library, without the warning that an old one deserves."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return x509.load_der_x509_certificate(self.certificate.der)


def _certificate_parts(der: bytes) -> tuple[bytes, bytes]:
    """Cut the public key (SubjectPublicKeyInfo, DER) and the signature out of a certificate."""
    certificate, end = _value(der, 0, _sequence)
    if end != len(der):
        raise Malformed("bad_certificate", "Bytes follow the certificate.")
    to_be_signed, position = _value(certificate, 0, _sequence)
    _, position = _value(certificate, position, _sequence)
    signature, end = _value(certificate, position, _bit_string)
    if end != len(certificate) or signature[:1] != b"\0":
        raise Malformed("bad_certificate", "The certificate does not end with its signature.")
    # version (not in X.509 v1), serial number, signature algorithm, issuer, validity, subject
    skipped = 6 if to_be_signed[:1] == bytes([_explicit_version]) else 5
    position = 0
    for _ in range(skipped):
        _, position = _value(to_be_signed, position)
    _, end = _value(to_be_signed, position, _sequence)
    return to_be_signed[position:end], signature[1:]


def _value(data: bytes, start: int, tag: int | None = None) -> tuple[bytes, int]:
    """Read one DER value at `start`: its content, and where the next one starts."""
    header = data[start : start + 2]
    if len(header) < 2 or (tag is not None and header[0] != tag):
        raise Malformed("bad_certificate", "The certificate is not X.509 in DER.")
    length = header[1]
    start += 2
    if length >= 0x80:
        octets = length & 0x7F
        length = int.from_bytes(data[start : start + octets], "big")
        start += octets
    end = start + length
    if end > len(data):
        raise Malformed("bad_certificate", "The certificate is cut short.")
    return data[start:end], end
