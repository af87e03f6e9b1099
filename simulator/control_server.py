"""The host's control port: one UDP socket on which every client has its ENet connection.

A client's CONNECT is matched to its session; from then on its packets carry the peer number that
the host gave it. What arrives is encrypted under the session's key, and of all it says the host
heeds one wish: a new key frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from moonlight import enet
from moonlight.announce import Encryption
from moonlight.control import ControlCipher, ControlKind, termination_payload
from moonlight.enet_peer import Connected, Disconnected, EnetEvent, EnetPeer, Received
from moonlight.errors import ProtocolError
from simulator.config import HostConfig
from simulator.ids import SessionId
from simulator.matching import match_connect
from simulator.sessions import Session, SessionTable
from simulator.stream import Counters
from simulator.udp import Address, UdpPort

_URGENT_CHANNEL: Final = 1
"""Where hosts send what concerns the stream itself."""
_MIN_PEERS: Final = 64
"""Connections that a host has room for, or as many as it may have sessions."""
_IDLE_S: Final = 60.0
_WORD_INTERVAL_S: Final = 1.0

_IDR_WISHES: Final = (ControlKind.REQUEST_IDR, ControlKind.INVALIDATE_REFERENCE_FRAMES)

_log = structlog.get_logger("simulator.control")

Tell = Callable[[SessionId], None]


@dataclass(slots=True, eq=False)
class _Peer:
    """One client's connection."""

    session: SessionId
    address: Address
    enet: EnetPeer
    cipher: ControlCipher = field(repr=False)
    word_at: float = float("-inf")
    """When the client was last told whose control stream it has."""


class ControlServer:
    """All control connections of a host. Use inside `run`."""

    def __init__(self, config: HostConfig, sessions: SessionTable, counters: Counters) -> None:
        self._config = config
        self._sessions = sessions
        self._counters = counters
        self._peers: dict[int, _Peer] = {}
        self._port: UdpPort | None = None
        self._on_idr: Tell = _tell_nobody
        self._on_left: Tell = _tell_nobody
        self._waiting: trio.CancelScope | None = None
        self._due_at = 0.0
        """When connections have to be seen to even if nothing comes."""

    @property
    def port(self) -> int:
        """The UDP port that was taken."""
        if self._port is None:
            raise RuntimeError("the control port is used inside run()")
        return self._port.port

    async def run(
        self,
        on_idr: Tell,
        on_left: Tell,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve; `on_idr` is told who wants a key frame, `on_left` whose client has left."""
        self._on_idr, self._on_left = on_idr, on_left
        port = self._port = UdpPort(self._config.address, self._config.control_port)
        try:
            task_status.started()
            while True:
                with trio.move_on_at(self._due_at) as self._waiting:
                    for datagram, address in await port.receive():
                        self._receive(datagram, address)
                if trio.current_time() >= self._due_at:
                    self._let_time_pass()
        finally:
            port.close()

    def terminate(self, session_id: SessionId) -> None:
        """Tell the session's client that its session has ended, then say goodbye."""
        for peer in self._peers.values():
            if peer.session == session_id:
                if peer.enet.connected:
                    message = peer.cipher.seal(ControlKind.TERMINATION, termination_payload())
                    peer.enet.send(_URGENT_CHANNEL, message)
                peer.enet.disconnect()
        self._wake()

    def drop(self, session_id: SessionId) -> None:
        """Forget the session's client."""
        for number, peer in list(self._peers.items()):
            if peer.session == session_id:
                del self._peers[number]

    def _wake(self) -> None:
        """Send what is queued, and reckon anew when to wake up next."""
        self._due_at = trio.current_time()
        for peer in self._peers.values():
            self._send_due(peer)
        if self._waiting is not None:
            self._waiting.cancel()

    def _receive(self, datagram: bytes, address: Address) -> None:
        try:
            peer = self._peer_of(datagram, address)
            events = [] if peer is None else peer.enet.receive(datagram, _now_ms())
        except ProtocolError:
            self._counters.control_invalid += 1
            return
        if peer is not None:
            self._act(peer, events)
            # Only this one: looking at all of them for each datagram would cost their square.
            self._send_due(peer)
            self._due_at = min(self._due_at, _due_at(peer))
            if peer.enet.closed:
                self._peers = {n: other for n, other in self._peers.items() if other is not peer}

    def _peer_of(self, datagram: bytes, address: Address) -> _Peer | None:
        number = enet.peer_id(datagram)
        if number != enet.NO_PEER:
            peer = None if number is None else self._peers.get(number)
            return peer if peer is not None and peer.address == address else None
        data = enet.connect_data(datagram)
        if data is None:
            return None
        session_id = match_connect(
            self._sessions.claims(), data=data, source=address[0], traps=self._config.traps
        )
        session = self._sessions.get(session_id)
        if session is None:
            self._counters.control_unmatched += 1
            return None
        return self._welcome(session, address)

    def _welcome(self, session: Session, address: Address) -> _Peer | None:
        """The connection that a CONNECT belongs to: one that has begun already, or a new one."""
        for peer in self._peers.values():
            if peer.session == session.id and peer.address == address and not peer.enet.closed:
                return peer
        self.drop(session.id)
        numbers = range(max(_MIN_PEERS, self._config.max_sessions))
        free = next((number for number in numbers if number not in self._peers), None)
        if free is None:
            return None
        settings = session.settings
        second = settings is not None and settings.encryption_enabled & Encryption.CONTROL_V2
        cipher = ControlCipher(session.launch.rikey, "host", version=2 if second else 1)
        peer = _Peer(session.id, address, EnetPeer.server(free), cipher)
        self._peers[free] = peer
        return peer

    def _act(self, peer: _Peer, events: list[EnetEvent]) -> None:
        for event in events:
            match event:
                case Connected():
                    self._counters.control_connects += 1
                    self._give_word(peer)
                case Received(data=data):
                    self._hear(peer, data)
                case Disconnected(reason=reason):
                    _log.info("control_closed", session=peer.session, reason=reason)
                    if reason != "local":
                        # Whoever is told forgets this peer, and it still awaits our answer.
                        self._send_due(peer)
                        self._on_left(peer.session)

    def _hear(self, peer: _Peer, data: bytes) -> None:
        self._give_word(peer)
        try:
            kind, _ = peer.cipher.open(data)
        except ProtocolError:
            self._counters.control_invalid += 1
            return
        if kind in _IDR_WISHES:
            self._on_idr(peer.session)

    def _give_word(self, peer: _Peer) -> None:
        """Show a client of a load test, now and then, whose control stream it has.

        Only what is sealed does: whoever it is that sends here, this is the session's own key.
        """
        now = trio.current_time()
        if self._config.picture != "noise" or now < peer.word_at + _WORD_INTERVAL_S:
            return
        peer.word_at = now
        try:
            peer.enet.send(0, peer.cipher.seal(ControlKind.PERIODIC_PING))
        except ProtocolError:
            return  # it is closing, or does not acknowledge: ENet sees to that

    def _let_time_pass(self) -> None:
        """See to all connections: repeat what was lost, forget those that are over."""
        now = _now_ms()
        for peer in list(self._peers.values()):
            self._act(peer, peer.enet.tick(now))
        for number, peer in list(self._peers.items()):
            self._send_due(peer)
            if peer.enet.closed:
                del self._peers[number]
        idle = trio.current_time() + _IDLE_S
        self._due_at = min(map(_due_at, self._peers.values()), default=idle)

    def _send_due(self, peer: _Peer) -> None:
        if self._port is not None:
            self._port.send(peer.enet.datagrams(_now_ms()), peer.address)


def _due_at(peer: _Peer) -> float:
    """When a connection has to be seen to if nothing comes, in seconds of the clock."""
    timeout_ms = peer.enet.next_timeout(_now_ms())
    return trio.current_time() + (_IDLE_S if timeout_ms is None else timeout_ms / 1000)


def _now_ms() -> int:
    return int(trio.current_time() * 1000)


def _tell_nobody(_session: SessionId) -> None:
    return
