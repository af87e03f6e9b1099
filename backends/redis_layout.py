"""The records that the Redis store keeps, as MessagePack arrays: fields are added at the end only.

Times are microseconds since 1970 UTC; what is called ``sealed_…`` is vault ciphertext.
"""

from __future__ import annotations

import msgspec


class Identity(msgspec.Struct, array_like=True, frozen=True):
    """Of an edge, or of a client towards hosts."""

    sealed_key: bytes
    certificate_pem: bytes


class Client(msgspec.Struct, array_like=True, frozen=True):
    """Under its id; its user is kept apart."""

    name: str
    certificate_der: bytes
    paired_at: int


class Pairing(msgspec.Struct, array_like=True, frozen=True):
    """Under its client and backend."""

    host_certificate_der: bytes
    paired_at: int


class Session(msgspec.Struct, array_like=True, frozen=True):
    """Under its id."""

    client_id: str
    backend_id: str
    app_title: str
    state: str
    started_at: int
    updated_at: int
    sealed_details: bytes


class ApiToken(msgspec.Struct, array_like=True, frozen=True):
    """Under its name."""

    token_hash: bytes
    scopes: tuple[str, ...]
    created_at: int


class SigningKey(msgspec.Struct, array_like=True, frozen=True):
    """Under its id."""

    sealed_key: bytes
    created_at: int
