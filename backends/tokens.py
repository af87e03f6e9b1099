"""Long-lived tokens: 256 random bits, of which only the SHA-256 is ever kept."""

from __future__ import annotations

import hashlib
import secrets

_AGENT_PREFIX = "moonhost-agent-"
_API_PREFIX = "moonhost-api-"
_RANDOM_BYTES = 32
max_token_characters = 256


def new_agent_token() -> str:
    """Make a token; the prefix lets secret scanners and people recognise one that leaked."""
    return _AGENT_PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def new_api_token() -> str:
    """Make a token of the admin API, for a person or a service."""
    return _API_PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def token_hash(token: str) -> bytes:
    """Give what the store keeps of a token.

    A plain hash is enough, since nobody can guess 256 random bits; for the same reason looking
    the hash up in an index tells an attacker nothing by its timing.
    """
    return hashlib.sha256(token[: max_token_characters + 1].encode("utf-8", "replace")).digest()
