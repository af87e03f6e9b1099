"""The admin API's JWTs: RS256 and nothing else, with every claim that we put in."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from proxy.admin.denials import Denial, denied
from proxy.admin.grants import Grant
from proxy.admin.scopes import Scope, in_order, known_scopes
from proxy.errors import Refused

algorithm: Final = "RS256"
audience: Final = "moonhost-admin"
lifetime: Final = timedelta(seconds=300)
leeway: Final = timedelta(seconds=5)
"""How far the clocks of edges may be apart."""
max_jwt_characters: Final = 4_096

_three_parts: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}")
_claims: Final = ("iss", "aud", "sub", "tid", "scope", "iat", "nbf", "exp", "jti")
_jti_bytes: Final = 16
# The more particular ones first: some of PyJWT's errors are also others.
_denials: Final[tuple[tuple[type[jwt.PyJWTError], Denial], ...]] = (
    (jwt.ExpiredSignatureError, Denial.EXPIRED),
    (jwt.ImmatureSignatureError, Denial.NOT_YET_VALID),
    (jwt.InvalidAudienceError, Denial.WRONG_AUDIENCE),
    (jwt.InvalidIssuerError, Denial.WRONG_ISSUER),
    (jwt.InvalidAlgorithmError, Denial.BAD_SIGNATURE),
    (jwt.InvalidSignatureError, Denial.BAD_SIGNATURE),
    (jwt.MissingRequiredClaimError, Denial.MISSING_CLAIM),
    (jwt.DecodeError, Denial.MALFORMED),
    (jwt.PyJWTError, Denial.MISSING_CLAIM),
)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a JWT says, once it is believed."""

    name: str
    """Of the long-lived token that it was made from."""
    token_id: str
    scopes: frozenset[Scope]
    jti: str
    expires_at: datetime
    single_use_at: str | None
    """The run of the edge that alone takes it, and once: no other knows whether it was used."""


@dataclass(frozen=True, slots=True)
class Signer:
    """The key that signs now."""

    kid: str
    private_key: RSAPrivateKey


def issue(
    grant: Grant,
    scopes: frozenset[Scope],
    *,
    signer: Signer,
    issuer: str,
    now: datetime,
    single_use_at: str | None = None,
) -> str:
    """Sign a JWT for the holder of a token."""
    at = int(now.timestamp())
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": grant.name,
        "tid": grant.token_id,
        "scope": " ".join(in_order(scopes)),
        "iat": at,
        "nbf": at,
        "exp": at + int(lifetime.total_seconds()),
        "jti": secrets.token_urlsafe(_jti_bytes),
    }
    if single_use_at is not None:
        claims["single_use_at"] = single_use_at
    return jwt.encode(claims, signer.private_key, algorithm, headers={"kid": signer.kid})


def verify(token: str, keys: Mapping[str, RSAPublicKey], *, issuer: str) -> Claims:
    """Return what a JWT says, if one of these keys signed it and it is valid by this clock.

    Raises:
        proxy.errors.Refused: it is not to be believed.

    """
    if len(token) > max_jwt_characters or not _three_parts.fullmatch(token):
        raise denied(Denial.MALFORMED)
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        key = keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise denied(Denial.UNKNOWN_KEY)
        said = jwt.decode(
            token,
            key,
            [algorithm],
            options={"require": list(_claims), "strict_aud": True},
            audience=audience,
            issuer=issuer,
            leeway=leeway,
        )
    except jwt.PyJWTError as error:
        # Its text could quote what was sent.
        raise _denied(error) from None
    return _read(said)


def _denied(error: jwt.PyJWTError) -> Refused:
    return denied(next(denial for kind, denial in _denials if isinstance(error, kind)))


def _read(said: Mapping[str, Any]) -> Claims:
    texts = [said[name] for name in ("sub", "tid", "scope", "jti")]
    single_use_at = said.get("single_use_at")
    expires_at = said["exp"]
    if not (
        all(isinstance(text, str) for text in texts)
        and isinstance(single_use_at, str | None)
        # No date is behind the year 9999.
        and isinstance(expires_at, int)
        and expires_at <= datetime.max.replace(tzinfo=UTC).timestamp()
    ):
        raise denied(Denial.MISSING_CLAIM)
    name, token_id, scope, jti = texts
    return Claims(
        name=name,
        token_id=token_id,
        scopes=known_scopes(scope.split()),
        jti=jti,
        expires_at=datetime.fromtimestamp(expires_at, UTC),
        single_use_at=single_use_at,
    )
