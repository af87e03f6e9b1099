"""The files that give an agent access to a Sunshine, and what is wrong with some."""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_sunshine import FakeSunshine, identity

from agent.sunshine_access import read_access
from settings import ConfigError

SUNSHINE = FakeSunshine(identity())


def test_the_agents_key_is_made_once_and_for_nobody_else_to_read(tmp_path: Path) -> None:
    config = SUNSHINE.config(tmp_path)
    made, kept = read_access(config), read_access(config)
    assert made.identity is not None
    assert kept.identity is not None
    assert made.identity.certificate == kept.identity.certificate
    path = tmp_path / "agent.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["agent.pem", "password"]


def test_no_key_is_made_where_the_apps_are_stated(tmp_path: Path) -> None:
    apps = [{"title": "Desktop", "id": 1}]
    access = read_access(SUNSHINE.config(tmp_path, identity_file=None, apps=apps))
    assert access.identity is None


def test_the_password_is_in_the_header_and_in_no_repr(tmp_path: Path) -> None:
    access = read_access(SUNSHINE.config(tmp_path, api_password="ab:c", api_password_file=None))
    assert base64.b64decode(access.authorization.removeprefix("Basic ")) == b"me:ab:c"
    assert access.authorization not in repr(access)


@pytest.mark.parametrize("colons", [True, False])
def test_a_fingerprint_is_taken_as_it_is_written(tmp_path: Path, colons: bool) -> None:
    digest = identity().certificate.id.upper()
    pairs = [digest[start : start + 2] for start in range(0, 64, 2)]
    text = (":" if colons else "").join(pairs)
    assert (
        read_access(SUNSHINE.config(tmp_path, api_certificate=text)).fingerprint == digest.lower()
    )


def no_folder(folder: Path) -> dict[str, str]:
    return {"identity_file": str(folder / "absent" / "agent.pem")}


def open_to_all(folder: Path) -> dict[str, str]:
    path = folder / "agent.pem"
    path.write_text("key")
    path.chmod(0o644)
    return {}


def no_key(folder: Path) -> dict[str, str]:
    path = folder / "agent.pem"
    path.touch(mode=0o600)
    path.write_bytes(identity().certificate.pem)
    return {}


def short_fingerprint(_folder: Path) -> dict[str, str]:
    return {"api_certificate": "AB:CD"}


def no_certificate(folder: Path) -> dict[str, str]:
    (folder / "sunshine.pem").write_text("hello")
    return {"api_certificate": str(folder / "sunshine.pem")}


def no_password(folder: Path) -> dict[str, str]:
    return {"api_password_file": str(folder / "absent")}


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (no_folder, "identity_file: it cannot be read or made: No such file"),
        (open_to_all, "chmod 600"),
        (no_key, "identity_file: The private key is no"),
        (short_fingerprint, "neither a SHA-256 fingerprint (64 hexadecimal digits) nor a file"),
        (no_certificate, "api_certificate: The PEM text holds no certificate."),
        (no_password, "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_told_at_once(
    tmp_path: Path, break_it: Callable[[Path], dict[str, str]], said: str
) -> None:
    changes = break_it(tmp_path)
    with pytest.raises(ConfigError) as caught:
        read_access(SUNSHINE.config(tmp_path, **changes))
    assert said in str(caught.value)
