"""Identities of every shape that peers really have, made once a test run."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from moonlight.identity import Identity, PeerCertificate

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@cache
def identity(name: str) -> Identity:
    return Identity.generate(name, now=NOW)


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def certificate(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    *,
    begins: datetime = NOW,
    ends: datetime = datetime(2046, 1, 1, tzinfo=UTC),
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "NVIDIA GameStream Client")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    builder = builder.not_valid_before(begins).not_valid_after(ends)
    return builder.public_key(key.public_key()).sign(key, hashes.SHA256())


def der_of(parsed: x509.Certificate) -> bytes:
    return parsed.public_bytes(serialization.Encoding.DER)


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def sequence(content: bytes) -> bytes:
    return tagged(0x30, content)


def tagged(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")


def signed_again(to_be_signed: bytes, key: rsa.RSAPrivateKey) -> PeerCertificate:
    signature = key.sign(to_be_signed, padding.PKCS1v15(), hashes.SHA256())
    return PeerCertificate(sequence(to_be_signed + RSA_SHA256 + tagged(3, b"\0" + signature)))


@cache
def serial_zero(*, version_1: bool = False) -> Identity:
    """What moonlight-qt makes: serial number 0; and a version 1 of it."""
    key = rsa_key()
    inner = certificate(key).tbs_certificate_bytes[4:]
    version, serial, rest = inner[:5], inner[5:8], inner[8:]
    assert (version, serial) == (b"\xa0\x03\x02\x01\x02", b"\x02\x01\x01")
    head = b"" if version_1 else version
    return Identity(key, signed_again(sequence(head + b"\x02\x01\x00" + rest), key))
