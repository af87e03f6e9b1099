"""The light client's control stream: ENet over a UDP socket, sealed under the session's key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio

from moonlight.control import ControlCipher, ControlKind, termination_reason
from moonlight.enet_peer import Connected, Disconnected, EnetEvent, EnetPeer, Received
from moonlight.errors import AuthenticationFailed, ProtocolError
from simulator.light_errors import ClientFailed
from simulator.light_figures import RoundTrips
from simulator.light_udp import LightSocket
from simulator.ownership import Whose

CONNECT_TIMEOUT_S: Final = 10.0
LEAVE_TIMEOUT_S: Final = 1.0
PING_INTERVAL_S: Final = 0.1
"""Moonlight's, with a reliable message each time."""
_GENERIC_CHANNEL: Final = 0
_URGENT_CHANNEL: Final = 1
_PING: Final = b"\4\0\0\0\0\0\0\0"
_BEGIN: Final = ((ControlKind.REQUEST_IDR, b"\0\0"), (ControlKind.START_B, b"\0"))
_GONE: Final = {
    "timeout": ("control_timeout", "The host has not acknowledged the control stream for 10 s."),
    "refused": ("control_refused", "The host refused the control connection."),
    "remote": ("ended_by_host", "The host ended the control connection."),
    "local": ("left", "The client left."),
}


class LightControl:
    """One connection: `connect`, then `run` in a task, at last `leave`."""

    def __init__(
        self,
        socket: LightSocket,
        peer: EnetPeer,
        cipher: ControlCipher,
        *,
        ping_interval_s: float = PING_INTERVAL_S,
    ) -> None:
        self._socket = socket
        self._peer = peer
        self._cipher = cipher
        self._ping_interval_s = ping_interval_s
        self.round_trips = RoundTrips()
        self._own = 0
        self.foreign = 0
        """Messages that another session's key has sealed."""

    @property
    def whose(self) -> Whose:
        """Whose the host's messages were: an acknowledgement alone names nobody."""
        unnamed = 0 if self._own or not self._peer.connected else 1
        return Whose.judge(own=self._own, foreign=self.foreign, unnamed=unnamed)

    async def connect(self) -> None:
        """Connect, and ask for the stream to begin. Raises `ClientFailed`."""
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            self._flush()
            while not self._peer.connected:
                self._heed(await self._events(trio.current_time() + CONNECT_TIMEOUT_S))
        if not self._peer.connected:
            message = f"The control stream was not connected in {CONNECT_TIMEOUT_S:g} s."
            raise ClientFailed("control_connect_timeout", message)
        for kind, payload in _BEGIN:
            self._send(_GENERIC_CHANNEL, kind, payload)
        self._flush()

    async def run(self) -> None:
        """Keep the connection alive as Moonlight does; raises `ClientFailed` when it is over."""
        next_ping = trio.current_time()
        while True:
            if trio.current_time() >= next_ping:
                self._send(_GENERIC_CHANNEL, ControlKind.PERIODIC_PING, _PING)
                self._flush()
                next_ping = max(next_ping + self._ping_interval_s, trio.current_time())
            self._heed(await self._events(next_ping))

    def request_idr(self) -> None:
        """Ask for a frame that a decoder can begin with."""
        if self._peer.connected:
            self._send(_URGENT_CHANNEL, ControlKind.REQUEST_IDR, b"\0\0")
            self._flush()

    async def leave(self) -> None:
        """Say goodbye and wait a moment for the answer. Not while `run` runs."""
        self._peer.disconnect()
        self._flush()
        with trio.move_on_after(LEAVE_TIMEOUT_S):
            while not self._peer.closed:
                await self._events(trio.current_time() + LEAVE_TIMEOUT_S)

    def _send(self, channel: int, kind: ControlKind, payload: bytes) -> None:
        try:
            self._peer.send(channel, self._cipher.seal(kind, payload))
        except ProtocolError as error:
            raise ClientFailed("control_stuck", f"The control stream is stuck: {error}") from error

    async def _events(self, until: float) -> list[EnetEvent]:
        """Wait for datagrams until a time at most, and tell what came of them and of time."""
        timeout_ms = self._peer.next_timeout(_now_ms())
        if timeout_ms is not None:
            until = min(until, trio.current_time() + timeout_ms / 1000)
        with trio.move_on_at(until):
            await self._socket.readable()
        now = trio.current_time()
        events: list[EnetEvent] = []
        for datagram in self._socket.drain():
            try:
                self.round_trips.received(datagram, now)
                events += self._peer.receive(datagram, _now_ms())
            except ProtocolError:
                continue  # no ENet, so nobody's
        events += self._peer.tick(_now_ms())
        self._flush()
        return events

    def _heed(self, events: Iterable[EnetEvent]) -> None:
        for event in events:
            match event:
                case Connected():
                    pass
                case Received(data=data):
                    self._hear(data)
                case Disconnected(reason=reason):
                    raise ClientFailed(*_GONE[reason])

    def _hear(self, data: bytes) -> None:
        try:
            kind, payload = self._cipher.open(data)
        except AuthenticationFailed:
            self.foreign += 1
            return
        except ProtocolError:
            return
        self._own += 1
        if kind == ControlKind.TERMINATION:
            reason = termination_reason(payload) if len(payload) > 1 else 0
            raise ClientFailed("ended_by_host", f"The host ended the session ({reason:#010x}).")

    def _flush(self) -> None:
        now = trio.current_time()
        for datagram in self._peer.datagrams(_now_ms()):
            self.round_trips.sent(datagram, now)
            self._socket.send(datagram)


def _now_ms() -> int:
    return int(trio.current_time() * 1000)
