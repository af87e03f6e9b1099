"""What each user may use: allow-lists from the configuration, everything where none is given."""

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


class AccessRules:
    """The rules of all users, by name; those of `everybody_else` are for the others."""

    def __init__(self, rules: Mapping[str, Access] | None = None) -> None:
        self._rules = rules or {}
        self._others = self._rules.get(everybody_else, everything)

    def of(self, user: str | None) -> Access:
        """Give what a user may use; None is a client that nobody has given to a user."""
        return self._others if user is None else self._rules.get(user, self._others)
