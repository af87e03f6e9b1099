"""What a long-lived token of the admin API lets its holder do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from backends.records import ApiTokenRecord
from proxy.admin.scopes import Scope, known_scopes

local_name: Final = "local"
"""The token of whoever has a shell on the edge's machine; in no store."""
_id_characters: Final = 16


@dataclass(frozen=True, slots=True)
class Grant:
    """A token that is good now."""

    name: str
    token_id: str
    """Tells it from another token of its name, made after it was revoked; no secret."""
    scopes: frozenset[Scope]

    @classmethod
    def of(cls, record: ApiTokenRecord) -> Self:
        """Return what a token in the store grants."""
        return cls(record.name, token_id(record.token_hash), known_scopes(record.scopes))

    @classmethod
    def local(cls, token_hash: bytes) -> Self:
        """Return what the local operator's token grants."""
        return cls(local_name, token_id(token_hash), frozenset({Scope.ADMIN}))


def token_id(token_hash: bytes) -> str:
    """Name a token by the beginning of its hash, from which nobody gets at the token."""
    return token_hash.hex()[:_id_characters]
