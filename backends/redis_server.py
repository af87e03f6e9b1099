"""One Redis server behind trio: a single connection that all tasks share, dialled when needed.

Commands are sent as they come and answered in order, so that they never wait for one another's
round trips. coredis' own pool (6.9) is not used: it loses one of its places for good with each
operation that is cancelled while a connection is being made, until none is left.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import anyio
import trio
from anyio.abc import ByteStream, SocketAttribute
from coredis.connection import BaseConnection, TCPLocation
from coredis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    UnknownCommandError,
    WrongTypeError,
)

from backends.errors import StoreError
from backends.redis_address import RedisAddress
from backends.redis_scripts import Script

Reply = Any
"""What a server answers: None, an int, bytes, or a list or dict of these."""

# It would print tracebacks of what is told as a `StoreError` once.
logging.getLogger("coredis").setLevel(logging.CRITICAL)

_failures: Final = (
    *(RedisError, OSError),
    *(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream),
)
_refusals: Final[Mapping[type[RedisError], str]] = {
    AuthenticationError: "refuses the password or user name of this edge",
    AuthorizationError: "does not let this edge's user do this: its ACL is too narrow",
    BusyLoadingError: "is still loading its data",
    ReadOnlyError: "is a replica that cannot be written: name the primary",
    UnknownCommandError: "does not know a command: Redis 6 or newer, or Valkey, is needed",
}
_codes: Final[Mapping[str, str]] = {
    "OOM": "is out of memory: raise its maxmemory",
    "MISCONF": "cannot save to its disk and takes no writes",
    "DB": "has no database of this number",
    "BUSY": "is busy with somebody's script",
    "NOREPLICAS": "has too few replicas to take writes",
    "MASTERDOWN": "is a replica that has lost its primary",
}


class RedisServer:
    """Commands to one server; `StoreError` for all that fails.

    What takes longer than `operation_timeout_s` raises, and may still happen later; so may what was
    on its way when a connection broke. The next operation dials anew.
    """

    def __init__(
        self,
        address: RedisAddress,
        ssl_context: ssl.SSLContext | None,
        nursery: trio.Nursery,
        operation_timeout_s: float,
    ) -> None:
        self._address = address
        self._ssl_context = ssl_context
        self._nursery = nursery
        self._operation_timeout_s = operation_timeout_s
        self._connection: BaseConnection | None = None
        self._dialling = trio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, address: RedisAddress, *, ca_file: Path | None, operation_timeout_s: float
    ) -> AsyncIterator[RedisServer]:
        """Be ready to talk to the server; the connection lives in this block at most."""
        context = _ssl_context(ca_file) if address.tls else None
        try:
            async with trio.open_nursery() as nursery:
                try:
                    yield cls(address, context, nursery, operation_timeout_s)
                finally:
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            # What went wrong in the block is told as it is: connections raise nothing here.
            raise group.exceptions[0] from group.exceptions[0].__cause__

    async def run(
        self, script: Script, keys: Sequence[str], *arguments: str | bytes | int
    ) -> Reply:
        """Run a script, which is sent whole only to a server that has not seen it yet."""
        values = (len(keys), *keys, *arguments)
        try:
            return await self._send(b"EVALSHA", script.sha, *values)
        except NoScriptError:
            return await self._send(b"EVAL", script.source, *values)

    async def command(self, name: bytes, *arguments: str | bytes | int) -> Reply:
        """Carry out a command that only reads."""
        return await self._send(name, *arguments)

    def damaged(self, what: str) -> StoreError:
        """Make the error for something in the server that moonhost cannot have written."""
        return StoreError(
            "damaged", f"The Redis server {self._address} holds {what} that moonhost did not write."
        )

    async def _send(self, name: bytes, *arguments: str | bytes | int) -> Reply:
        # Text that cannot be sent would end the connection for everybody.
        sent = [_bytes(value) for value in arguments]
        connection: BaseConnection | None = None
        try:
            with trio.fail_after(self._operation_timeout_s):
                connection = await self._usable_connection()
                # A reply to what was cancelled is still read, and thrown away.
                return cast("Reply", await connection.create_request(name, *sent, decode=False))
        except trio.TooSlowError:
            if connection is not None:
                # The peer may be gone without a word.
                connection.invalidate()
            raise StoreError(
                "timeout",
                f"The Redis server {self._address} did not answer within "
                f"{self._operation_timeout_s:g} s.",
            ) from None
        except NoScriptError:
            raise
        except _failures as error:
            # Without its cause: a server may repeat a command with its password in an error.
            raise self._store_error(error) from None

    async def _usable_connection(self) -> BaseConnection:
        # Whoever comes first dials, within its own time; the others wait, each within theirs.
        async with self._dialling:
            if self._connection is None or not self._connection.usable:
                self._connection = await self._dial()
            return self._connection

    async def _dial(self) -> BaseConnection:
        address = self._address
        if address.path:
            stream: ByteStream = await anyio.connect_unix(address.path)
        elif self._ssl_context is None:
            stream = await anyio.connect_tcp(address.host, address.port)
        else:
            stream = await anyio.connect_tcp(
                address.host,
                address.port,
                ssl_context=self._ssl_context,
                tls_standard_compatible=False,
            )
        if not address.path:
            # So that a peer that vanished is noticed while nothing is asked.
            raw_socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection = _Connection(stream, address)
        failure = await self._nursery.start(_serve, connection)
        if failure is not None:
            raise failure
        return connection

    def _store_error(self, error: Exception) -> StoreError:
        where = f"The Redis server {self._address}"
        for kind, sentence in _refusals.items():
            if isinstance(error, kind):
                return StoreError("refused", f"{where} {sentence}.")
        if isinstance(error, WrongTypeError) or "attempt to" in str(error):
            return self.damaged("a key")
        if isinstance(error, ResponseError):
            # Its first word tells what it is; what follows may be anything.
            code = str(error).partition(" ")[0]
            known = _codes.get(
                code, f"refuses this with the error {code}" if code.isupper() else ""
            )
            return StoreError("refused", f"{where} {known or 'refuses this'}.")
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message
        elif isinstance(error, ssl.SSLError):
            why = f"TLS fails: {error.reason}"
        else:
            why = getattr(error, "strerror", None) or "is it running?"
        return StoreError("unreachable", f"{where} cannot be reached ({why}).")


class _Connection(BaseConnection):
    """Speaks over a stream that is connected already.

    coredis' own ones leave buffers unclosed where connecting fails.
    """

    def __init__(self, stream: ByteStream, address: RedisAddress) -> None:
        super().__init__(
            TCPLocation(address.host, address.port),
            username=address.username,
            password=address.password,
            db=address.db,
        )
        self._dialled = stream

    async def _connect(self) -> ByteStream:
        return self._dialled

    def describe(self) -> str:
        """Name the connection in coredis' own texts."""
        return f"Connection<{self.location}>"


class _Start:
    """Tells `nursery.start` how a connection began, and remembers that it did."""

    def __init__(self, task_status: trio.TaskStatus[Exception | None]) -> None:
        self._task_status = task_status
        self.over = False

    def started(self, failure: Exception | None = None) -> None:
        self.over = True
        self._task_status.started(failure)


async def _serve(
    connection: BaseConnection, *, task_status: trio.TaskStatus[Exception | None]
) -> None:
    """Run a connection for as long as it lasts; what kept it from beginning is its status."""
    start = _Start(task_status)
    try:
        await connection.run(task_status=cast("Any", start))
    except RedisError as error:
        # coredis makes this out of being cancelled while it shakes hands, too.
        await trio.lowlevel.checkpoint_if_cancelled()
        # One that had begun is found unusable by whoever wants it next.
        if not start.over:
            start.started(error)


def _bytes(value: str | bytes | int) -> bytes | int:
    try:
        return value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError:
        raise StoreError("bad_text", "A text for the store is no valid Unicode.") from None


def _ssl_context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise StoreError(
            "ca_file", f"The file {ca_file} with the store's CA cannot be used: {error.strerror}."
        ) from error
