"""The TCP ports that clients come to: accepts, counts, bounds and serves connections."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Iterable
from dataclasses import dataclass, replace
from typing import Final

import structlog
import trio

from proxy.errors import StartFailed
from proxy.losses import DoorRefusal
from revdial.networks import network_of, plain_address
from revdial.proxies import TrustedProxies
from revdial.proxy_protocol import HeaderRefused, Route

_log = structlog.get_logger()

backlog: Final = 1_024
# accept() failing for want of descriptors would spin: wait this long instead.
accept_pause_s: Final = 0.1
no_such_address: Final = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
_no_descriptors: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class Connection:
    """One accepted connection and its addresses, IPv4 as IPv4 also on IPv6 sockets.

    Behind a trusted proxy `address` and `local_address` are those that the client came from and
    went to; `local_port` is the socket's own all the same, and `named_port` the proxy's word.
    """

    stream: trio.SocketStream
    address: str
    local_address: str
    local_port: int
    named_port: int | None = None

    def dialled_port(self, ours: Container[int]) -> int:
        """Return the port that the client dialled, as far as it is one of `ours`.

        A proxy may lead many ports to one of ours, and tells which it was; or it may itself stand
        behind something that changed the port, and then only our own means anything here.
        """
        if self.named_port is not None and self.named_port in ours:
            return self.named_port
        return self.local_port

    def routed(self, route: Route) -> Connection:
        """Return it as the client's that a proxy speaks for."""
        return replace(
            self,
            address=route.source,
            local_address=route.destination,
            named_port=route.destination_port,
        )


Serve = Callable[[Connection], Awaitable[None]]


class Doors:
    """Accepts connections on many ports within one bound on how many there are at once."""

    def __init__(
        self,
        *,
        max_connections: int,
        max_connections_per_address: int,
        proxies: TrustedProxies | None = None,
    ) -> None:
        self.apply(
            max_connections=max_connections,
            max_connections_per_address=max_connections_per_address,
        )
        self._proxies = proxies or TrustedProxies()
        self._open: Counter[str] = Counter()
        self._nameless = 0
        """Connections of proxies that have not told yet whose they are."""
        self.refused: Counter[str] = Counter()
        self.failed = 0
        """Connections whose handler broke: each is a bug, and in the log."""

    def apply(self, *, max_connections: int, max_connections_per_address: int) -> None:
        """Set other bounds; connections that there are stay."""
        self._max_connections = max_connections
        self._max_per_address = max_connections_per_address

    @property
    def open_connections(self) -> int:
        """How many connections are served now."""
        return self._open.total() + self._nameless

    async def serve(
        self,
        listeners: Iterable[trio.SocketListener],
        handler: Serve,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve connections of `listeners` until cancelled."""
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(self._accept, listener, handler, nursery)
            task_status.started()

    async def _accept(
        self, listener: trio.SocketListener, handler: Serve, nursery: trio.Nursery
    ) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _no_descriptors:
                        raise
                    self.refused[DoorRefusal.NO_DESCRIPTORS] += 1
                    await trio.sleep(accept_pause_s)
                    continue
                nursery.start_soon(self._serve_one, stream, handler)

    async def _serve_one(self, stream: trio.SocketStream, handler: Serve) -> None:
        async with stream:
            try:
                peer, local = stream.socket.getpeername(), stream.socket.getsockname()
            except OSError:  # it has gone already
                return
            connection = Connection(
                stream, plain_address(peer[0]), plain_address(local[0]), local[1]
            )
            if self.open_connections >= self._max_connections:
                self.refused[DoorRefusal.TOO_MANY] += 1
            elif not self._proxies.speak_for_others(connection.address):
                await self._serve_known(connection, handler)
            elif (routed := await self._read_header(connection)) is not None:
                await self._serve_known(routed, handler)

    async def _serve_known(self, connection: Connection, handler: Serve) -> None:
        if self._open[network_of(connection.address)] >= self._max_per_address:
            self.refused[DoorRefusal.TOO_MANY_FROM_ADDRESS] += 1
        else:
            await self._serve_admitted(connection, handler)

    async def _read_header(self, connection: Connection) -> Connection | None:
        """Return a proxy's connection with what its header says; None where it is not served."""
        self._nameless += 1
        try:
            announced = await self._proxies.read_header(connection.stream)
        except HeaderRefused as error:
            if not self.refused[error.reason]:
                # Once: it goes on until somebody sets one of both right.
                _log.warning(
                    "proxy_header_refused",
                    proxy_address=connection.address,
                    port=connection.local_port,
                    reason=error.reason,
                    why=str(error),
                )
            self.refused[error.reason] += 1
            return None
        finally:
            self._nameless -= 1
        if announced is None:
            return None
        return connection if announced.route is None else connection.routed(announced.route)

    async def _serve_admitted(self, connection: Connection, handler: Serve) -> None:
        network = network_of(connection.address)
        self._open[network] += 1
        try:
            await handler(connection)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client is gone; there is nobody to tell
        except Exception:
            self.failed += 1
            _log.exception("connection_failed", client_address=connection.address)
        finally:
            self._open[network] -= 1
            if not self._open[network]:
                del self._open[network]


async def open_doors(addresses: Iterable[str], port: int) -> list[trio.SocketListener]:
    """Listen on a TCP port of every address.

    Raises:
        StartFailed: it cannot be had; says which, and what to do.

    """
    listeners: list[trio.SocketListener] = []
    for address in addresses:
        try:
            listeners += await trio.open_tcp_listeners(port, host=address, backlog=backlog)
        except OSError as error:
            for listener in listeners:
                await listener.aclose()
            raise StartFailed(
                "port_taken",
                f"cannot listen on TCP {address} port {port}: {error.strerror or error}. "
                f"{what_to_do(error)}",
            ) from error
    return listeners


def what_to_do(error: OSError) -> str:
    """Return the sentence that follows why an address or a port cannot be had."""
    if error.errno in no_such_address:
        return "Name only addresses that this machine has in the configuration."
    if error.errno == errno.EACCES:
        return (
            "Ports below 1024 need CAP_NET_BIND_SERVICE (systemd/moonhost-edge.service gives it), "
            "or set another port in the configuration."
        )
    return "Stop what uses it, or set another port in the configuration."
