"""The targets of what callers of the admin API show: headers, cookies, JWTs."""

from __future__ import annotations

from functools import cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, generate_private_key

from fuzz.target import Target, promise
from proxy.admin import jwts
from proxy.admin.credentials import bearer_of, cookie_name, login_of, max_credential_characters
from proxy.admin.origin import Provenance, is_foreign
from proxy.errors import Refused

_ID: Final = "aB-_" * 10 + "xyz"


def _headers(data: bytes) -> list[str]:
    return data.decode("latin-1").split("\n")


def _authorization(data: bytes) -> None:
    credential = bearer_of(_headers(data))
    if credential is not None:
        promise(0 < len(credential) <= max_credential_characters, "a credential is bounded")
        promise(credential.isascii() and credential.isprintable(), "and plain text")


def _cookies(data: bytes) -> None:
    login = login_of(_headers(data))
    promise(login is None or len(login) == len(_ID), "a login's id has its length")


def _origin(data: bytes) -> None:
    origin, host, *sites = [*_headers(data), "", ""]
    for told in (Provenance([origin], [host], sites), Provenance((), [host], sites)):
        promise(
            not is_foreign("GET", told) or is_foreign("POST", told),
            "what may not look may not change anything",
        )


@cache
def _keys() -> dict[str, RSAPublicKey]:
    return {"k": generate_private_key(65_537, 2_048).public_key()}


def _jwt(data: bytes) -> None:
    claims = None
    try:
        claims = jwts.verify(data.decode("latin-1"), _keys(), issuer="edge")
    finally:
        promise(claims is None, "nobody signs without the key")


ADMIN_TARGETS: Final = (
    Target(
        "authorization",
        ("proxy.admin.credentials",),
        _authorization,
        (Refused,),
        lambda: [b"Bearer a.b.c", b"bearer x\nBearer y", b"Basic YTpi", b"Bearer " + b"a" * 5_000],
    ),
    Target(
        "cookies",
        ("proxy.admin.credentials",),
        _cookies,
        (),
        lambda: [
            f"a=b; {cookie_name}={_ID}".encode(),
            f"{cookie_name}={_ID}; {cookie_name}=x\n{cookie_name}={_ID[::-1]}".encode(),
        ],
    ),
    Target(
        "origin",
        ("proxy.admin.origin",),
        _origin,
        (),
        lambda: [
            b"http://127.0.0.1:47980\n127.0.0.1:47980\nsame-origin",
            b"https://[::1]\n[::1]:443\ncross-site",
            b"null\nh",
        ],
    ),
    Target(
        "jwt",
        ("proxy.admin.jwts",),
        _jwt,
        (Refused,),
        lambda: [
            b"eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.eyJpc3MiOiJlZGdlIn0.AAAA",
            b"eyJhbGciOiJub25lIiwia2lkIjoiayJ9.e30.",
            b"eyJhbGciOiJIUzI1NiIsImtpZCI6ImsifQ.e30.AAAA",
            b"W1tbW1tbW1tbW1tbW1tb.e30.AAAA",
        ],
    ),
)
