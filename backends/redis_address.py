"""Where a Redis server is and who we are there, out of a URL: never shown with its password."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from backends.errors import StoreError

default_port: Final = 6_379
_forms: Final = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH?db=DB"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A server and one of its databases; `path` is a Unix socket's, and then there is no host."""

    host: str = ""
    port: int = default_port
    path: str = ""
    tls: bool = False
    db: int = 0
    username: str | None = None
    password: str | None = field(repr=False, default=None)

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def with_password(self, password: str | None) -> RedisAddress:
        """Give the address with this password, or as it is if there is none."""
        return self if password is None else replace(self, password=password)


def parse_redis_url(url: str) -> RedisAddress:
    """Read a URL; `StoreError` with the reason "bad_url" if it is none, without its text."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return _socket(parts)
        if parts.scheme in ("redis", "rediss"):
            return _server(parts)
    except ValueError:
        pass
    raise StoreError("bad_url", f"The store's URL is none of {_forms}.")


def _server(parts: SplitResult) -> RedisAddress:
    if not parts.hostname or parts.query or parts.fragment:
        raise ValueError
    port = default_port if parts.port is None else parts.port
    if not port:
        raise ValueError
    return RedisAddress(
        host=parts.hostname,
        port=port,
        tls=parts.scheme == "rediss",
        db=_db(parts.path.removeprefix("/") or "0"),
        username=_text(parts.username),
        password=_text(parts.password),
    )


def _socket(parts: SplitResult) -> RedisAddress:
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    db = options.pop("db", "0")
    if options or parts.hostname or parts.fragment or not parts.path.strip("/"):
        raise ValueError
    return RedisAddress(
        path=unquote(parts.path),
        db=_db(db),
        username=_text(parts.username),
        password=_text(parts.password),
    )


def _db(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError
    return int(text)


def _text(quoted: str | None) -> str | None:
    return unquote(quoted) if quoted else None
