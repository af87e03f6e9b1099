"""What callers of the admin API may do."""

from __future__ import annotations

from collections.abc import Iterable
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

_implied: Final = {
    Scope.OPERATE: frozenset({Scope.OPERATE, Scope.READ}),
    Scope.ADMIN: frozenset(Scope),
}


def implied_by(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """Return these scopes and all that they include."""
    return frozenset(one for scope in scopes for one in _implied.get(scope, {scope}))


def known_scopes(words: Iterable[str]) -> frozenset[Scope]:
    """Return the scopes among some words, which a newer edge may have written."""
    known = {str(scope): scope for scope in Scope}
    return frozenset(known[word] for word in words if word in known)


def in_order(scopes: Iterable[Scope]) -> list[Scope]:
    """Return scopes the least first, as lists and JWTs have them."""
    wanted = frozenset(scopes)
    return [scope for scope in Scope if scope in wanted]
