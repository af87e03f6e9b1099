"""Which key signs JWTs, which keys are published and which can go: as of a moment.

A key is published before it signs, so that whoever keeps the key set for a while knows it by
then; and it stays published after its successor has begun to sign, until what it signed last has
expired. So nothing valid is ever refused while keys change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from backends.records import SigningKeyRecord

publish_lead: Final = timedelta(seconds=600)
clock_skew: Final = timedelta(seconds=60)
"""How far the clocks of edges that share keys may be apart."""


@dataclass(frozen=True, slots=True)
class RotationRules:
    """How long things last."""

    key_lifetime: timedelta
    """After which a new key is made."""
    jwt_lifetime: timedelta
    """The longest, the leeway of those who verify included."""
    publish_lead: timedelta = publish_lead


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """What each key is for now, by id."""

    signing: str | None
    """None only where there is no key."""
    published: tuple[str, ...]
    """Those that JWTs are verified with; the signing one among them."""
    retired: tuple[str, ...]
    """Nothing valid is signed with them."""
    next_signs_from: datetime | None
    """When the newest begins to sign, if it does not yet."""
    is_due: bool
    """A new key should be made."""


def plan(keys: Sequence[SigningKeyRecord], rules: RotationRules, now: datetime) -> KeyPlan:
    """Return what to do with these keys, the oldest first."""
    if not keys:
        return KeyPlan(None, (), (), None, is_due=True)
    signs_from = [
        key.created_at if place == 0 else key.created_at + rules.publish_lead
        for place, key in enumerate(keys)
    ]
    begun = [place for place, since in enumerate(signs_from) if since <= now]
    signing = begun[-1] if begun else 0
    kept_for = rules.jwt_lifetime + clock_skew
    published: list[str] = []
    retired: list[str] = []
    for place, key in enumerate(keys):
        is_over = place < signing and signs_from[place + 1] + kept_for <= now
        (retired if is_over else published).append(key.kid)
    return KeyPlan(
        signing=keys[signing].kid,
        published=tuple(published),
        retired=tuple(retired),
        next_signs_from=signs_from[-1] if signing < len(keys) - 1 else None,
        is_due=keys[-1].created_at + rules.key_lifetime <= now,
    )
