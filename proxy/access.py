"""What each user may use: allow-lists from the configuration, everything where there are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from backends.apps import normalise_title

everybody_else: Final = "*"
"""The name under which the configuration has the rules for users that it does not name."""


@dataclass(frozen=True, slots=True)
class Access:
    """What one user may use; None for everything."""

    apps: frozenset[str] | None = None
    """Normalised titles."""
    regions: frozenset[str] | None = None

    def allows_app(self, title: str) -> bool:
        """Tell whether the user may use an app, however its title is written."""
        return self.apps is None or normalise_title(title) in self.apps

    def allows_region(self, region: str) -> bool:
        """Tell whether the user may use hosts of a region."""
        return self.regions is None or region in self.regions


everything: Final = Access()
nothing: Final = Access(frozenset(), frozenset())


class AccessRules:
    """The rules of all users, by name; those of `everybody_else` are for the others."""

    def __init__(self, rules: Mapping[str, Access] | None = None) -> None:
        self._rules = rules or {}
        self._others = self._rules.get(everybody_else, everything)

    def become(self, other: AccessRules) -> None:
        """Have the rules that `other` has."""
        self._rules, self._others = other._rules, other._others

    def knows(self, user: str) -> bool:
        """Tell whether a client can be given to a user of this name."""
        return not self._rules or user in self._rules or everybody_else in self._rules

    def of(self, user: str | None) -> Access:
        """Give what a user may use; None is a client that nobody has given to a user.

        Once there are rules, a user whom they do not know may use nothing: the name may be
        mistyped, or the rules were taken away.
        """
        if user is None:
            return self._others
        return self._rules.get(user, self._others if self.knows(user) else nothing)
