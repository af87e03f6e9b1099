"""What a store keeps: frozen values whose reprs hold no secret.

All times are aware datetimes in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from backends.model import BackendId, agent_of


@dataclass(frozen=True, slots=True)
class IdentityRecord:
    """A private key and its certificate, both PEM: the edge's, or a client's towards hosts."""

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A paired client; `id` is the SHA-256 of the certificate's DER in lower hex."""

    id: str
    name: str
    certificate_der: bytes = field(repr=False)
    paired_at: datetime
    user: str | None = None


@dataclass(frozen=True, slots=True)
class PairingRecord:
    """The host behind `backend_id` knows this client's host identity; we pin its certificate."""

    client_id: str
    backend_id: BackendId
    host_certificate_der: bytes = field(repr=False)
    paired_at: datetime


@dataclass(frozen=True, slots=True)
class StickyRecord:
    """Where a client played last; worth following until `expires_at`."""

    client_id: str
    backend_id: BackendId
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session, written at every change of state so that a restarted edge finds it.

    `details` is the edge's own encoding of what it needs to go on (keys, payloads, ports): opaque
    here, and encrypted at rest.
    """

    id: str
    client_id: str
    backend_id: BackendId
    app_title: str
    state: str
    started_at: datetime
    updated_at: datetime
    details: bytes = field(repr=False, default=b"")


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent that holds at least one valid token."""

    agent_id: str
    created_at: datetime
    tokens: int


@dataclass(frozen=True, slots=True)
class ApiTokenRecord:
    """A long-lived token of the admin API: a person's or a service's."""

    name: str
    token_hash: bytes = field(repr=False)
    scopes: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKeyRecord:
    """An RSA private key, PEM, that an edge signs the admin API's JWTs with."""

    kid: str
    private_key_pem: bytes = field(repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DrainRecord:
    """A backend id, or an agent id for all of its hosts, that takes no new sessions.

    Sessions that still run there at `deadline` are ended; None lets them run on.
    """

    target: str
    since: datetime
    deadline: datetime | None = None

    def covers(self, backend_id: BackendId) -> bool:
        """Tell whether a backend is one of those that take no new sessions."""
        return self.target in (backend_id, agent_of(backend_id))
