"""Mutual TLS as GameStream has it: any certificate is welcome, and judged after the handshake.

The `ssl` module can only refuse a self-signed client certificate with an alert, and a client
takes an alert for a dead host. pyOpenSSL can accept it. `trio.SSLStream` asks no more of its
context than `wrap_bio`, and of what that returns no more than a few methods: both are given
here, with a pyOpenSSL connection behind them, so that trio's own locking and cancellation stay
in charge.
"""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar, cast

from OpenSSL import SSL, crypto

from moonlight.identity import Identity

if TYPE_CHECKING:
    import trio

_T = TypeVar("_T")
_Transport = TypeVar("_Transport", bound="trio.abc.Stream")

# Largest TLS record; reading a memory BIO piece by piece of this size costs no extra copies.
_max_record_bytes: Final = 16_384 + 512

# Without one OpenSSL refuses every resumed session, in TLS 1.2 and 1.3.
_session_id_context: Final = b"moonhost"

_Verify = Callable[[SSL.Connection, crypto.X509, int, int, int], bool]


def server_context(identity: Identity, *, insists_on_certificate: bool = False) -> ssl.SSLContext:
    """Make the context of an HTTPS port that takes any client certificate, or none.

    One that `insists_on_certificate`, as Sunshine's does, still takes any, but not none.

    Only fit for `trio.SSLStream(…, server_side=True)`; ask `peer_certificate` who came. To change
    the identity make a new context.
    """

    def accept(*_: object) -> bool:
        return True

    context = _context(SSL.TLS_SERVER_METHOD, identity, accept)
    context.set_session_id(_session_id_context)
    if insists_on_certificate:
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, accept)
    return cast("ssl.SSLContext", _PyOpenSSLContext(context))


def client_context(identity: Identity | None, *, pinned_der: bytes | None) -> ssl.SSLContext:
    """Make the context for asking a host that is known by its certificate and nothing else.

    With `pinned_der` the handshake fails for every other certificate, whoever signed it; names and
    dates do not matter. With None any host is accepted, as only the first steps of a pairing may.
    """

    def accept(
        connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int
    ) -> bool:
        # OpenSSL asks for the host's own certificate (depth 0) once or more in every handshake.
        if pinned_der is None or depth > 0:
            return True
        return hmac.compare_digest(_der(certificate), pinned_der)

    return cast(
        "ssl.SSLContext",
        _PyOpenSSLContext(_context(SSL.TLS_CLIENT_METHOD, identity, accept)),
    )


def peer_certificate(stream: trio.SSLStream[_Transport]) -> bytes | None:
    """Give the DER of the certificate whose key the peer proved to hold, None if it showed none.

    Only after the handshake (`trio.NeedHandshakeError` before), on a stream with a context of this
    module.
    """
    der = stream.getpeercert(binary_form=True)
    return cast("bytes | None", der)


def _context(method: int, identity: Identity | None, accept: _Verify) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_RENEGOTIATION)
    if identity is not None:
        context.use_privatekey(identity.key)
        context.use_certificate(identity.x509())
    context.set_verify(SSL.VERIFY_PEER, accept)
    return context


def _der(certificate: crypto.X509) -> bytes:
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


class _PyOpenSSLContext:
    """The part of `ssl.SSLContext` that trio uses."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
    ) -> _PyOpenSSLObject:
        return _PyOpenSSLObject(
            SSL.Connection(self._context, None), incoming, outgoing, server_side=server_side
        )


class _PyOpenSSLObject:
    """The part of `ssl.SSLObject` that trio uses, between trio's two memory BIOs and OpenSSL's."""

    def __init__(
        self,
        connection: SSL.Connection,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        server_side: bool,
    ) -> None:
        self.server_side = server_side
        self._connection = connection
        self._incoming = incoming
        self._outgoing = outgoing
        if server_side:
            connection.set_accept_state()
        else:
            connection.set_connect_state()

    def do_handshake(self) -> None:
        self._run(self._connection.do_handshake)

    def read(self, max_bytes: int) -> bytes:
        try:
            return self._run(lambda: self._connection.recv(max_bytes))
        except ssl.SSLZeroReturnError:
            return b""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        # OpenSSL takes one record at a time here (pyOpenSSL switches partial writes on).
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                with view[sent:] as rest:
                    sent += self._run(lambda rest=rest: self._connection.send(rest))  # type: ignore[misc]
        return sent

    def unwrap(self) -> None:
        # The first call sends our close_notify, the second one looks for the peer's.
        if not self._run(self._connection.shutdown):
            self._run(self._connection.shutdown)

    def pending(self) -> int:
        return self._connection.pending()

    def version(self) -> str:
        return self._connection.get_protocol_version_name()

    def getpeercert(self, binary_form: bool = False) -> bytes | None:
        certificate = self._connection.get_peer_certificate()
        return None if certificate is None else _der(certificate)

    def _run(self, operation: Callable[[], _T]) -> _T:
        """Do one OpenSSL operation: bytes in before, bytes out after, errors as `ssl` has them."""
        received = self._incoming.read()
        if received:
            self._connection.bio_write(received)
        elif self._incoming.eof:
            self._connection.bio_shutdown()
        try:
            return operation()
        except SSL.WantReadError:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "more bytes wanted") from None
        except SSL.ZeroReturnError:
            raise ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "the peer closed") from None
        except SSL.SysCallError:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in TLS") from None
        except SSL.Error as error:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, _reason(error)) from None
        finally:
            self._flush()

    def _flush(self) -> None:
        while True:
            try:
                self._outgoing.write(self._connection.bio_read(_max_record_bytes))
            except SSL.WantReadError:
                return


def _reason(error: SSL.Error) -> str:
    """Put OpenSSL's queue of errors, a list of (library, function, reason), into one line."""
    queue = error.args[0] if error.args else []
    return "; ".join(reason for _, _, reason in queue) or "TLS failed"
