"""One UDP flow of a session at the edge: a socket to the client, a data WebSocket to the agent."""

from __future__ import annotations

import enum
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from moonlight.flows import Flow
from moonlight.shards import shard_of
from moonlight.video_encryption import ENCRYPTION_OVERHEAD_BYTES, VideoSealer
from proxy.control_proof import ControlTrail
from proxy.control_rtt import ControlWatch
from proxy.jitter import Jitter
from proxy.losses import FlowDrop, late
from proxy.roaming import PingTrail
from proxy.rtp_loss import SequenceGaps
from proxy.sessions import SessionId
from proxy.translation import Translation, UplinkDrop
from proxy.udp_port import Arrival, Endpoint, connect_socket
from revdial.backlog import Backlog, BacklogLimits, each_alone
from revdial.errors import DialRefused, TunnelError
from revdial.flow import DatagramChannel
from revdial.framing import Batch, Run, gather
from revdial.lateness import Lateness
from revdial.udp import DatagramSocket

_log = structlog.get_logger()

max_waiting_datagrams: Final = 16
min_rebind_interval_s: Final = 0.5
redial_pause_s: Final = 0.5
# After a client's goodbye the host's acknowledgement still has to reach it.
goodbye_linger_s: Final = 1.0

max_lateness_ms: Final = 200.0
"""More than the fastest took. A retransmission is not that late; what stood in a dead tunnel is."""
max_arriving_bytes: Final = 2**21

# Audio's parity packets (type 127) are numbered apart from its data packets (protocol.md §6).
_counted_payload_type: Final = {Flow.VIDEO: None, Flow.AUDIO: 97, Flow.CONTROL: None}

OpenChannel = Callable[[], Awaitable[DatagramChannel]]


class FlowEnd(enum.StrEnum):
    """Why a flow ended by itself."""

    CLIENT_LEFT = "client_left"
    CLIENT_SILENT = "client_silent"
    TUNNEL_GONE = "tunnel_gone"
    REFUSED = "refused_by_agent"
    FAILED = "failed"


@dataclass(slots=True)
class Carried:
    """What went through flows of one kind."""

    datagrams_to_client: int = 0
    bytes_to_client: int = 0
    datagrams_to_host: int = 0

    def add(self, flow: ClientFlow) -> None:
        """Add what went through a flow."""
        self.datagrams_to_client += flow.datagrams_to_client
        self.bytes_to_client += flow.bytes_to_client
        self.datagrams_to_host += flow.datagrams_to_host


class ClientFlow:
    """Carries one flow between its client and its host until one of them is gone.

    Args:
        session: whose flow it is.
        kind: video, audio or control.
        secret: what the client's first datagram has to carry: payload or connect data.
        client_address: the IP address that launched the session.
        translation: what to do to each datagram from the client.
        open_channel: opens the data WebSocket; may wait for the agent to come back.
        last_seen_at: where the client was when an earlier edge process carried this flow.
        on_bound: is told where the client is, each time that changes.
        silence_timeout_s: how long a bound client may send nothing, and an unbound one may take.
        tunnel_grace_s: how long to try to get a broken tunnel back.
        kbps: what the client asked of the host, as far as it is known; see `set_rate`.
        own_port: see `proxy.flow_table.Claimant`.
        sealer: encrypts what goes to the client; may be set, or replaced, at any time.
        trail: notes what is heard of the client, by which it is known again elsewhere.
        names: what the log knows the session by, besides its id.

    """

    def __init__(
        self,
        *,
        session: SessionId,
        kind: Flow,
        secret: str | int,
        client_address: str,
        translation: Translation,
        open_channel: OpenChannel,
        silence_timeout_s: float,
        tunnel_grace_s: float,
        last_seen_at: Endpoint | None = None,
        on_bound: Callable[[Endpoint], None] = lambda _: None,
        kbps: int | None = None,
        own_port: int | None = None,
        sealer: VideoSealer | None = None,
        trail: PingTrail | ControlTrail | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.names = {"session": session, **(names or {}), "flow": str(kind)}
        self.session = session
        self.kind = kind
        self.sealer = sealer
        self.secret = secret
        self.client_address = client_address
        self.last_seen_at = last_seen_at
        self.own_port = own_port
        self.bound_to: Endpoint | None = None
        self.trail = PingTrail() if trail is None else trail
        self.dropped: Counter[str] = Counter()
        self.gaps = SequenceGaps(_counted_payload_type[kind])
        self.jitter = Jitter()
        self.watch = ControlWatch() if kind is Flow.CONTROL else None
        self.datagrams_to_client = 0
        self.bytes_to_client = 0
        self.datagrams_to_host = 0
        self._lateness = Lateness()
        self._arriving = Backlog(
            BacklogLimits(max_lateness_ms, max_arriving_bytes), shard_of.get(kind, each_alone)
        )
        self._translation = translation
        self._open_channel = open_channel
        self._on_bound = on_bound
        self._silence_timeout_s = silence_timeout_s
        self._tunnel_grace_s = tunnel_grace_s
        self._socket: DatagramSocket | None = None
        self._local: Endpoint | None = None
        self._channel: DatagramChannel | None = None
        self._kbps = kbps
        self._bound = trio.Event()
        self._bound_at = -math.inf
        self._left = False
        self._waiting: deque[bytes] = deque(maxlen=max_waiting_datagrams)
        self._on_stray: Callable[[Arrival], None] = self._drop_stray

    def offer(self, arrival: Arrival) -> bool:
        """Take a datagram that proves this flow and came to the shared port.

        It binds the flow to where it came from. Returns False if that changes too often.
        """
        if (arrival.client, arrival.local) != (self.bound_to, self._local):
            now = trio.current_time()
            if now - self._bound_at < min_rebind_interval_s:
                return False
            self._bound_at = now
            self._bind(arrival)
        if self.bound_to == arrival.client:
            self.trail.note(arrival.datagram, trio.current_time())
        self._wait(arrival.datagram)
        return True

    def set_rate(self, kbps: int) -> None:
        """Note what the client asked of the host, for the agent to size its buffers by."""
        self._kbps = kbps
        if self._channel is not None:
            with suppress(TunnelError):  # it will be told over the next one
                self._channel.tell_rate(kbps)

    def drops(self) -> Counter[str]:
        """Return what this flow did not carry on, by reason, as of now."""
        sockets = Counter(self.dropped)
        if self._socket is not None:
            _count_socket(sockets, self._socket)
        for drop, datagrams in self._arriving.dropped.items():
            sockets[late(drop)] += datagrams
        return sockets

    def _bind(self, arrival: Arrival) -> None:
        before, old = self.bound_to, self._socket
        self.bound_to = arrival.client
        try:
            # A fresh socket even when moving: what is queued in the old one is the old peer's.
            self._socket = DatagramSocket(
                connect_socket(arrival.local, arrival.client, self._stray_or_own)
            )
        except OSError as error:
            self.bound_to = before
            self.dropped[FlowDrop.CANNOT_BIND] += 1
            _log.warning("flow_not_bound", **self.names, why=error.strerror)
            return
        self._local = arrival.local
        if old is not None:
            _count_socket(self.dropped, old)
            old.close()
        if before is None:
            _log.info("flow_bound", **self.names, client_address=str(arrival.client))
        else:
            _log.info("flow_moved", **self.names, client_address=str(arrival.client))
        self._bound.set()
        self._on_bound(arrival.client)

    def _stray_or_own(self, arrival: Arrival) -> None:
        if arrival.client == self.bound_to:
            self._wait(arrival.datagram)
        else:
            self._on_stray(arrival)

    def _wait(self, datagram: bytes) -> None:
        if len(self._waiting) == max_waiting_datagrams:
            self.dropped[FlowDrop.WAITING_TOO_LONG] += 1
        self._waiting.append(datagram)

    def _drop_stray(self, _: Arrival) -> None:
        self.dropped[FlowDrop.STRAY] += 1

    async def run(self, on_stray: Callable[[Arrival], None]) -> FlowEnd:
        """Carry datagrams both ways; return why it ended. Cancelling closes everything.

        Args:
            on_stray: takes what the kernel handed to this flow's socket while it was being bound.

        """
        self._on_stray = on_stray
        next_dial_at = -math.inf
        try:
            while True:
                # A tunnel that takes every dial and breaks it at once must not keep us busy.
                await trio.sleep_until(max(next_dial_at, trio.current_time()))
                next_dial_at = trio.current_time() + redial_pause_s
                try:
                    with trio.fail_after(self._tunnel_grace_s):
                        channel = await self._dial()
                except trio.TooSlowError:
                    return FlowEnd.TUNNEL_GONE
                except DialRefused as error:
                    return self._refused(error)
                async with channel:
                    self._channel = channel
                    # Another process may be at its other end, with another clock.
                    self._lateness = Lateness()
                    self.jitter.restart()
                    if self._kbps is not None:
                        self.set_rate(self._kbps)
                    end = await self._carry(channel)
                    self._channel = None
                if end is not None:
                    return end
                self.dropped[FlowDrop.TUNNEL_BROKE] += 1
        finally:
            if self._socket is not None:
                self._socket.close()

    def _refused(self, error: DialRefused) -> FlowEnd:
        _log.warning("flow_refused", **self.names, reason=error.reason, why=str(error))
        return FlowEnd.REFUSED

    async def _dial(self) -> DatagramChannel:
        while True:
            try:
                return await self._open_channel()
            except DialRefused:
                raise
            except TunnelError:
                await trio.sleep(redial_pause_s)

    async def _carry(self, channel: DatagramChannel) -> FlowEnd | None:
        """Run both directions until one ends; None if that was the tunnel's doing."""
        end: FlowEnd | None = None

        async def until_done(direction: Callable[[DatagramChannel], Awaitable[FlowEnd]]) -> None:
            nonlocal end
            try:
                end = await direction(channel)
            except TunnelError as error:
                end = None
                if isinstance(error.__cause__, DialRefused):
                    # Only found out once the connection was there.
                    end = self._refused(error.__cause__)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_done, self._to_host)
            nursery.start_soon(until_done, self._to_client)
        return end

    async def _to_client(self, channel: DatagramChannel) -> FlowEnd:
        while True:
            batch = await channel.receive_batch()
            socket = self._socket
            if socket is None:
                self.dropped[FlowDrop.NOT_BOUND] += sum(map(len, batch.runs))
                continue
            if self.watch is not None:
                now_s = trio.current_time()
                for datagram in batch.datagrams():
                    self.watch.to_client(datagram, now_s)
            else:
                # Before anything is left out here: these are the losses before the tunnel.
                for run in batch.runs:
                    self.gaps.note_run(run.data, run.segment_size)
            for run in map(self._sealed, self._fresh(batch)):
                socket.send_runs((run,))
                self.datagrams_to_client += len(run)
                self.bytes_to_client += len(run.data)

    def _fresh(self, batch: Batch) -> Iterable[Run]:
        """Return what of a batch is worth showing: after a stall the tunnel brings old frames."""
        if self.kind is Flow.CONTROL:
            return batch.runs
        now_s = trio.current_time()
        self.jitter.note(batch.microseconds, now_s)
        # As if it had waited here for as long as it is late; the rules are those of the agent.
        self._arriving.push(batch.runs, now_s - self._lateness.note(batch.microseconds, now_s))
        runs: list[Run] = []
        while some := self._arriving.pop(now_s):
            runs += some
        return runs

    def _sealed(self, run: Run) -> Run:
        """Encrypt a run where that is due; an empty datagram has nothing to hide."""
        if self.sealer is None or not run.segment_size:
            return run
        sealed = self.sealer.seal(run.data, run.segment_size)
        return Run(run.segment_size + ENCRYPTION_OVERHEAD_BYTES, memoryview(sealed))

    async def _to_host(self, channel: DatagramChannel) -> FlowEnd:
        with trio.move_on_after(self._silence_timeout_s):
            await self._bound.wait()
        if not self._bound.is_set():
            return FlowEnd.CLIENT_SILENT
        while not self._left:
            self._forward(channel, self._take_waiting())
            runs: list[Run] = []
            with trio.move_on_after(self._silence_timeout_s) as silence:
                runs = await self._receive()
            if silence.cancelled_caught and not self._waiting:
                return FlowEnd.CLIENT_SILENT
            self._forward(channel, (bytes(view) for run in runs for view in run.datagrams()))
        await trio.sleep(goodbye_linger_s)
        return FlowEnd.CLIENT_LEFT

    def _take_waiting(self) -> list[bytes]:
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    async def _receive(self) -> list[Run]:
        assert self._socket is not None  # noqa: S101 - bound once, it always has one
        try:
            return await self._socket.receive_batch()
        except trio.ClosedResourceError:  # the flow moved to a new socket meanwhile
            return []

    def _forward(self, channel: DatagramChannel, datagrams: Iterable[bytes]) -> None:
        translated: list[bytes] = []
        for datagram in datagrams:
            result = self._translation.to_host(datagram)
            if isinstance(result, UplinkDrop):
                self.dropped[result] += 1
            else:
                translated.append(result)
                now_s = trio.current_time()
                self.trail.note(datagram, now_s)
                if self.watch is not None:
                    self._left |= self.watch.to_host(result, now_s)
        if translated:
            channel.send_batch(gather(translated))
            self.datagrams_to_host += len(translated)


def _count_socket(dropped: Counter[str], socket: DatagramSocket) -> None:
    counters = socket.counters
    dropped[FlowDrop.SOCKET_FULL] += counters.send_would_block
    dropped[FlowDrop.CLIENT_REFUSED] += counters.send_refused
    dropped[FlowDrop.UNREACHABLE] += counters.send_failed + counters.send_too_large
