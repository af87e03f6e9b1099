from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa
from hypothesis import given, settings
from hypothesis import strategies as st
from moonlight_identities import (
    NOW,
    RSA_SHA256,
    certificate,
    der_of,
    ec_key,
    identity,
    pem_of,
    rsa_key,
    sequence,
    serial_zero,
    signed_again,
    tagged,
)
from recorded import needs_captures
from recorded_http import http_exchanges

from moonlight.errors import Malformed, ProtocolError, TooLarge
from moonlight.http import HttpServer
from moonlight.identity import Identity, PeerCertificate, client_id, max_certificate_bytes
from moonlight.xml import Answer


def test_a_new_identity_is_what_clients_expect_of_a_host() -> None:
    parsed = identity("edge").x509()
    assert identity("edge").key.key_size == 2048
    assert parsed.subject == parsed.issuer
    assert parsed.not_valid_before_utc < NOW
    assert parsed.not_valid_after_utc > datetime(2046, 1, 1, tzinfo=UTC)
    parsed.verify_directly_issued_by(parsed)


def test_an_identity_is_kept_and_loaded_unchanged() -> None:
    edge = identity("edge")
    loaded = Identity.from_pem(edge.key_pem, edge.certificate.pem)
    assert loaded.certificate == edge.certificate
    assert loaded.key_pem == edge.key_pem


def test_an_identity_never_shows_its_key() -> None:
    assert "rsa" not in repr(identity("edge")).lower()
    assert "key" not in repr(identity("edge")).lower()


def test_a_key_and_a_certificate_that_are_no_pair_are_refused() -> None:
    with pytest.raises(Malformed, match="another private key"):
        Identity.from_pem(identity("edge").key_pem, identity("client").certificate.pem)


@pytest.mark.parametrize(
    ("key_pem", "complaint"),
    [
        (b"", "no unencrypted PEM key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no unencrypted"),
        (pem_of(ec_key()), "not an RSA key"),
    ],
)
def test_a_key_that_is_no_rsa_key_is_refused_without_quoting_it(
    key_pem: bytes, complaint: str
) -> None:
    with pytest.raises(Malformed, match=complaint) as caught:
        Identity.from_pem(key_pem, identity("edge").certificate.pem)
    assert caught.value.__cause__ is None
    assert "AAAA" not in str(caught.value)


def test_an_encrypted_key_is_refused() -> None:
    locked = rsa_key().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    with pytest.raises(Malformed, match="no unencrypted"):
        Identity.from_pem(locked, identity("edge").certificate.pem)


def test_a_client_is_the_hash_of_its_certificate() -> None:
    peer = identity("client").certificate
    assert peer.id == client_id(peer.der) == hashlib.sha256(peer.der).hexdigest()


def test_pem_is_what_other_libraries_write() -> None:
    peer = identity("client").certificate
    parsed = x509.load_der_x509_certificate(peer.der)
    assert peer.pem == parsed.public_bytes(serialization.Encoding.PEM)
    assert PeerCertificate.from_pem(peer.pem) == PeerCertificate.from_der(peer.der) == peer
    assert PeerCertificate.from_pem(b"text before\r\n" + peer.pem.replace(b"\n", b"\r\n")) == peer


@pytest.mark.parametrize("version_1", [False, True])
def test_serial_number_zero_and_version_1_are_taken_without_a_warning(version_1: bool) -> None:
    client = serial_zero(version_1=version_1)
    assert client.certificate.signature == client.x509().signature
    assert client.certificate.verify(b"secret", client.sign(b"secret"))
    assert Identity.from_pem(client.key_pem, client.certificate.pem).certificate.der


def test_the_signature_is_the_one_in_the_certificate() -> None:
    peer = identity("client")
    assert peer.certificate.signature == peer.x509().signature


def test_only_the_key_of_the_certificate_verifies() -> None:
    client, other = identity("client"), identity("edge")
    signature = client.sign(b"secret")
    assert client.certificate.verify(b"secret", signature)
    assert not client.certificate.verify(b"Secret", signature)
    assert not client.certificate.verify(b"secret", signature[:-1])
    assert not client.certificate.verify(b"secret", b"")
    assert not other.certificate.verify(b"secret", signature)


def test_a_key_that_is_not_rsa_verifies_nothing() -> None:
    peer = PeerCertificate(der_of(certificate(ec_key())))
    assert not peer.verify(b"secret", b"\0" * 64)


def test_a_key_of_an_unknown_kind_verifies_nothing() -> None:
    algorithm = sequence(bytes.fromhex("06032a0304"))
    peer = minimal_certificate(sequence(algorithm + tagged(3, b"\0\1")))
    assert not peer.verify(b"secret", b"\0" * 64)


def test_a_key_beyond_the_limit_verifies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    client = identity("client")
    monkeypatch.setattr("moonlight.identity.max_rsa_key_bits", 2047)
    assert not client.certificate.verify(b"secret", client.sign(b"secret"))


def minimal_certificate(public_key: bytes) -> PeerCertificate:
    skipped = tagged(2, b"\1") + sequence(b"") * 4
    return signed_again(sequence(skipped + public_key), rsa_key())


def test_a_dsa_key_verifies_nothing() -> None:
    key = dsa.generate_private_key(1024).public_key()
    peer = minimal_certificate(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    assert not peer.verify(b"secret", b"\0" * 64)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n",
        b"AAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nA*A=\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ],
)
def test_pem_without_a_certificate_is_malformed(pem: bytes) -> None:
    with pytest.raises(Malformed):
        PeerCertificate.from_pem(pem)


def test_certificates_are_bounded() -> None:
    with pytest.raises(TooLarge):
        PeerCertificate(b"\x30" * (max_certificate_bytes + 1))
    with pytest.raises(TooLarge):
        PeerCertificate.from_pem(b"A" * (2 * max_certificate_bytes + 1))


@pytest.mark.parametrize(
    "der",
    [
        sequence(b""),
        sequence(sequence(b"") + RSA_SHA256 + tagged(3, b"\0\1")),
        sequence(sequence(b"") + RSA_SHA256 + tagged(3, b"\1\1")),
        sequence(sequence(b"") + RSA_SHA256 + tagged(3, b"\0\1") + b"more"),
        identity("client").certificate.der + b"\0",
    ],
)
def test_what_is_not_quite_a_certificate_is_malformed(der: bytes) -> None:
    with pytest.raises(Malformed):
        PeerCertificate(der)


def test_a_signature_that_is_no_whole_number_of_bytes_is_malformed() -> None:
    peer = identity("client").certificate
    der = bytearray(peer.der)
    place = len(der) - len(peer.signature) - 1
    assert der[place] == 0
    der[place] = 1
    with pytest.raises(Malformed):
        PeerCertificate(bytes(der))


def test_a_key_longer_than_what_is_signed_is_malformed() -> None:
    with pytest.raises(Malformed, match="cut short"):
        minimal_certificate(b"\x30\x7f\0")


def test_a_certificate_cut_anywhere_is_malformed() -> None:
    der = identity("client").certificate.der
    for length in range(len(der)):
        with pytest.raises(Malformed):
            PeerCertificate(der[:length])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(sequence))
def test_noise_is_only_ever_a_protocol_error(noise: bytes) -> None:
    for read in (PeerCertificate.from_der, PeerCertificate.from_pem):
        with pytest.raises(ProtocolError):
            read(noise)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_certificate_never_raises_anything_else(data: st.DataObject) -> None:
    der = bytearray(identity("client").certificate.der)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        peer = PeerCertificate(bytes(der))
    except ProtocolError:
        return
    assert isinstance(peer.verify(b"secret", b"\0" * 256), bool)


@needs_captures
def test_recorded_certificates_are_read_and_written_unchanged() -> None:
    seen = 0
    for exchange in http_exchanges():
        if b"phrase=getservercert" not in exchange.requests:
            continue
        server = HttpServer()
        server.receive(exchange.requests)
        request = server.next_request()
        assert request is not None
        pem = bytes.fromhex(request.query.get("clientcert") or "")
        client = PeerCertificate.from_pem(pem)
        assert client.pem == pem
        # self-signed, with the serial number 0 that strict libraries warn of
        assert len(client.signature) == 256
        text = Answer.parse(exchange.bodies[0]).text("plaincert") or ""
        assert PeerCertificate.from_pem(bytes.fromhex(text)).pem == bytes.fromhex(text)
        seen += 1
    assert seen


def test_peers_that_share_a_key_differ_by_their_certificates() -> None:
    first = identity("one")
    other = Identity.generate("one", now=NOW, key=first.key)
    assert other.certificate.id != first.certificate.id
    assert other.certificate.verify(b"data", first.sign(b"data"))
