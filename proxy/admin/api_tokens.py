"""The long-lived tokens that are good now: the local operator's, and those in the store."""

from __future__ import annotations

import hmac
from typing import Final

import trio

from backends.errors import StoreError
from backends.store import Store
from backends.tokens import token_hash
from proxy.admin.grants import Grant

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
