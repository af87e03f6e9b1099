"""Keeps sessions from being mixed up at hosts that cannot tell them apart (see `backends`).

At such a host one session at a time is set up, or only one is there at all. Who cannot be told
apart is refused: a guess would hand one player's stream to another.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from backends.model import BackendId
from backends.telling_apart import Telling
from proxy.errors import HostUnavailable
from proxy.fleet import Fleet
from proxy.keyed_locks import KeyedLocks
from proxy.sessions import Session, SessionId, SessionState, SessionTable
from proxy.turns import Turns

_in_handshake: Final = SessionState.LAUNCHED


class KeptApart(enum.StrEnum):
    """Why a host was spared a launch, a resume or a message of a handshake."""

    OUT_OF_TURN = "handshake_out_of_turn"
    NO_TURN = "no_turn_at_host"
    NOT_TOLD_APART = "sessions_not_told_apart"


class KeepingApart:
    """What may happen at a host now, as far as mistaking one session for another goes.

    Args:
        fleet: knows what hosts can tell apart.
        table: the sessions.

    """

    def __init__(self, fleet: Fleet, table: SessionTable) -> None:
        self._fleet = fleet
        self._table = table
        self._turns = Turns()
        self._queues: KeyedLocks[BackendId] = KeyedLocks()
        self._given_back = trio.Event()
        self.refused: Counter[str] = Counter()
        """Launches, resumes and messages of handshakes that a host was spared, by reason."""

    @asynccontextmanager
    async def starting(
        self, backend: BackendId, session: SessionId, *, timeout_s: float
    ) -> AsyncIterator[Callable[[str], None]]:
        """Let a session be launched or resumed in a block, in its turn where there are turns.

        The block calls what it is given with the host text of the host's ``sessionUrl0``. The turn
        goes on until `over`, unless the block raises.

        Raises:
            HostUnavailable: others held the turn for `timeout_s`, or the host has named this
                session as it has named another one of ours.

        """
        if self._fleet.telling(backend) is Telling.IN_TURN:
            self._recall(backend)
            await self._wait_for_turn(backend, session, timeout_s)
        try:
            # Others may have shown meanwhile that it cannot tell sessions apart.
            self._check_alone(backend, session)
            yield lambda label: self._launched(backend, session, label)
        except BaseException:
            self.over(backend, session)
            raise

    def check(self, session: Session) -> None:
        """See that a session may speak RTSP to its host now.

        Raises:
            HostUnavailable: the host could take it for another one.

        """
        self._check_alone(session.backend, session.id)
        if self._fleet.telling(session.backend) is Telling.IN_TURN and not (
            session.state is _in_handshake
            and self._turns.has(session.backend, session.id, trio.current_time())
        ):
            raise self._refusal(
                KeptApart.OUT_OF_TURN,
                f"{session.backend} sets up one session at a time: another one has its turn",
            )

    def set_up(self, session: Session, *, secret: bool) -> None:
        """Note an answer to SETUP, with a secret of the session in it or without.

        Raises:
            HostUnavailable: the host gives none, and has another session of ours.

        """
        self._fleet.note_set_up(session.backend, secret=secret)
        self._check_alone(session.backend, session.id)

    def over(self, backend: BackendId, session: SessionId) -> None:
        """Note that a session's handshake is through, or will not be."""
        if self._turns.give_back(backend, session):
            self._given_back.set()
            self._given_back = trio.Event()

    def _recall(self, backend: BackendId) -> None:
        """Note what earlier handshakes have shown, some perhaps before this edge restarted."""
        for one in self._table:
            if one.backend == backend and one.flows:
                secret = all(terms.host_secret is not None for terms in one.flows.values())
                self._fleet.note_set_up(backend, secret=secret)

    async def _wait_for_turn(
        self, backend: BackendId, session: SessionId, timeout_s: float
    ) -> None:
        try:
            with trio.fail_after(timeout_s):
                # Those who wait are served in their order.
                async with self._queues.held(backend, timeout_s=timeout_s):
                    while (now := trio.current_time()) != (
                        until := self._turns.take(backend, session, now)
                    ):
                        with trio.move_on_at(until):
                            await self._given_back.wait()
        except trio.TooSlowError:
            raise self._refusal(
                KeptApart.NO_TURN,
                f"{backend} sets up one session at a time, and others took {timeout_s:g} s",
            ) from None

    def _launched(self, backend: BackendId, session: SessionId, label: str) -> None:
        self._fleet.note_launched(backend, label)
        self._check_alone(backend, session)

    def _check_alone(self, backend: BackendId, session: SessionId) -> None:
        if self._fleet.telling(backend) is Telling.ALONE and any(
            one.backend == backend and one.id != session for one in self._table
        ):
            raise self._refusal(
                KeptApart.NOT_TOLD_APART,
                f"{backend} tells sessions apart by address alone, sees them all from one, and has "
                "one already: run an agent on its machine so that each has an address of its own",
            )

    def _refusal(self, reason: KeptApart, message: str) -> HostUnavailable:
        self.refused[reason] += 1
        return HostUnavailable(reason, message)
