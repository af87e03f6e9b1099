"""The long-lived tokens of people and services: which are good now, and new ones."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import trio

from backends.errors import StoreError
from backends.model import is_valid_name, name_rule
from backends.records import ApiTokenRecord
from backends.store import Store
from backends.tokens import token_hash
from proxy.admin.grants import Grant, local_name
from proxy.admin.scopes import Scope, in_order, known_scopes
from proxy.errors import Refused

store_patience_s: Final = 2.0
"""How long a caller with a valid JWT waits for a store that does not answer."""


class ApiTokens:
    """Looks tokens up; the local one needs no store.

    Args:
        store: where all others are.
        local_token: what `proxy.state_dir` or ``admin.token_file`` holds.

    """

    def __init__(self, store: Store, local_token: str) -> None:
        self._store = store
        self._local_hash = token_hash(local_token)
        self._local = Grant.local(self._local_hash)

    async def find(self, token: str) -> Grant | None:
        """Return what a token grants.

        Raises:
            backends.errors.StoreError: the store cannot tell.

        """
        shown = token_hash(token)
        if hmac.compare_digest(shown, self._local_hash):
            return self._local
        record = await self._store.api_token_for_hash(shown)
        return None if record is None else Grant.of(record)

    async def still_granted(self, believed: Grant) -> Grant | None:
        """Return what a token grants now; None if it was revoked since.

        While the store cannot tell, what was believed is still believed: operators need the API
        most when something is down.
        """
        if believed.name == self._local.name:
            return self._local if believed.token_id == self._local.token_id else None
        with trio.move_on_after(store_patience_s):
            try:
                record = await self._store.get_api_token(believed.name)
            except StoreError:
                return believed
            grant = None if record is None else Grant.of(record)
            same = grant is not None and grant.token_id == believed.token_id
            return grant if same else None
        return believed


def check_name(name: str) -> None:
    """Raise `Refused` unless a token can have this name."""
    if not is_valid_name(name) or name == local_name:
        raise Refused(
            400,
            "bad_name",
            f"A token's name has {name_rule}, and is not {local_name}.",
        )


def check_agent_name(name: str) -> None:
    """Raise `Refused` unless an agent can have this name."""
    if not is_valid_name(name):
        raise Refused(400, "bad_name", f"An agent's name has {name_rule}.")


def scopes_of(words: Iterable[str]) -> frozenset[Scope]:
    """Read scopes; raises `Refused` where there is none or one is unknown."""
    wanted = frozenset(words)
    scopes = known_scopes(wanted)
    if not scopes or len(scopes) < len(wanted):
        raise Refused(400, "bad_scopes", f"Scopes are one or more of {', '.join(Scope)}.")
    return scopes


async def add_api_token(store: Store, name: str, scopes: frozenset[Scope], token: str) -> None:
    """Keep a new token.

    Raises:
        proxy.errors.Refused: there is one of its name.
        backends.errors.StoreError: it cannot be kept.

    """
    record = ApiTokenRecord(name, token_hash(token), tuple(in_order(scopes)), datetime.now(UTC))
    if not await store.add_api_token(record):
        raise Refused(
            409, "token_exists", f"There is a token {name} already: revoke it, or choose a name."
        )
