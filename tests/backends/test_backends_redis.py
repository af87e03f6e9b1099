"""What is particular to the store in a Redis server: its failures, its races and what expires."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from redis_process import RedisProcess
from store_values import BACKEND, CLIENT, IDENTITY, KEY, NEVER, NOW, OTHER, SESSION

from backends.errors import StoreError
from backends.records import IdentityRecord, StickyRecord
from backends.redis import RedisStore
from backends.redis_address import parse_redis_url
from backends.redis_schema import MIGRATIONS, migrate
from backends.redis_server import RedisServer
from tests.waiting import until

short_s = 0.3
Open = Callable[[], AbstractAsyncContextManager[RedisStore]]


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"{tmp_path.name}:"


@pytest.fixture
def open_redis(redis_server: RedisProcess, prefix: str) -> Open:
    return lambda: RedisStore.open(
        redis_server.url, KEY, prefix=prefix, operation_timeout_s=5, session_ttl=timedelta(days=3)
    )


@pytest.fixture
async def raw(redis_server: RedisProcess) -> AsyncIterator[RedisServer]:
    """Speak to the server past the store."""
    address = parse_redis_url(redis_server.url)
    async with RedisServer.open(address, ca_file=None, operation_timeout_s=5) as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path, own_ports: range) -> Iterator[RedisProcess]:
    """Have a server that a test may harm."""
    server = RedisProcess(tmp_path, own_ports[0], "--requirepass", "hunter2")
    server.start()
    yield server
    server.kill()


def open_own(server: RedisProcess, **options: Any) -> AbstractAsyncContextManager[RedisStore]:
    chosen = {"password": "hunter2", "operation_timeout_s": short_s} | options
    return RedisStore.open(server.url, KEY, **chosen)


async def works(store: RedisStore) -> bool:
    try:
        await store.put_drain("alpha", NOW)
    except StoreError:
        return False
    return True


# Failures


async def test_a_server_that_is_not_there_is_told_at_opening() -> None:
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1 cannot be reached") as caught:
        async with RedisStore.open("redis://:hunter2@127.0.0.1:1", KEY):
            pytest.fail("opened")
    assert caught.value.reason == "unreachable"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("password", [None, "wrong-password"])
async def test_a_wrong_password_is_refused_and_not_repeated(
    own_server: RedisProcess, password: str | None
) -> None:
    with pytest.raises(StoreError, match="refuses the password") as caught:
        async with open_own(own_server, password=password):
            pytest.fail("opened")
    assert caught.value.reason == "refused"
    assert "wrong-password" not in str(caught.value)


async def test_a_server_that_was_restarted_is_used_again(own_server: RedisProcess) -> None:
    async with open_own(own_server) as store:
        await store.put_drain("alpha", NOW)
        own_server.kill()
        for _ in range(3):
            with pytest.raises(StoreError, match="cannot be reached") as caught:
                await store.list_drains()
            assert caught.value.reason == "unreachable"
        own_server.start()
        assert await store.list_drains() == ()  # it kept nothing: it has no disk
        assert await works(store)


async def test_a_server_that_hangs_costs_the_timeout_and_no_more(own_server: RedisProcess) -> None:
    async with open_own(own_server) as store:
        await store.put_drain("alpha", NOW)
        with own_server.stopped():
            for _ in range(2):  # on the connection it had, and on a new one
                began = trio.current_time()
                with pytest.raises(StoreError, match=r"did not answer within 0\.3 s") as caught:
                    await store.list_drains()
                assert caught.value.reason == "timeout"
                connection = store._server._connection
                assert connection is not None
                assert not connection.usable, "the peer of this one may be gone for good"
                assert trio.current_time() - began < 3 * short_s
        await until(lambda: works(store))


async def test_a_storm_of_cancelled_operations_leaves_right_answers(open_redis: Open) -> None:
    chance = random.Random(7)

    async def ask(number: int, store: RedisStore) -> None:
        with trio.move_on_after(chance.random() / 50):
            for _ in range(20):
                found = await store.agent_for_token_hash(b"%d" % number)
                assert found == f"agent-{number}"

    async with open_redis() as store:
        for number in range(40):
            await store.put_agent_token(f"agent-{number}", b"%d" % number, NOW)
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(ask, number, store)
        for number in range(40):
            assert await store.agent_for_token_hash(b"%d" % number) == f"agent-{number}"


async def test_cancelling_while_it_connects_does_no_harm(own_server: RedisProcess) -> None:
    async with open_own(own_server, operation_timeout_s=5) as store:
        own_server.kill()
        with pytest.raises(StoreError):
            await store.list_drains()
        own_server.start()
        with own_server.stopped():
            for _ in range(100):
                with trio.move_on_after(0.001):
                    await store.list_drains()
        assert await works(store)


async def test_errors_in_the_block_arrive_as_themselves(open_redis: Open) -> None:
    with pytest.raises(LookupError):
        async with open_redis():
            raise LookupError


async def test_text_that_cannot_be_sent_harms_nobody_else(open_redis: Open) -> None:
    async with open_redis() as store:
        with pytest.raises(StoreError, match="no valid Unicode"):
            await store.put_drain("\udcff", NOW)
        assert await works(store)


@pytest.mark.parametrize(
    ("setting", "bad", "good", "message"),
    [
        ("maxmemory", "1", "0", "out of memory"),
        ("min-replicas-to-write", "1", "0", "too few replicas"),
    ],
)
async def test_writes_that_the_server_refuses(
    open_redis: Open, raw: RedisServer, setting: str, bad: str, good: str, message: str
) -> None:
    async with open_redis() as store:
        await raw.command(b"CONFIG", "SET", setting, bad)
        try:
            with pytest.raises(StoreError, match=message) as caught:
                await store.put_drain("alpha", NOW)
        finally:
            await raw.command(b"CONFIG", "SET", setting, good)
        assert caught.value.reason == "refused"
        assert await works(store)


async def test_a_replica_is_refused(own_server: RedisProcess) -> None:
    address = parse_redis_url(own_server.url).with_password("hunter2")
    async with RedisServer.open(address, ca_file=None, operation_timeout_s=5) as server:
        await server.command(b"REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreError, match="name the primary"):
        async with open_own(own_server):
            pytest.fail("opened")


async def test_it_is_reached_by_its_unix_socket_too(redis_server: RedisProcess) -> None:
    async with RedisStore.open(f"unix://{redis_server.socket}?db=1", KEY) as store:
        await store.put_drain("alpha", NOW)
    async with RedisStore.open(f"{redis_server.url[:-1]}1", KEY) as store:
        assert await store.delete_drain("alpha")


async def test_tls_is_verified(tmp_path: Path, own_ports: range) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    pem = str(tmp_path / "server.pem")
    server = RedisProcess(
        tmp_path,
        own_ports[0],
        *("--tls-cert-file", pem, "--tls-key-file", pem, "--tls-auth-clients", "no"),
        tls=True,
    )
    server.start()
    try:
        async with RedisStore.open(server.url, KEY, ca_file=tmp_path / "ca.pem") as store:
            assert await works(store)
        for ca_file in (None, tmp_path / "stranger.pem"):
            with pytest.raises(StoreError, match="certificate"):
                async with RedisStore.open(server.url, KEY, ca_file=ca_file):
                    pytest.fail("opened")
    finally:
        server.kill()
    with pytest.raises(StoreError, match=r"nowhere\.pem"):
        async with RedisStore.open(server.url, KEY, ca_file=tmp_path / "nowhere.pem"):
            pytest.fail("opened")


# What is kept


@pytest.mark.parametrize(
    ("key", "write", "read"),
    [
        ("edge_identity", ("SET", "x"), lambda store: store.get_edge_identity()),
        ("edge_identity", ("HSET", "a", "b"), lambda store: store.get_edge_identity()),
        ("clients", ("HSET", CLIENT.id, b"\x93\x01"), lambda store: store.list_clients()),
        ("tokens", ("HSET", "a", b"\xff"), lambda store: store.agent_for_token_hash(b"a")),
        ("drains", ("HSET", "a", "soon"), lambda store: store.list_drains()),
        ("api_tokens", ("HSET", "a", "x"), lambda store: store.get_api_token("a")),
        ("signing_keys", ("HSET", "a", "x"), lambda store: store.list_signing_keys()),
        ("tokens", ("HSET", "a", "alpha"), lambda store: store.list_agents()),
        ("app_ids", ("HSET", "a", "b"), lambda store: store.app_ids_for(["a"])),
        ("session:s1", ("HSET", "updated_at", "x"), lambda store: store.update_session(SESSION)),
        ("sessions", ("SET", "x"), lambda store: store.list_sessions()),
    ],
)
async def test_a_foreign_value_is_told_as_damage(
    open_redis: Open,
    raw: RedisServer,
    prefix: str,
    key: str,
    write: tuple[str | bytes, ...],
    read: Callable[[RedisStore], Any],
) -> None:
    async with open_redis() as store:
        command, *values = write
        await raw.command(str(command).encode(), prefix + key, *values)
        with pytest.raises(StoreError, match="moonhost did not write") as caught:
            await read(store)
        assert caught.value.reason == "damaged"


async def test_secrets_are_sealed(redis_server: RedisProcess, raw: RedisServer) -> None:
    url = f"{redis_server.url[:-1]}2"
    async with RedisStore.open(url, KEY) as store:
        await store.put_client(CLIENT)
        await store.add_edge_identity(IDENTITY)
        await store.add_host_identity(CLIENT.id, OTHER)
        await store.add_session(SESSION)
    address = parse_redis_url(url)
    async with RedisServer.open(address, ca_file=None, operation_timeout_s=5) as server:
        everything = repr(
            [
                await server.command(command, f"moonhost:{key}")
                for key, command in (
                    ("clients", b"HGETALL"),
                    ("edge_identity", b"GET"),
                    ("host_identities", b"HGETALL"),
                    ("session:s1", b"HGETALL"),
                )
            ]
        )
        assert len(await server.command(b"KEYS", "*")) == len(
            ("schema", "clients", "client_users", "edge_identity", "host_identities")
        ) + len(("sessions", "session:s1"))
        await server.command(b"FLUSHDB")
    assert CLIENT.name in everything
    for secret in (IDENTITY.key_pem, OTHER.key_pem, SESSION.details):
        assert secret.decode() not in everything


async def test_only_sessions_and_sticky_entries_expire(
    open_redis: Open, raw: RedisServer, prefix: str
) -> None:
    soon = datetime.now(UTC) + timedelta(hours=2)
    async with open_redis() as store:
        await store.put_client(CLIENT)
        await store.add_edge_identity(IDENTITY)
        await store.add_host_identity(CLIENT.id, OTHER)
        await store.put_drain("alpha", NOW, NEVER)
        await store.put_agent_token("alpha", b"h", NOW)
        await store.app_ids_for(["Desktop"])
        await store.put_sticky(StickyRecord(CLIENT.id, BACKEND, soon))
        await store.add_session(SESSION)
        await raw.command(b"PEXPIRE", f"{prefix}session:s1", 60_000)
        assert await store.update_session(SESSION)
    expiring = {
        key.decode().removeprefix(prefix): await raw.command(b"PTTL", key)
        for key in await raw.command(b"KEYS", f"{prefix}*")
        if await raw.command(b"PTTL", key) != -1
    }
    assert expiring.keys() == {f"sticky:{CLIENT.id}", "session:s1"}
    assert 7_100_000 < expiring[f"sticky:{CLIENT.id}"] <= 7_200_000
    assert timedelta(days=2.9) < timedelta(milliseconds=expiring["session:s1"])


async def test_sessions_that_expired_leave_the_list(
    open_redis: Open, raw: RedisServer, prefix: str
) -> None:
    async with open_redis() as store:
        await store.add_session(SESSION)
        await store.add_session(replace(SESSION, id="s2"))
        await raw.command(b"DEL", f"{prefix}session:s1")
        assert [session.id for session in await store.list_sessions()] == ["s2"]
        assert await raw.command(b"SMEMBERS", f"{prefix}sessions") == {b"s2"}
        await store.add_session(SESSION)


async def test_deployments_with_other_prefixes_do_not_meet(redis_server: RedisProcess) -> None:
    async with (
        RedisStore.open(redis_server.url, KEY, prefix="one:") as one,
        RedisStore.open(redis_server.url, KEY, prefix="two:") as two,
    ):
        await one.put_drain("alpha", NOW)
        assert await two.list_drains() == ()


# Races


async def test_edges_that_race_agree(open_redis: Open) -> None:
    identities: set[IdentityRecord] = set()
    ids: list[dict[str, int]] = []
    updated: list[bool] = []

    async def start(store: RedisStore, number: int) -> None:
        made = IdentityRecord(b"key %d" % number, b"certificate")
        identities.add(await store.add_edge_identity(made))
        ids.append(await store.app_ids_for([f"Title {title}" for title in range(50)]))
        later = replace(SESSION, state=str(number), updated_at=NOW + timedelta(seconds=number))
        updated.append(await store.update_session(later))

    async with open_redis() as one, open_redis() as two:
        await one.add_session(SESSION)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(start, (one, two)[number % 2], number)
        assert len(identities) == 1
        assert all(found == ids[0] for found in ids)
        assert len(set(ids[0].values())) == 50
        (session,) = await two.list_sessions()
        assert session.state == "9", "the latest state wins, whoever writes last"
        assert any(updated)


# Migrations


async def test_a_store_is_brought_forward_once_though_edges_race(
    raw: RedisServer, prefix: str
) -> None:
    second = "redis.call('INCR', ARGV[1] .. 'migrated')"
    await migrate(raw, prefix)
    assert await raw.command(b"GET", f"{prefix}schema") == b"1"
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(migrate, raw, prefix, (*MIGRATIONS, second))
    assert await raw.command(b"GET", f"{prefix}schema") == b"2"
    assert await raw.command(b"GET", f"{prefix}migrated") == b"1"


async def test_a_failed_migration_keeps_the_version(raw: RedisServer, prefix: str) -> None:
    with pytest.raises(StoreError):
        await migrate(raw, prefix, (*MIGRATIONS, "error('no')"))
    assert await raw.command(b"GET", f"{prefix}schema") == b"1"


@pytest.mark.parametrize(("version", "reason"), [("99", "newer_schema"), ("x", "damaged")])
async def test_a_store_from_the_future_is_refused(
    open_redis: Open, raw: RedisServer, prefix: str, version: str, reason: str
) -> None:
    await raw.command(b"SET", f"{prefix}schema", version)
    with pytest.raises(StoreError) as caught:
        async with open_redis():
            pytest.fail("opened")
    assert caught.value.reason == reason
