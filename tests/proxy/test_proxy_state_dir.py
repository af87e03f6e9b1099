from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from proxy import state_dir
from proxy.errors import StartFailed


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "moonhost"
    state_dir.prepare(folder)
    state_dir.prepare(folder)
    assert mode(folder) == 0o700
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_had_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartFailed, match="Set state_dir") as caught:
        state_dir.prepare(tmp_path / "file")
    assert caught.value.reason == "state_dir"


def test_the_admin_token_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    token = state_dir.local_token(tmp_path, None)
    assert len(token) >= 43
    assert state_dir.local_token(tmp_path, None) == token
    assert mode(tmp_path / state_dir.admin_token) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [state_dir.admin_token]


@pytest.mark.parametrize("content", ["", "\n", "short", "moonhost moonhost moonhost moonhost"])
def test_a_token_that_protects_nothing_is_not_used(tmp_path: Path, content: str) -> None:
    (tmp_path / state_dir.admin_token).write_text(content)
    with pytest.raises(StartFailed, match="delete it"):
        state_dir.local_token(tmp_path, None)


def test_a_token_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / state_dir.admin_token).mkdir()
    with pytest.raises(StartFailed, match=r"admin\.token"):
        state_dir.local_token(tmp_path, None)


def test_a_token_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    token = state_dir.local_token(tmp_path, None)
    (tmp_path / state_dir.admin_token).chmod(0o644)
    assert state_dir.local_token(tmp_path, None) == token
    assert mode(tmp_path / state_dir.admin_token) == 0o600


def secret(path: Path, content: str, permissions: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(permissions)
    return path


def test_another_file_holds_the_admin_token(tmp_path: Path) -> None:
    file = secret(tmp_path / "secret", "a-token-of-16-or-more\n")
    assert state_dir.local_token(tmp_path, file) == "a-token-of-16-or-more"
    assert not (tmp_path / state_dir.admin_token).exists()


@pytest.mark.parametrize(
    ("content", "permissions", "said"),
    [
        ("short", 0o600, "openssl rand"),
        ("x" * 257, 0o600, "openssl rand"),
        ("two words that are long", 0o600, "openssl rand"),
        ("a-token-of-16-or-more", 0o644, "chmod 600"),
    ],
)
def test_another_file_must_hold_a_secret(
    tmp_path: Path, content: str, permissions: int, said: str
) -> None:
    file = secret(tmp_path / "file", content, permissions)
    with pytest.raises(StartFailed, match=said) as caught:
        state_dir.local_token(tmp_path, file)
    assert content not in str(caught.value)


@pytest.mark.parametrize("hostname", ["play.example.org", "127.0.0.1", "2001:db8::1"])
async def test_agents_can_verify_the_made_certificate_for_the_hostname(
    tmp_path: Path, hostname: str
) -> None:
    server = state_dir.agents_context(tmp_path, hostname, None, None)
    client = ssl.create_default_context(cafile=tmp_path / state_dir.agents_certificate)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    await shake_hands(server, client, hostname)
    with pytest.raises(BaseExceptionGroup) as caught:
        await shake_hands(server, client, "other.example.org")
    assert caught.group_contains(trio.BrokenResourceError)


async def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, hostname: str) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    edge = trio.SSLStream(ours, server, server_side=True)
    agent = trio.SSLStream(theirs, client, server_hostname=hostname)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(edge.do_handshake)
        nursery.start_soon(agent.do_handshake)


def test_the_made_certificate_is_kept_and_its_key_is_its_owners(tmp_path: Path) -> None:
    state_dir.agents_context(tmp_path, "h", None, None)
    made = (tmp_path / state_dir.agents_certificate).read_bytes()
    assert mode(tmp_path / state_dir.agents_private_key) == 0o600
    state_dir.agents_context(tmp_path, "h", None, None)
    assert (tmp_path / state_dir.agents_certificate).read_bytes() == made


def test_half_a_certificate_is_made_anew(tmp_path: Path) -> None:
    state_dir.agents_context(tmp_path, "h", None, None)
    (tmp_path / state_dir.agents_certificate).unlink()
    state_dir.agents_context(tmp_path, "h", None, None)
    assert mode(tmp_path / state_dir.agents_private_key) == 0o600


def test_configured_files_are_used(tmp_path: Path) -> None:
    state_dir.agents_context(tmp_path, "h", None, None)
    certificate = tmp_path / state_dir.agents_certificate
    key = tmp_path / state_dir.agents_private_key
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    state_dir.agents_context(elsewhere, "h", certificate, key)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("content", [None, "rubbish"])
def test_files_that_are_no_certificate_are_named(tmp_path: Path, content: str | None) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    if content is not None:
        certificate.write_text(content)
        key.write_text(content)
    with pytest.raises(StartFailed, match=r"c\.pem"):
        state_dir.agents_context(tmp_path, "h", certificate, key)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_write_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StartFailed):
        state_dir.prepare(tmp_path)
