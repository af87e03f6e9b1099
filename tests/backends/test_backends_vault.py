"""Secrets at rest, and the file their key lives in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import StoreError
from backends.tokens import max_token_characters, new_agent_token, token_hash
from backends.vault import KEY_BYTES, Vault, load_or_create_key

KEY = bytes(range(32))


@given(st.binary(max_size=300), st.text(max_size=20))
def test_what_is_sealed_opens(secret: bytes, context: str) -> None:
    sealed = Vault(KEY).seal(secret, context)
    assert Vault(KEY).open(sealed, context) == secret
    assert not secret or len(secret) < 4 or secret not in sealed


def test_equal_secrets_do_not_look_equal() -> None:
    assert Vault(KEY).seal(b"secret", "edge") != Vault(KEY).seal(b"secret", "edge")


@given(st.integers(0, 34), st.integers(1, 255))
def test_any_change_is_noticed(position: int, change: int) -> None:
    sealed = bytearray(Vault(KEY).seal(b"secret", "edge"))
    sealed[position] ^= change
    with pytest.raises(StoreError) as caught:
        Vault(KEY).open(bytes(sealed), "edge")
    assert caught.value.reason == "bad_secret"


@pytest.mark.parametrize("length", [0, 1, 5, 12, 13, 20])
def test_a_cut_secret_is_refused(length: int) -> None:
    with pytest.raises(StoreError):
        Vault(KEY).open(Vault(KEY).seal(b"secret", "edge")[:length], "edge")


def test_a_secret_cannot_be_moved_elsewhere() -> None:
    with pytest.raises(StoreError):
        Vault(KEY).open(Vault(KEY).seal(b"secret", "host:a"), "host:b")


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(StoreError, match="32 bytes"):
        Vault(b"short")


def test_the_key_is_made_once_and_is_the_owners(tmp_path: Path) -> None:
    path = tmp_path / "state" / "key"
    key = load_or_create_key(path)
    assert len(key) == KEY_BYTES
    assert load_or_create_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_the_first_of_two_processes_makes_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    key = load_or_create_key(path)
    seen = iter([False])
    monkeypatch.setattr(Path, "exists", lambda _self: next(seen))
    assert load_or_create_key(path) == key
    assert list(tmp_path.iterdir()) == [path]


def test_an_exposed_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_or_create_key(path)
    path.chmod(0o640)
    with pytest.raises(StoreError, match="chmod 600"):
        load_or_create_key(path)


def test_a_key_file_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(StoreError, match="exactly 32 bytes"):
        load_or_create_key(path)


def test_a_key_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        load_or_create_key(tmp_path / "file" / "key")


def test_tokens_are_long_random_and_recognisable() -> None:
    tokens = {new_agent_token() for _ in range(50)}
    assert len(tokens) == 50
    assert all(token.startswith("moonhost-agent-") and len(token) >= 58 for token in tokens)
    assert all(len(token) <= max_token_characters for token in tokens)


@given(st.text())
def test_any_presented_text_has_a_hash(token: str) -> None:
    assert len(token_hash(token)) == 32


def test_an_overlong_token_is_not_its_beginning() -> None:
    token = "a" * max_token_characters
    assert token_hash(token) != token_hash(token + "a")
