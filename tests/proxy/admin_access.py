"""Who may use an admin API under test: an authority whose keys are made once, and its callers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from proxy_fakes import FakeStore

from backends.records import ApiTokenRecord, SigningKeyRecord
from backends.store import Store
from backends.tokens import token_hash
from proxy.admin import jwts
from proxy.admin.authority import Authority
from proxy.admin.grants import Grant
from proxy.admin.scopes import Scope

LOCAL_TOKEN = "the-admins-own-token"
ISSUER = "play.example.org"
KID = "the-tests-own-key"


@cache
def signing_key(kid: str) -> RSAPrivateKey:
    """An RSA key, made once: that takes long."""
    return generate_private_key(65_537, 2_048)


def pem(key: RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def key_record(kid: str = KID, *, age: timedelta = timedelta(hours=1)) -> SigningKeyRecord:
    return SigningKeyRecord(kid, pem(signing_key(kid)), datetime.now(UTC) - age)


async def authority_over(store: Store, dismissed: list[str] | None = None) -> Authority:
    """An authority that signs with the tests' key, unless the store has one."""
    if isinstance(store, FakeStore) and not store.signing_keys:
        store.signing_keys[KID] = key_record()
    authority = Authority(
        store,
        issuer=ISSUER,
        local_token=LOCAL_TOKEN,
        key_lifetime=timedelta(days=30),
        dismiss=(dismissed if dismissed is not None else []).append,
    )
    await authority.keys.load()
    return authority


def granted(store: FakeStore, name: str = "anna", *scopes: Scope) -> Grant:
    """Put a token into the store; the token itself is "token-of-" and its name."""
    token = token_hash(f"token-of-{name}")
    record = ApiTokenRecord(
        name, token, tuple(map(str, scopes or (Scope.READ,))), datetime.now(UTC)
    )
    store.api_tokens[name] = record
    return Grant.of(record)


def jwt_of(grant: Grant | None = None, **changed: Any) -> str:
    """A JWT of the local operator, or of a grant."""
    grant = grant or Grant.local(token_hash(LOCAL_TOKEN))
    arguments: dict[str, Any] = {
        "signer": jwts.Signer(KID, signing_key(KID)),
        "issuer": ISSUER,
        "now": datetime.now(UTC),
    }
    return jwts.issue(grant, grant.scopes, **{**arguments, **changed})
