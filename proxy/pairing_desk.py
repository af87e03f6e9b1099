"""Clients that want to be paired with the edge, and the person who tells their PIN.

A client's first request is held open until its PIN is told; the three that follow come within
moments, each on a connection of its own, and name nobody but the constant ``uniqueid``. Several
clients behind one address can therefore wait at once, but only one of them may be past its PIN at
a time: the next PIN for that address waits until the former attempt has ended.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NewType

import structlog
import trio

from moonlight.errors import ProtocolError, printable
from moonlight.http import Query
from moonlight.identity import Identity
from moonlight.pairing import PairingOutcome, PairingServer, PairingState, client_introduction
from moonlight.xml import Answer
from proxy.errors import Refused
from proxy.events import EventKind, Events
from proxy.outcomes import PairingEnd
from revdial.networks import network_of

_log = structlog.get_logger()

AttemptId = NewType("AttemptId", str)

phases_timeout_s: Final = 15.0
_id_bytes: Final = 4


@dataclass(slots=True)
class Attempt:
    """One client that waits for its PIN, or is past it."""

    id: AttemptId
    address: str
    unique_id: str
    device: str
    machine: PairingServer = field(repr=False)
    asked_at: datetime
    user: str | None = None
    """Whose device it is, as who told the PIN says."""
    pin_told: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def key(self) -> tuple[str, str]:
        """What the requests after the first can be told by."""
        return self.address, self.unique_id


class PairingDesk:
    """Holds pending attempts; both the clients' requests and the PINs come here.

    `events` is told who asks, and what comes of it.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        max_pending: int,
        max_pending_per_address: int,
        pin_timeout_s: float,
        events: Events | None = None,
    ) -> None:
        self._identity = identity
        self.apply(
            max_pending=max_pending,
            max_pending_per_address=max_pending_per_address,
            pin_timeout_s=pin_timeout_s,
        )
        self._events = events or Events()
        self._pending: dict[AttemptId, Attempt] = {}
        self._past_pin: dict[tuple[str, str], Attempt] = {}
        self.ended: Counter[str] = Counter()
        """Pairings that are over, by one of `proxy.outcomes.PAIRING_ENDS`."""

    def apply(
        self, *, max_pending: int, max_pending_per_address: int, pin_timeout_s: float
    ) -> None:
        """Set other limits, for attempts that begin from now on."""
        self._max_pending = max_pending
        self._max_pending_per_address = max_pending_per_address
        self._pin_timeout_s = pin_timeout_s

    def pending(self) -> list[Attempt]:
        """Return the attempts that wait for their PIN, oldest first."""
        return [
            attempt
            for attempt in self._pending.values()
            if attempt.machine.state is PairingState.WAITING_FOR_PIN
        ]

    async def introduce(self, address: str, query: Query) -> Answer:
        """Wait until a client's PIN is told and give the answer to its first request.

        The attempt is forgotten if the caller is cancelled before that, as when the client hangs
        up. The same client asking anew replaces its former attempt.

        Raises:
            Refused: too many wait, or nobody told the PIN in time.
            ProtocolError: the request is not a valid first step.

        """
        attempt = self._begin(address, query)
        try:
            with trio.move_on_after(self._pin_timeout_s):
                await attempt.pin_told.wait()
            if not attempt.pin_told.is_set():
                raise Refused(408, "pin_timeout", "Nobody confirmed the PIN in time. Try again.")
            if attempt.ended.is_set():
                raise Refused(400, "pairing_refused", "The pairing was refused.")
            return attempt.machine.handle(query)
        except BaseException:
            self._end(attempt, PairingEnd.GIVEN_UP)
            raise

    def _begin(self, address: str, query: Query) -> Attempt:
        salt, certificate = client_introduction(query)
        for former in list(self._pending.values()):
            if former.machine.client.id == certificate.id and former.address == address:
                self._end(former, PairingEnd.REPLACED)
        network = network_of(address)
        from_there = sum(
            network_of(attempt.address) == network for attempt in self._pending.values()
        )
        if len(self._pending) >= self._max_pending or from_there >= self._max_pending_per_address:
            self.ended[PairingEnd.TURNED_AWAY] += 1
            raise Refused(
                503, "too_many_pairings", "Too many devices wait to be paired. Try again later."
            )
        machine = PairingServer(self._identity)
        machine.begin(salt, certificate)
        attempt = Attempt(
            id=AttemptId(secrets.token_hex(_id_bytes)),
            address=address,
            unique_id=query.get("uniqueid") or "",
            device=printable(query.get("devicename") or "", 40),
            machine=machine,
            asked_at=datetime.now(UTC),
        )
        self._pending[attempt.id] = attempt
        self._events.keep(
            EventKind.PAIRING_ASKED, attempt.id, address=address, device=attempt.device
        )
        _log.info("pairing_asked_for", request=attempt.id, client_address=address)
        return attempt

    async def confirm(
        self, attempt_id: AttemptId, pin: str, *, user: str | None = None
    ) -> PairingOutcome:
        """Tell the PIN that a client shows, and whose it is; return how the pairing ended.

        Raises:
            Refused: no such attempt, or the client did not go on in time.
            ProtocolError: that cannot be a PIN.

        """
        attempt = self._pending.get(attempt_id)
        if attempt is None or attempt.pin_told.is_set():
            raise Refused(404, "no_such_pairing", f"No device waits under {printable(attempt_id)}.")
        with trio.move_on_after(2 * phases_timeout_s):
            while (before := self._past_pin.get(attempt.key)) is not None:
                await before.ended.wait()
            if attempt.ended.is_set() or attempt.pin_told.is_set():
                raise Refused(409, "pairing_gone", "The device gave up before its PIN was told.")
            attempt.machine.provide_pin(pin)
            attempt.user = user
            self._past_pin[attempt.key] = attempt
            attempt.pin_told.set()
            try:
                with trio.move_on_after(phases_timeout_s):
                    await attempt.ended.wait()
            finally:
                self._end(attempt, PairingEnd.NOT_FINISHED)
        if attempt.machine.outcome is None:
            raise Refused(504, "pairing_not_finished", "The device did not finish the pairing.")
        return attempt.machine.outcome

    def refuse(self, attempt_id: AttemptId) -> bool:
        """Turn a waiting client away; False if there is none under that id."""
        attempt = self._pending.get(attempt_id)
        if attempt is None:
            return False
        self._end(attempt, PairingEnd.REFUSED)
        return True

    def go_on(self, address: str, query: Query) -> tuple[Answer, Attempt]:
        """Answer a step after the first; the attempt's `outcome` tells whether it was the last.

        The caller stores a client that is paired and then calls `finish`.

        Raises:
            ProtocolError: no attempt, a step out of order, or one that is malformed; the attempt
                is forgotten.

        """
        attempt = self._past_pin.get((address, query.get("uniqueid") or ""))
        if attempt is None:
            raise Refused(400, "no_pairing", "Start the pairing anew: none is under way.")
        try:
            answer = attempt.machine.handle(query)
        except ProtocolError:
            self._end(attempt, PairingEnd.BROKEN_OFF)
            raise
        return answer, attempt

    def finish(self, attempt: Attempt) -> None:
        """End an attempt that has its outcome, and wake whoever told the PIN."""
        self._end(attempt, attempt.machine.outcome or PairingEnd.GIVEN_UP)

    def give_up(self, address: str, query: Query) -> None:
        """End what a client that calls ``/unpair`` has under way: so it says that it failed.

        A client that was given a wrong PIN finds out by itself, before it shows its own secret.
        """
        attempt = self._past_pin.get((address, query.get("uniqueid") or ""))
        if attempt is not None:
            if attempt.machine.state is PairingState.SECRET_SENT:
                attempt.machine.outcome = PairingOutcome.WRONG_PIN
            self._end(attempt, attempt.machine.outcome or PairingEnd.GIVEN_UP)

    def _end(self, attempt: Attempt, how: PairingEnd | PairingOutcome) -> None:
        if attempt.ended.is_set():
            return
        self.ended[how] += 1
        attempt.ended.set()
        attempt.pin_told.set()  # so that its first request is not held open any longer
        self._pending.pop(attempt.id, None)
        if self._past_pin.get(attempt.key) is attempt:
            del self._past_pin[attempt.key]
        self._events.keep(
            EventKind.PAIRING_ENDED, attempt.id, address=attempt.address, outcome=str(how)
        )
        _log.info(
            "pairing_ended", request=attempt.id, client_address=attempt.address, outcome=str(how)
        )
