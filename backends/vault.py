"""Secrets at rest: AES-256-GCM under a key that lives in a file of its own."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backends.errors import StoreError

KEY_BYTES = 32
_NONCE_BYTES = 12
_VERSION = b"\x01"


class Vault:
    """Seals small secrets; each is bound to its place by `context`, so none can be moved."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise StoreError("bad_key", f"The store's key must be {KEY_BYTES} bytes long.")
        self._cipher = AESGCM(key)

    def seal(self, secret: bytes, context: str) -> bytes:
        """Encrypt `secret`; only `open` with the same `context` gives it back."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, secret, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Decrypt what `seal` made; `StoreError` for another key, another context or damage."""
        nonce = sealed[1 : 1 + _NONCE_BYTES]
        if sealed[:1] != _VERSION or len(nonce) != _NONCE_BYTES:
            raise StoreError("bad_secret", "A secret in the store is damaged.")
        try:
            return self._cipher.decrypt(nonce, sealed[1 + _NONCE_BYTES :], context.encode())
        except InvalidTag:
            raise StoreError(
                "bad_secret",
                "A secret in the store cannot be decrypted: is this the key it was written with?",
            ) from None


def load_or_create_key(path: Path) -> bytes:
    """Read the key file, or make one that only its owner can read.

    Two processes may do this at once: the file appears whole or not at all, and the first wins.
    """
    try:
        if not path.exists():
            _create_key(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return load_key(path)


def load_key(path: Path) -> bytes:
    """Read the key file, which has to be there."""
    try:
        mode = path.stat().st_mode
        key = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if mode & 0o077:
        raise StoreError(
            "key_exposed", f"The key file {path} is open to others; run: chmod 600 {path}"
        )
    if len(key) != KEY_BYTES:
        raise StoreError("bad_key", f"The key file {path} must hold exactly {KEY_BYTES} bytes.")
    return key


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        "key_unreadable",
        f"The key file {path} cannot be used: {error.strerror}. It has to be the edge's user's.",
    )


def _create_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Written under another name and then linked: a reader never sees half a key.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
