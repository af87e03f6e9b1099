"""Which store is opened, and that what it needs is looked for in the right places."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backends.errors import StoreError
from backends.sqlite import SqliteStore
from proxy.config import ProxyConfig, StoreConfig
from proxy.stores import open_store

NOWHERE = "redis://127.0.0.1:1"


def config(tmp_path: Path, **store: Any) -> ProxyConfig:
    return ProxyConfig(hostname="edge", state_dir=tmp_path, store=StoreConfig(**store))


async def test_a_file_is_the_store_where_nothing_else_is_said(tmp_path: Path) -> None:
    async with open_store(config(tmp_path)) as store:
        assert isinstance(store, SqliteStore)
    assert (tmp_path / "edge.sqlite").exists()
    assert (tmp_path / "store.key").exists()


async def test_a_redis_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    password.chmod(0o600)
    for secret in ({}, {"redis_password": "hunter2"}, {"redis_password_file": password}):
        with pytest.raises(StoreError, match=r"127\.0\.0\.1:1 cannot be reached") as caught:
            async with open_store(config(tmp_path, kind="redis", redis_url=NOWHERE, **secret)):
                pytest.fail("opened")
        assert "hunter2" not in str(caught.value)
    assert not (tmp_path / "edge.sqlite").exists()


async def test_a_password_file_that_all_can_read_is_refused(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    password.chmod(0o644)
    shared = config(tmp_path, kind="redis", redis_url=NOWHERE, redis_password_file=password)
    with pytest.raises(StoreError, match="everybody can read") as caught:
        async with open_store(shared):
            pytest.fail("opened")
    assert caught.value.reason == "bad_password_file"


async def test_a_store_that_is_only_read_is_neither_made_nor_changed(tmp_path: Path) -> None:
    settings = config(tmp_path)
    with pytest.raises(StoreError, match="key file"):
        async with open_store(settings, read_only=True):
            pytest.fail("opened without a key")
    assert not (tmp_path / "store.key").exists()

    async with open_store(settings) as store:
        await store.put_agent_token("living-room", b"h", datetime.now(UTC))
    async with open_store(settings, read_only=True) as store:
        assert [record.agent_id for record in await store.list_agents()] == ["living-room"]
        with pytest.raises(StoreError, match="readonly"):
            await store.revoke_agent("living-room")

    (tmp_path / "edge.sqlite").unlink()
    with pytest.raises(StoreError, match="unable to open"):
        async with open_store(settings, read_only=True):
            pytest.fail("opened without a file")
