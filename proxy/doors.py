"""The TCP ports that clients come to: accepts, counts, bounds and serves connections."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

import structlog
import trio

from proxy.errors import StartFailed
from revdial.networks import network_of

_log = structlog.get_logger()

backlog: Final = 1_024
# accept() failing for want of descriptors would spin: wait this long instead.
accept_pause_s: Final = 0.1
_no_descriptors: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class Connection:
    """One accepted connection and its addresses, IPv4 as IPv4 also on IPv6 sockets."""

    stream: trio.SocketStream
    address: str
    local_address: str
    local_port: int


Serve = Callable[[Connection], Awaitable[None]]


class Doors:
    """Accepts connections on many ports within one bound on how many there are at once."""

    def __init__(self, *, max_connections: int, max_connections_per_address: int) -> None:
        self._max_connections = max_connections
        self._max_per_address = max_connections_per_address
        self._open: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    @property
    def open_connections(self) -> int:
        """How many connections are served now."""
        return self._open.total()

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
                    self.refused["no_descriptors"] += 1
                    await trio.sleep(accept_pause_s)
                    continue
                nursery.start_soon(self._serve_one, stream, handler)

    async def _serve_one(self, stream: trio.SocketStream, handler: Serve) -> None:
        async with stream:
            try:
                peer, local = stream.socket.getpeername(), stream.socket.getsockname()
            except OSError:  # it has gone already
                return
            connection = Connection(stream, _plain(peer[0]), _plain(local[0]), local[1])
            if self.open_connections >= self._max_connections:
                self.refused["too_many_connections"] += 1
            elif self._open[network_of(connection.address)] >= self._max_per_address:
                self.refused["too_many_from_address"] += 1
            else:
                await self._serve_admitted(connection, handler)

    async def _serve_admitted(self, connection: Connection, handler: Serve) -> None:
        network = network_of(connection.address)
        self._open[network] += 1
        try:
            await handler(connection)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client is gone; there is nobody to tell
        except Exception:
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
                "Stop what uses it, or set another port in the configuration.",
            ) from error
    return listeners


def _plain(address: str) -> str:
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)
