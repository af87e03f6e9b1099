"""Whose turn it is at each host that takes one handshake at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backends.model import BackendId
from proxy.sessions import SessionId

max_turn_s: Final = 12.0
"""How long a client may keep others waiting between its launch and its PLAY.

Some handshakes take 25 ms, slow ones a few seconds. It is above the 10 s for which Sunshine holds a
pending launch against the next one.
"""


@dataclass(frozen=True, slots=True)
class _Turn:
    session: SessionId
    until: float


class Turns:
    """Turns at hosts. A turn that has run out is over once somebody else asks for one.

    All times are seconds of one clock.
    """

    def __init__(self, max_turn_s: float = max_turn_s) -> None:
        self._max_turn_s = max_turn_s
        self._turns: dict[BackendId, _Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def take(self, backend: BackendId, session: SessionId, now: float) -> float:
        """Begin a turn of the session if that can be, and tell until when to wait; `now` if so."""
        turn = self._turns.get(backend)
        if turn is not None and turn.session != session and now < turn.until:
            return turn.until
        self._turns[backend] = _Turn(session, now + self._max_turn_s)
        return now

    def has(self, backend: BackendId, session: SessionId, now: float) -> bool:
        """Tell whether it is the session's turn; it is if nobody has asked since for another.

        An edge that has restarted knows of no turns: there the first who comes has it.
        """
        turn = self._turns.get(backend)
        if turn is None:
            return self.take(backend, session, now) == now
        return turn.session == session

    def give_back(self, backend: BackendId, session: SessionId) -> bool:
        """End the session's turn; False if it has none."""
        turn = self._turns.get(backend)
        if turn is None or turn.session != session:
            return False
        del self._turns[backend]
        return True
