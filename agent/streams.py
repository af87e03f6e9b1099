"""Byte streams between the tunnel and a host: HTTP, HTTPS and RTSP, both ways with half-close."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import trio

from agent.addresses import SourceAddresses
from agent.config import LimitsConfig
from agent.targets import Target
from revdial.errors import DialRefused

_PIECE_BYTES = 65_536


class StreamRelay:
    """Joins streams of the tunnel to hosts; at most `limits.max_streams` at once."""

    def __init__(self, addresses: SourceAddresses, limits: LimitsConfig) -> None:
        self._addresses = addresses
        self._limits = limits
        self.open_streams = 0
        self._sent: Counter[str] = Counter()

    def has_sent(self, origin: str) -> bool:
        """Tell whether an open stream of that origin has brought a host anything yet."""
        return self._sent[origin] > 0

    async def serve(
        self, target: Target, origin: str, tunnel: trio.abc.HalfCloseableStream
    ) -> None:
        """Connect to the host and copy until both directions have ended, or one breaks.

        Raises `DialRefused` where the host cannot be reached. Nothing is said for
        `stream_idle_timeout_s`: then the stream is given up.
        """
        if self.open_streams >= self._limits.max_streams:
            raise DialRefused("too_many_streams", f"more than {self._limits.max_streams} streams")
        self.open_streams += 1
        try:
            with ExitStack() as leases:
                source = None
                if target.host.takes_source_addresses:
                    source = leases.enter_context(self._addresses.lease(origin))

                def on_sent() -> None:
                    self._sent[origin] += 1
                    leases.callback(self._forget_sent, origin)

                async with await self._connect(target, source) as host:
                    await _copy_both(tunnel, host, self._limits.stream_idle_timeout_s, on_sent)
        finally:
            self.open_streams -= 1

    def _forget_sent(self, origin: str) -> None:
        self._sent[origin] -= 1
        if not self._sent[origin]:
            del self._sent[origin]

    async def _connect(self, target: Target, source: str | None) -> trio.SocketStream:
        try:
            with trio.fail_after(self._limits.connect_timeout_s):
                return await trio.open_tcp_stream(target.address, target.port, local_address=source)
        except trio.TooSlowError:
            raise DialRefused(
                "host_timeout",
                f"port {target.port} of {target.host.name} did not answer within "
                f"{self._limits.connect_timeout_s:g} s",
            ) from None
        except OSError as error:
            raise DialRefused(
                "host_unreachable", f"port {target.port} of {target.host.name} does not answer"
            ) from error


async def _copy_both(
    tunnel: trio.abc.HalfCloseableStream,
    host: trio.abc.HalfCloseableStream,
    idle_timeout_s: float,
    on_sent: Callable[[], None],
) -> None:
    """Copy both ways; `on_sent` hears of the first bytes that the host has been sent."""
    with trio.move_on_after(idle_timeout_s) as idle:

        async def copy(
            source: trio.abc.ReceiveStream,
            sink: trio.abc.HalfCloseableStream,
            tell: Callable[[], None] | None = None,
        ) -> None:
            try:
                while piece := await source.receive_some(_PIECE_BYTES):
                    idle.deadline = trio.current_time() + idle_timeout_s
                    await sink.send_all(piece)
                    if tell is not None:
                        tell()
                        tell = None
                await sink.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # Nothing that could be told to the other side but the end of the stream.
                idle.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy, tunnel, host, on_sent)
            nursery.start_soon(copy, host, tunnel)
