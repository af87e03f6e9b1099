"""The host's pairings: attempts that wait for their PIN, go on, or were left behind.

An attempt is known by the client's uniqueid and source address, as Wolf has it. All Moonlights
share one uniqueid, so two of them behind one router, or behind one agent, are one to the host:
`Traps` says what comes of that.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog
import trio

from moonlight.errors import ProtocolError
from moonlight.http import Query
from moonlight.identity import ClientId, PeerCertificate
from moonlight.pairing import (
    PairingOutcome,
    PairingServer,
    PairingState,
    client_introduction,
    pair_refused,
)
from moonlight.xml import Answer
from simulator.config import HostConfig
from simulator.http_shell import HttpPeer
from simulator.state import HostState

_HANDSHAKE_TIMEOUT_S: Final = 10.0
"""How long the next in line waits for an attempt that has its PIN and does not go on."""

_log = structlog.get_logger("simulator.pairing")


class _Key(NamedTuple):
    unique_id: str
    source: str


@dataclass(frozen=True, slots=True)
class PendingPairing:
    """An attempt that waits for its PIN. Whoever knows `secret` may give it."""

    secret: str = field(repr=False)
    client_address: str


@dataclass(slots=True, eq=False)
class _Attempt:
    key: _Key
    server: PairingServer
    pin_known: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def waits_for_pin(self) -> bool:
        return self.server.state is PairingState.WAITING_FOR_PIN


class PairingDesk:
    """All pairing attempts of one host."""

    def __init__(self, state: HostState, config: HostConfig) -> None:
        self._state = state
        self._traps = config.traps
        self._pin_timeout_s = config.pin_timeout_s
        self._max_pairings = config.max_pairings
        self._attempts: dict[_Key, _Attempt] = {}
        self._pending: dict[str, _Attempt] = {}
        self._aborted: set[_Key] = set()
        self._left_behind: dict[_Key, bool] = {}
        """Attempts that stay though their clients have left, and whether they have had a PIN."""

    @property
    def clients(self) -> Mapping[ClientId, PeerCertificate]:
        """Who is paired."""
        return self._state.clients

    def pending(self) -> tuple[PendingPairing, ...]:
        """The attempts that wait for their PIN, the oldest first."""
        return tuple(
            PendingPairing(secret, attempt.key.source) for secret, attempt in self._pending.items()
        )

    def confirm(self, secret: str, pin: str) -> bool:
        """Give an attempt its PIN; False where none waits under that secret, or it is no PIN."""
        attempt = self._pending.get(secret)
        if attempt is None:
            return False
        try:
            attempt.server.provide_pin(pin)
        except ProtocolError:
            return False
        attempt.pin_known.set()
        return True

    def confirm_first(self, pin: str) -> bool:
        """Give a PIN to whichever attempt there is, as Sunshine does: perhaps one left behind."""
        if self._pending:
            return self.confirm(next(iter(self._pending)), pin)
        for key, had_pin in self._left_behind.items():
            if had_pin:
                del self._left_behind[key]
                return False
            self._left_behind[key] = True
            return True
        return False

    async def begin(self, query: Query, peer: HttpPeer) -> Answer | None:
        """Phase 1: hold the answer until the PIN is known. None where the client has left."""
        key = self._key(query, peer)
        if self._refuses(key):
            return pair_refused("Out of order")
        if len(self._pending) >= self._max_pairings:
            return pair_refused("Too many pairings at a time")
        attempt = _Attempt(key, PairingServer(self._state.identity))
        try:
            attempt.server.begin(*client_introduction(query))
            with trio.move_on_after(self._pin_timeout_s):
                if await _while_there(peer, lambda: self._wait_for_pin(attempt)):
                    if self._left_behind.pop(key, None) is not None:
                        self._forget(attempt)
                        return pair_refused("Out of order")
                    return attempt.server.handle(query)
        except ProtocolError as error:
            self._forget(attempt)
            return pair_refused(str(error))
        self._forget(attempt)
        if self._traps.refuses_after_abort and len(self._aborted) < self._max_pairings:
            self._aborted.add(key)
        if self._traps.pairing_by_unique_id and len(self._left_behind) < self._max_pairings:
            self._left_behind.setdefault(key, False)
        return None

    def advance(self, query: Query, peer: HttpPeer) -> Answer:
        """Phases 2 to 4. Raises nothing: what is out of order is refused and ends the attempt."""
        attempt = self._attempts.get(self._key(query, peer))
        if attempt is None or attempt.waits_for_pin:
            return pair_refused("Out of order")
        try:
            answer = attempt.server.handle(query)
        except ProtocolError as error:
            _log.info("pairing_failed", reason=error.reason, client_address=peer.source)
            self._forget(attempt)
            return pair_refused(str(error))
        outcome = attempt.server.outcome
        if outcome is not None:
            _log.info("pairing_ended", outcome=str(outcome), client_address=peer.source)
            self._forget(attempt)
        if outcome is PairingOutcome.PAIRED:
            self._state.add_client(attempt.server.client)
        return answer

    def forget(self, query: Query, peer: HttpPeer) -> None:
        """Drop this client's attempt, if there is one (/unpair)."""
        attempt = self._attempts.get(self._key(query, peer))
        if attempt is not None:
            self._forget(attempt)

    def _key(self, query: Query, peer: HttpPeer) -> _Key:
        source = "anywhere" if self._traps.pairing_by_unique_id else peer.source
        return _Key((query.get("uniqueid") or "")[:64], source)

    def _refuses(self, key: _Key) -> bool:
        """Whether this phase 1 pays for an attempt that was left behind."""
        if not self._traps.refuses_after_abort:
            return False
        earlier = self._attempts.get(key)
        if earlier is not None and not earlier.waits_for_pin:
            self._forget(earlier)
            return True
        aborted = key in self._aborted
        self._aborted.discard(key)
        return aborted

    async def _wait_for_pin(self, attempt: _Attempt) -> None:
        if not self._traps.pairing_overwritten:
            await self._wait_for_turn(attempt.key)
        if len(self._attempts) >= self._max_pairings:
            self._forget(next(iter(self._attempts.values())))
        self._attempts[attempt.key] = attempt
        secret = secrets.token_hex(8).upper()
        self._pending[secret] = attempt
        _log.info("pairing_waits_for_pin", client_address=attempt.key.source)
        try:
            await attempt.pin_known.wait()
        finally:
            del self._pending[secret]

    async def _wait_for_turn(self, key: _Key) -> None:
        while (earlier := self._attempts.get(key)) is not None:
            if earlier.waits_for_pin:
                await earlier.pin_known.wait()
            with trio.move_on_after(_HANDSHAKE_TIMEOUT_S):
                await earlier.over.wait()
            self._forget(earlier)

    def _forget(self, attempt: _Attempt) -> None:
        if self._attempts.get(attempt.key) is attempt:
            del self._attempts[attempt.key]
        attempt.pin_known.set()  # nobody need wait for it any longer
        attempt.over.set()


async def _while_there(peer: HttpPeer, wait: Callable[[], Awaitable[None]]) -> bool:
    """Wait for something on behalf of a client; False if the client left first."""
    finished = False
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await peer.left()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await wait()
        finished = True
        nursery.cancel_scope.cancel()
    return finished
