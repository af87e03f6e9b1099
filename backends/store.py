"""Where state lives, as an interface: the edge, the command line and every store agree on this.

All methods raise `StoreError` when state cannot be read or written. Each is atomic, and what it
wrote is there after a crash of the process. `put_…` replaces what was there; `add_…` keeps the
first of several that race and returns the one that is kept; `delete_…` tells whether there was
something to delete.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from backends.model import BackendId
from backends.records import (
    AgentRecord,
    ApiTokenRecord,
    ClientRecord,
    DrainRecord,
    IdentityRecord,
    PairingRecord,
    SessionRecord,
    SigningKeyRecord,
    StickyRecord,
)


class Store(Protocol):
    """Everything that must outlive the process."""

    async def get_edge_identity(self) -> IdentityRecord | None:
        """Give the one identity that all edges show to clients."""

    async def add_edge_identity(self, identity: IdentityRecord) -> IdentityRecord:
        """Keep the edge's identity unless there is one already."""

    async def put_client(self, client: ClientRecord) -> None:
        """Keep a paired client; what belongs to it stays when it pairs anew."""

    async def get_client(self, client_id: str) -> ClientRecord | None:
        """Find a paired client."""

    async def list_clients(self) -> tuple[ClientRecord, ...]:
        """Give all clients, the longest paired first."""

    async def delete_client(self, client_id: str) -> bool:
        """Forget a client with its host identity, pairings and sticky entry."""

    async def set_client_user(self, client_id: str, user: str | None) -> bool:
        """Say whose a paired client is; False if there is no such client."""

    async def set_client_name(self, client_id: str, name: str) -> bool:
        """Call a paired client something else; False if there is no such client."""

    async def get_host_identity(self, client_id: str) -> IdentityRecord | None:
        """Give the identity that hosts know this client by."""

    async def add_host_identity(self, client_id: str, identity: IdentityRecord) -> IdentityRecord:
        """Keep a client's host identity unless it has one; the client must exist."""

    async def put_pairing(self, pairing: PairingRecord) -> None:
        """Remember that a host knows a client; the client must exist."""

    async def get_pairing(self, client_id: str, backend_id: BackendId) -> PairingRecord | None:
        """Tell whether a client is paired at a backend, and with which host certificate."""

    async def delete_pairing(self, client_id: str, backend_id: BackendId) -> bool:
        """Forget a pairing, because the host did."""

    async def app_ids_for(self, titles: Iterable[str]) -> dict[str, int]:
        """Give each title's id, by normalised title, choosing and keeping one where none is."""

    async def put_sticky(self, sticky: StickyRecord) -> None:
        """Remember where a client plays; the client must exist."""

    async def get_sticky(self, client_id: str) -> StickyRecord | None:
        """Give a client's sticky entry; one that has expired may have been forgotten."""

    async def delete_sticky(self, client_id: str, backend_id: BackendId) -> bool:
        """Forget that a client played at a backend, unless it has played elsewhere since."""

    async def add_session(self, session: SessionRecord) -> None:
        """Keep a session that has just begun."""

    async def update_session(self, session: SessionRecord) -> bool:
        """Keep a session's present state; False if it has ended, or a later state is kept."""

    async def delete_session(self, session_id: str) -> bool:
        """Forget a session that ended."""

    async def list_sessions(self) -> tuple[SessionRecord, ...]:
        """Give all sessions, the oldest first."""

    async def put_agent_token(self, agent_id: str, token_hash: bytes, created_at: datetime) -> None:
        """Let the holder of a token be `agent_id`; an agent may have several, so as to rotate."""

    async def agent_for_token_hash(self, token_hash: bytes) -> str | None:
        """Tell whose token this is, as of now: never from a cache."""

    async def revoke_agent(self, agent_id: str) -> bool:
        """Make all tokens of an agent worthless."""

    async def list_agents(self) -> tuple[AgentRecord, ...]:
        """Give the agents that hold tokens, by id."""

    async def add_api_token(self, token: ApiTokenRecord) -> bool:
        """Keep a token of the admin API, unless there is one of its name: False then."""

    async def api_token_for_hash(self, token_hash: bytes) -> ApiTokenRecord | None:
        """Find a token of the admin API by its hash, as of now: never from a cache."""

    async def get_api_token(self, name: str) -> ApiTokenRecord | None:
        """Find a token of the admin API by its name, as of now: never from a cache."""

    async def list_api_tokens(self) -> tuple[ApiTokenRecord, ...]:
        """Give the admin API's tokens, by name."""

    async def delete_api_token(self, name: str) -> bool:
        """Make a token of the admin API worthless."""

    async def add_signing_key(self, key: SigningKeyRecord, known: Iterable[str]) -> bool:
        """Keep a key, unless there is one whose id is not among `known`: False then.

        So two edges that both want a new key make but one.
        """

    async def list_signing_keys(self) -> tuple[SigningKeyRecord, ...]:
        """Give the keys that JWTs are signed with, the oldest first."""

    async def delete_signing_key(self, kid: str) -> bool:
        """Forget a key that nothing valid is signed with any more."""

    async def put_drain(
        self, target: str, since: datetime, deadline: datetime | None = None
    ) -> None:
        """Take no new sessions at a backend id or agent id.

        Where there is a drain already its `since` stays, and `deadline` replaces what it had.
        """

    async def delete_drain(self, target: str) -> bool:
        """Take new sessions again."""

    async def list_drains(self) -> tuple[DrainRecord, ...]:
        """Give all drains, by target."""
