"""What callers of the admin API may do."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """A set of things that one may do, as tokens carry it."""

    READ = "read"
    """See everything but tokens."""
    PAIR = "pair"
    """See the devices that wait to be paired; confirm and refuse them."""
    OPERATE = "operate"
    """Drain, end sessions, rename, assign and unpair clients; see what READ does."""
    ADMIN = "admin"
    """Everything, tokens included."""


READERS: Final = frozenset({Scope.READ, Scope.OPERATE, Scope.ADMIN})
PAIRERS: Final = frozenset({Scope.PAIR, Scope.ADMIN})
WAITING_ROOM: Final = READERS | PAIRERS
"""Who may see which devices wait."""
OPERATORS: Final = frozenset({Scope.OPERATE, Scope.ADMIN})
ADMINS: Final = frozenset({Scope.ADMIN})
ANYBODY: Final = frozenset[Scope]()
