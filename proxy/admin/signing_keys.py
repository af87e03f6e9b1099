"""The keys that the admin API's JWTs are signed with: in the store, shared by its edges."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicKey,
    generate_private_key,
)

from backends.errors import StoreError
from backends.records import SigningKeyRecord
from backends.store import Store
from proxy.admin import jwts
from proxy.admin.key_rotation import KeyPlan, RotationRules, plan
from proxy.errors import Refused

check_interval_s: Final = 30.0
_key_bits: Final = 2_048
_public_exponent: Final = 65_537

_log = structlog.get_logger()


def rotation_rules(key_lifetime: timedelta) -> RotationRules:
    """Return the rules of keys that sign for so long."""
    return RotationRules(key_lifetime=key_lifetime, jwt_lifetime=jwts.lifetime + jwts.leeway)


def _now() -> datetime:
    return datetime.now(UTC)


class SigningKeys:
    """The keys as last read from the store; `load` them first, then let `watch` run."""

    def __init__(
        self, store: Store, rules: RotationRules, *, now: Callable[[], datetime] = _now
    ) -> None:
        self._store = store
        self._rules = rules
        self._now = now
        self._records: tuple[SigningKeyRecord, ...] = ()
        self._private: dict[str, RSAPrivateKey] = {}
        self._is_away = False

    async def load(self) -> None:
        """Take over the store's keys; make one if there is none or the newest is old.

        Raises:
            backends.errors.StoreError: they cannot be read or written.

        """
        await self._read()
        current = self._plan()
        for kid in current.retired:
            await self._store.delete_signing_key(kid)
        if current.retired:
            await self._read()
        if current.is_due:
            await self._make()

    async def watch(self) -> None:
        """Follow what other edges do, and change keys when it is time."""
        while True:
            await trio.sleep(check_interval_s)
            try:
                await self.load()
            except StoreError as error:
                if not self._is_away:
                    _log.warning("signing_keys_unavailable", why=str(error))
                self._is_away = True
            else:
                self._is_away = False

    async def rotate(self) -> str:
        """Publish a new key, which signs after the lead time; return its id.

        Raises:
            proxy.errors.Refused: one is published already that does not sign yet.
            backends.errors.StoreError: it cannot be kept.

        """
        await self._read()
        if (since := self._plan().next_signs_from) is None:
            kid = await self._make()
            if kid is not None:
                return kid
            since = self._plan().next_signs_from
        when = "soon" if since is None else f"from {since:%H:%M:%S} UTC on"
        raise Refused(
            409, "rotation_under_way", f"A new key is published already and signs {when}."
        )

    def signer(self) -> jwts.Signer:
        """Return the key to sign with now."""
        kid = self._plan().signing
        assert kid is not None  # noqa: S101 - `load` saw to that
        return jwts.Signer(kid, self._private[kid])

    def published(self) -> Mapping[str, RSAPublicKey]:
        """Return the keys to verify with now, by id."""
        return {kid: self._private[kid].public_key() for kid in self._plan().published}

    def key_set(self) -> list[dict[str, str]]:
        """Return the published keys as RFC 7517 has them."""
        return [_jwk(kid, key) for kid, key in self.published().items()]

    @property
    def max_age_s(self) -> int:
        """How long the key set may be kept: whoever does knows a new key before it signs."""
        return int(self._rules.publish_lead.total_seconds()) // 2

    def _plan(self) -> KeyPlan:
        return plan(self._records, self._rules, self._now())

    async def _read(self) -> None:
        records = await self._store.list_signing_keys()
        # Of its own: another reading may end, and forget keys, while one is loaded.
        private = dict(self._private)
        for record in records:
            if record.kid not in private:
                private[record.kid] = await trio.to_thread.run_sync(_private_key, record)
        self._private = {record.kid: private[record.kid] for record in records}
        self._records = records

    async def _make(self) -> str | None:
        """Add a key; None if another edge was quicker, whose key is known then."""
        key = await trio.to_thread.run_sync(generate_private_key, _public_exponent, _key_bits)
        record = SigningKeyRecord(_thumbprint(key.public_key()), _pem(key), self._now())
        known = [known.kid for known in self._records]
        added = await self._store.add_signing_key(record, known)
        await self._read()
        if not added:
            return None
        if known:
            _log.info("signing_key_made", kid=record.kid)
        return record.kid


def _private_key(record: SigningKeyRecord) -> RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(record.private_key_pem, None)
    except ValueError:
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise StoreError("damaged", "A signing key in the store is damaged.")
    return key


def _pem(key: RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _jwk(kid: str, key: RSAPublicKey) -> dict[str, str]:
    numbers = key.public_numbers()
    return {
        "kty": "RSA",
        "use": "sig",
        "alg": jwts.algorithm,
        "kid": kid,
        "n": _base64url(numbers.n),
        "e": _base64url(numbers.e),
    }


def _thumbprint(key: RSAPublicKey) -> str:
    """Name a key as RFC 7638 does."""
    numbers = key.public_numbers()
    canonical = f'{{"e":"{_base64url(numbers.e)}","kty":"RSA","n":"{_base64url(numbers.n)}"}}'
    digest = hashlib.sha256(canonical.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _base64url(number: int) -> str:
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
