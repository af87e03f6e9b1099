"""Both stores give the same answers to the same operations, whatever these are."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_process import RedisProcess
from store_values import BACKEND, IDENTITY, KEY, NEVER, NOW, OTHER

from backends.errors import StoreError
from backends.model import BackendId
from backends.records import (
    ApiTokenRecord,
    ClientRecord,
    PairingRecord,
    SessionRecord,
    SigningKeyRecord,
    StickyRecord,
)
from backends.redis import RedisStore
from backends.sqlite import SqliteStore
from backends.store import Store

Operation = tuple[str, tuple[Any, ...]]

ids = st.sampled_from(["a", "b", "é"])
targets = st.sampled_from([BACKEND, BackendId("beta/x")])
times = st.integers(-3, 3).map(lambda days: NOW + timedelta(days=days, microseconds=days))
users = st.none() | ids
sessions = st.builds(
    SessionRecord, ids, ids, targets, st.text(max_size=3), ids, times, times, st.binary(max_size=9)
)
identities = st.sampled_from([IDENTITY, OTHER])
# No token has the hash of another name's: 256 random bits.
api_tokens = st.builds(
    lambda name, turn, scopes, at: ApiTokenRecord(name, f"{name}{turn}".encode(), scopes, at),
    ids,
    st.sampled_from("12"),
    st.lists(st.sampled_from(["read", "pair"]), unique=True).map(tuple),
    times,
)
api_hashes = st.builds(lambda name, turn: f"{name}{turn}".encode(), ids, st.sampled_from("12"))
kids = st.sampled_from(["k1", "k2", "é"])
signing_keys = st.builds(SigningKeyRecord, kids, st.binary(max_size=9), times)


def calls(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    return st.tuples(st.just(name), st.tuples(*arguments))


operations = st.one_of(
    calls("add_edge_identity", identities),
    calls("put_client", st.builds(ClientRecord, ids, ids, st.binary(max_size=3), times, users)),
    calls("get_client", ids),
    calls("list_clients"),
    calls("delete_client", ids),
    calls("set_client_user", ids, users),
    calls("set_client_name", ids, ids),
    calls("add_host_identity", ids, identities),
    calls("get_host_identity", ids),
    calls("put_pairing", st.builds(PairingRecord, ids, targets, st.binary(max_size=3), times)),
    calls("get_pairing", ids, targets),
    calls("delete_pairing", ids, targets),
    calls("app_ids_for", st.lists(st.text("aB é\n", max_size=3), max_size=4)),
    calls("put_sticky", st.builds(StickyRecord, ids, targets, st.just(NEVER))),
    calls("get_sticky", ids),
    calls("delete_sticky", ids, targets),
    calls("add_session", sessions),
    calls("update_session", sessions),
    calls("delete_session", ids),
    calls("list_sessions"),
    calls("put_agent_token", ids, st.sampled_from([b"1", b"2", b"\xff"]), times),
    calls("agent_for_token_hash", st.sampled_from([b"1", b"\xff"])),
    calls("revoke_agent", ids),
    calls("list_agents"),
    calls("add_api_token", api_tokens),
    calls("api_token_for_hash", api_hashes),
    calls("get_api_token", ids),
    calls("list_api_tokens"),
    calls("delete_api_token", ids),
    calls("add_signing_key", signing_keys, st.lists(kids)),
    calls("list_signing_keys"),
    calls("delete_signing_key", kids),
    calls("put_drain", targets, times, st.none() | times),
    calls("delete_drain", targets),
    calls("list_drains"),
)


async def answer(store: Store, operation: Operation) -> object:
    name, arguments = operation
    try:
        return await getattr(store, name)(*arguments)
    except StoreError as error:
        return error.reason


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(script=st.lists(operations, min_size=20, max_size=60))
def test_both_stores_agree(
    script: list[Operation], tmp_path: Path, redis_server: RedisProcess
) -> None:
    path = tmp_path / "moonhost.db"
    path.unlink(missing_ok=True)

    async def compare() -> None:
        async with (
            SqliteStore.open(path, KEY) as file,
            RedisStore.open(f"{redis_server.url[:-1]}3", KEY) as server,
        ):
            await server._server.command(b"FLUSHDB")
            for operation in script:
                assert await answer(file, operation) == await answer(server, operation), operation

    trio.run(compare)
