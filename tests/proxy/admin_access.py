"""Who may use an admin API under test: an authority whose keys are made once, and its callers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import httpx
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


def _nobody(agent_id: str) -> None:
    raise AssertionError(f"{agent_id} was dismissed")


async def authority_over(store: Store, dismiss: Callable[[str], None] = _nobody) -> Authority:
    """An authority that signs with the tests' key, unless the store has one."""
    if isinstance(store, FakeStore) and not store.signing_keys:
        store.signing_keys[KID] = key_record()
    authority = Authority(
        store,
        issuer=ISSUER,
        local_token=LOCAL_TOKEN,
        key_lifetime=timedelta(days=30),
        dismiss=dismiss,
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


async def ask(
    application: Any,
    method: str,
    path: str,
    *,
    jwt: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    json: Any = None,
    content: bytes | None = None,
    address: str = "192.0.2.1",
    url: str = "http://edge:47980",
) -> httpx.Response:
    """Ask an admin API something, from an address, over no network."""
    told = [*headers, *([] if jwt is None else [("Authorization", f"Bearer {jwt}")])]
    sent = [(name.encode(), value.encode("latin-1")) for name, value in told]
    transport = httpx.ASGITransport(application, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url=url) as client:
        return await client.request(method, path, headers=sent, json=json, content=content)
