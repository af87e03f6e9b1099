"""The store that a configuration names, opened for the edge and for the commands beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends.errors import StoreError
from backends.redis import RedisStore
from backends.sqlite import SqliteStore
from backends.store import Store
from backends.vault import load_key, load_or_create_key
from proxy import state_dir
from proxy.config import ProxyConfig, StoreConfig
from settings import ConfigError, read_secret


@asynccontextmanager
async def open_store(config: ProxyConfig, *, read_only: bool = False) -> AsyncIterator[Store]:
    """Open the store; secrets in it are sealed with the key file in the state folder.

    One edge at a time may use a store in a server under one prefix. With `read_only` nothing is
    made or changed: key and store have to be there.

    Raises:
        backends.errors.StoreError: the key, the password's file or the store cannot be used.

    """
    load = load_key if read_only else load_or_create_key
    key = load(config.state_dir / state_dir.store_key)
    chosen = config.store
    if chosen.redis_url is None:
        database = config.state_dir / state_dir.database
        async with SqliteStore.open(database, key, read_only=read_only) as file:
            yield file
        return
    async with RedisStore.open(
        chosen.redis_url,
        key,
        password=_password(chosen),
        ca_file=chosen.redis_ca_file,
        prefix=chosen.redis_prefix,
        read_only=read_only,
    ) as server:
        yield server


def _password(store: StoreConfig) -> str | None:
    if store.redis_password is not None:
        return store.redis_password.get_secret_value()
    if store.redis_password_file is not None:
        try:
            return read_secret(store.redis_password_file)
        except ConfigError as error:
            raise StoreError("bad_password_file", str(error)) from None
    return None
