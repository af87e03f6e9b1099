from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from moonlight_identities import (
    certificate,
    der_of,
    ec_key,
    identity,
    pem_of,
    rsa_key,
    serial_zero,
)
from trio.testing import lockstep_stream_pair, memory_stream_pair

from moonlight.identity import Identity, PeerCertificate
from moonlight.tls import client_context, peer_certificate, server_context

Stream = trio.SSLStream[trio.abc.Stream]

LONG = bytes(range(256)) * 1200
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def stdlib_client(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    return context


def with_certificate(
    context: ssl.SSLContext, key_pem: bytes, peer: PeerCertificate, folder: Path
) -> ssl.SSLContext:
    (folder / "key.pem").write_bytes(key_pem)
    (folder / "certificate.pem").write_bytes(peer.pem)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def pair(
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    transport: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
    *,
    https_compatible: bool = False,
) -> tuple[Stream, Stream]:
    near, far = transport or memory_stream_pair()
    return (
        trio.SSLStream(near, server, server_side=True, https_compatible=https_compatible),
        trio.SSLStream(far, client),
    )


async def handshake(server: Stream, client: Stream) -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            nursery.start_soon(client.do_handshake)


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    received = b""
    while len(received) < count:
        chunk = await stream.receive_some()
        assert chunk, "the stream ended early"
        received += chunk
    return received


async def exchange(server: Stream, client: Stream, data: bytes) -> None:
    """Send the same both ways at once, whole."""

    async def check(stream: Stream) -> None:
        assert await receive_exactly(stream, len(data)) == data

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, data)
            nursery.start_soon(server.send_all, data)
            nursery.start_soon(check, client)
            nursery.start_soon(check, server)


def odd_clients() -> dict[str, tuple[bytes, PeerCertificate]]:
    def dated(first: int, last: int) -> PeerCertificate:
        begins, ends = datetime(first, 1, 1, tzinfo=UTC), datetime(last, 12, 31, tzinfo=UTC)
        return PeerCertificate(der_of(certificate(rsa_key(), begins=begins, ends=ends)))

    plain, zero, old = identity("client"), serial_zero(), serial_zero(version_1=True)
    return {
        "plain": (plain.key_pem, plain.certificate),
        "serial 0": (zero.key_pem, zero.certificate),
        "version 1": (old.key_pem, old.certificate),
        "expired": (pem_of(rsa_key()), dated(1999, 2000)),
        "not yet valid": (pem_of(rsa_key()), dated(2090, 2091)),
        "for ever": (pem_of(rsa_key()), dated(2020, 9999)),
        "elliptic": (pem_of(ec_key()), PeerCertificate(der_of(certificate(ec_key())))),
        "weak": (pem_of(rsa_key(1024)), PeerCertificate(der_of(certificate(rsa_key(1024))))),
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", list(odd_clients()))
async def test_any_client_certificate_is_taken_and_told(
    kind: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    key_pem, own = odd_clients()[kind]
    context = with_certificate(stdlib_client(version), key_pem, own, tmp_path)
    server, client = pair(server_context(identity("edge")), context)
    await handshake(server, client)
    assert peer_certificate(server) == own.der
    assert server.version() == client.version()
    await exchange(server, client, b"hello")


@pytest.mark.parametrize("version", VERSIONS)
async def test_no_client_certificate_is_taken_too(version: ssl.TLSVersion) -> None:
    server, client = pair(server_context(identity("edge")), stdlib_client(version))
    await handshake(server, client)
    assert peer_certificate(server) is None
    assert client.getpeercert(binary_form=True) == identity("edge").certificate.der
    await exchange(server, client, b"hello")


async def test_who_came_is_not_known_before_the_handshake() -> None:
    server, _ = pair(server_context(identity("edge")), stdlib_client())
    with pytest.raises(trio.NeedHandshakeError):
        peer_certificate(server)


@pytest.mark.parametrize("own", [identity("edge"), serial_zero()])
async def test_both_sides_of_ours_together(own: Identity) -> None:
    context = client_context(identity("client"), pinned_der=own.certificate.der)
    server, client = pair(server_context(own), context)
    await handshake(server, client)
    assert peer_certificate(server) == identity("client").certificate.der
    assert peer_certificate(client) == own.certificate.der
    assert server.version() == "TLSv1.3"


async def test_a_client_of_ours_needs_neither_identity_nor_pin() -> None:
    context = client_context(None, pinned_der=None)
    server, client = pair(server_context(identity("edge")), context)
    await handshake(server, client)
    assert peer_certificate(server) is None
    assert peer_certificate(client) == identity("edge").certificate.der


@pytest.mark.parametrize("version", VERSIONS)
async def test_another_server_certificate_than_the_pinned_one_is_refused(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    host = identity("edge")
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    plain.maximum_version = version
    with_certificate(plain, host.key_pem, host.certificate, tmp_path)
    context = client_context(identity("client"), pinned_der=identity("client").certificate.der)
    server, client = pair(plain, context)
    refused: list[BaseException | None] = []

    async def ask() -> None:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.do_handshake()
        refused.append(caught.value.__cause__)
        await client.transport_stream.aclose()

    async def serve() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await receive_exactly(server, 1)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(serve)
    (cause,) = refused
    assert isinstance(cause, ssl.SSLError)
    assert "certificate verify failed" in str(cause)


async def test_a_pinned_chain_is_judged_by_its_first_certificate_alone(tmp_path: Path) -> None:
    """What a server sends behind its own certificate neither helps nor hurts."""
    host = identity("edge")
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain = PeerCertificate(der_of(certificate(rsa_key())))
    (tmp_path / "key.pem").write_bytes(host.key_pem)
    (tmp_path / "chain.pem").write_bytes(host.certificate.pem + chain.pem)
    plain.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    good = client_context(None, pinned_der=host.certificate.der)
    server, client = pair(plain, good)
    await handshake(server, client)
    bad = client_context(None, pinned_der=chain.der)
    server, client = pair(plain, bad)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_broken, server)
            await _broken(client)
            await client.transport_stream.aclose()


async def _broken(stream: Stream) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await stream.do_handshake()


def issued_server(issuer: Identity, version: ssl.TLSVersion, folder: Path) -> ssl.SSLContext:
    """A server whose certificate `issuer` has signed, and that sends both."""
    issued = PeerCertificate(der_of(_issued_by(issuer)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    (folder / "key.pem").write_bytes(pem_of(rsa_key()))
    (folder / "chain.pem").write_bytes(issued.pem + issuer.certificate.pem)
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    return context


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_certificate_signed_by_the_pinned_one_is_refused_as_well(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    host = identity("edge")
    context = client_context(None, pinned_der=host.certificate.der)
    server, client = pair(issued_server(host, version, tmp_path), context)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_broken, server)
            await _broken(client)
            await client.transport_stream.aclose()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_pinned_certificate_may_have_been_signed_by_another(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    plain = issued_server(identity("edge"), version, tmp_path)
    own = PeerCertificate.from_pem((tmp_path / "chain.pem").read_bytes())
    server, client = pair(plain, client_context(None, pinned_der=own.der))
    await handshake(server, client)
    assert peer_certificate(client) == own.der


def _issued_by(issuer: Identity) -> x509.Certificate:
    parsed = issuer.x509()
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(parsed.subject)
        .serial_number(7)
        .not_valid_before(parsed.not_valid_before_utc)
        .not_valid_after(parsed.not_valid_after_utc)
        .public_key(rsa_key().public_key())
        .sign(issuer.key, hashes.SHA256())
    )


@pytest.mark.parametrize("version", VERSIONS)
async def test_long_writes_arrive_whole_both_ways(version: ssl.TLSVersion) -> None:
    server, client = pair(server_context(identity("edge")), stdlib_client(version))
    await handshake(server, client)
    await exchange(server, client, LONG)
    assert len(LONG) > 300_000


async def test_long_writes_arrive_whole_through_a_slow_transport() -> None:
    context = client_context(identity("client"), pinned_der=None)
    server, client = pair(server_context(identity("edge")), context, lockstep_stream_pair())
    await exchange(server, client, LONG)


class Trickle(trio.abc.Stream):
    """A transport that gives a few bytes at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(7)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_bytes_arriving_few_by_few_make_the_same_handshake() -> None:
    near, far = memory_stream_pair()
    trickling = Trickle(near), Trickle(far)
    context = client_context(identity("client"), pinned_der=None)
    server, client = pair(server_context(identity("edge")), context, trickling)
    await handshake(server, client)
    assert peer_certificate(server) == identity("client").certificate.der
    await exchange(server, client, b"hello")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_resumed_session_still_tells_who_came(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    own = serial_zero()
    context = with_certificate(stdlib_client(version), own.key_pem, own.certificate, tmp_path)
    accepting = server_context(identity("edge"))
    server, client = pair(accepting, context)
    await handshake(server, client)
    await exchange(server, client, b"first")
    session = client.session
    server, client = pair(accepting, context)
    client.session = session
    await handshake(server, client)
    assert client.session_reused
    assert peer_certificate(server) == own.certificate.der
    await exchange(server, client, b"again")


async def test_a_clean_end_is_an_end_on_the_other_side() -> None:
    context = client_context(None, pinned_der=None)
    server, client = pair(server_context(identity("edge")), context)
    await handshake(server, client)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose)
            assert await server.receive_some() == b""
            await server.aclose()


async def test_both_sides_may_unwrap_to_the_bare_transport() -> None:
    context = client_context(None, pinned_der=None)
    server, client = pair(server_context(identity("edge")), context)
    await handshake(server, client)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.unwrap)
            _, left_over = await server.unwrap()
    assert left_over == b""


async def test_a_connection_cut_off_is_told_from_an_end() -> None:
    context = client_context(None, pinned_der=None)
    server, client = pair(server_context(identity("edge")), context)
    await handshake(server, client)
    await client.transport_stream.aclose()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await server.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLEOFError)


async def test_a_connection_cut_off_is_an_end_where_that_is_asked_for() -> None:
    context = client_context(None, pinned_der=None)
    server, client = pair(server_context(identity("edge")), context, https_compatible=True)
    await handshake(server, client)
    await client.transport_stream.aclose()
    assert await server.receive_some() == b""


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\x16\x03\x01\xff\xff"])
async def test_noise_instead_of_tls_breaks_this_connection_only(noise: bytes) -> None:
    accepting = server_context(identity("edge"))
    near, far = memory_stream_pair()
    hostile = trio.SSLStream(near, accepting, server_side=True)
    await far.send_all(noise)
    await far.send_eof()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await hostile.do_handshake()
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    server, client = pair(accepting, stdlib_client())
    await handshake(server, client)


async def test_what_tls_1_1_offers_is_refused() -> None:
    old = stdlib_client()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    server, client = pair(server_context(identity("edge")), old)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_broken, client)
            await _broken(server)
            await server.transport_stream.aclose()


async def test_decrypted_bytes_that_wait_are_counted() -> None:
    context = client_context(None, pinned_der=None)
    server, client = pair(server_context(identity("edge")), context)
    await handshake(server, client)
    await client.send_all(b"hello")
    assert await server.receive_some(2) == b"he"
    assert server.pending() == 3


async def test_a_server_may_insist_on_a_certificate_whoevers(tmp_path: Path) -> None:
    insisting = server_context(identity("edge"), insists_on_certificate=True)
    server, client = pair(insisting, client_context(identity("client"), pinned_der=None))
    await handshake(server, client)
    assert peer_certificate(server) == identity("client").certificate.der

    server, client = pair(insisting, stdlib_client(ssl.TLSVersion.TLSv1_2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_broken, server)
        nursery.start_soon(expect_broken, client)


async def expect_broken(stream: Stream) -> None:
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
        await stream.do_handshake()
    await trio.aclose_forcefully(stream)
