"""What every store must do, whichever engine is behind it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from redis_process import RedisProcess
from store_values import (
    BACKEND,
    CLIENT,
    IDENTITY,
    KEY,
    NEVER,
    NOW,
    OTHER,
    SESSION,
    OpenStore,
)

from backends import apps, redis, sqlite
from backends.errors import StoreError
from backends.model import BackendId
from backends.records import (
    AgentRecord,
    ApiTokenRecord,
    ClientRecord,
    DrainRecord,
    PairingRecord,
    SessionRecord,
    SigningKeyRecord,
    StickyRecord,
)
from backends.redis import RedisStore
from backends.sqlite import SqliteStore
from backends.store import Store
from backends.tokens import new_agent_token, token_hash

OpenWithKey = Callable[[bytes], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=["sqlite", "redis"])
def open_with_key(request: pytest.FixtureRequest, tmp_path: Path) -> OpenWithKey:
    """Open the same store each time; another engine joins by another parameter."""
    if request.param == "sqlite":
        return lambda key: SqliteStore.open(tmp_path / "moonhost.db", key)
    server: RedisProcess = request.getfixturevalue("redis_server")
    prefix = f"{tmp_path.name}:"
    return lambda key: RedisStore.open(server.url, key, prefix=prefix)


@pytest.fixture
def open_store(open_with_key: OpenWithKey) -> OpenStore:
    return lambda: open_with_key(KEY)


@pytest.fixture
def open_with_another_key(open_with_key: OpenWithKey) -> OpenStore:
    return lambda: open_with_key(bytes(32))


async def test_an_empty_store_has_nothing(open_store: OpenStore) -> None:
    async with open_store() as store:
        assert await store.get_edge_identity() is None
        assert await store.get_client(CLIENT.id) is None
        assert await store.get_host_identity(CLIENT.id) is None
        assert await store.get_pairing(CLIENT.id, BACKEND) is None
        assert await store.get_sticky(CLIENT.id) is None
        assert await store.agent_for_token_hash(b"x" * 32) is None
        assert await store.api_token_for_hash(b"x" * 32) is None
        assert await store.get_api_token("anna") is None
        assert await store.app_ids_for([]) == {}
        lists = (
            await store.list_clients(),
            await store.list_sessions(),
            await store.list_agents(),
            await store.list_api_tokens(),
            await store.list_signing_keys(),
            await store.list_drains(),
        )
        assert lists == ((), (), (), (), (), ())
        assert not await store.delete_client(CLIENT.id)
        assert not await store.delete_pairing(CLIENT.id, BACKEND)
        assert not await store.delete_sticky(CLIENT.id, BACKEND)
        assert not await store.set_client_user(CLIENT.id, "anna")
        assert not await store.set_client_name(CLIENT.id, "TV")
        assert not await store.delete_session("s1")
        assert not await store.revoke_agent("alpha")
        assert not await store.delete_api_token("anna")
        assert not await store.delete_signing_key("k1")
        assert not await store.delete_drain("alpha")


async def test_everything_is_there_after_reopening(open_store: OpenStore) -> None:
    pairing = PairingRecord(CLIENT.id, BACKEND, b"host DER", NOW)
    sticky = StickyRecord(CLIENT.id, BACKEND, NEVER)
    async with open_store() as store:
        await store.add_edge_identity(IDENTITY)
        await store.put_client(CLIENT)
        await store.add_host_identity(CLIENT.id, OTHER)
        await store.put_pairing(pairing)
        await store.put_sticky(sticky)
        await store.add_session(SESSION)
        await store.put_agent_token("alpha", b"h" * 32, NOW)
        await store.put_drain("alpha", NOW)
        await store.put_drain(BACKEND, NOW, NOW + timedelta(hours=2))
        ids = await store.app_ids_for(["Desktop"])
    async with open_store() as store:
        assert await store.get_edge_identity() == IDENTITY
        assert await store.get_client(CLIENT.id) == CLIENT
        assert await store.get_host_identity(CLIENT.id) == OTHER
        assert await store.get_pairing(CLIENT.id, BACKEND) == pairing
        assert await store.get_sticky(CLIENT.id) == sticky
        assert await store.list_sessions() == (SESSION,)
        assert await store.list_agents() == (AgentRecord("alpha", NOW, 1),)
        assert await store.list_drains() == (
            DrainRecord("alpha", NOW),
            DrainRecord(BACKEND, NOW, NOW + timedelta(hours=2)),
        )
        assert await store.app_ids_for(["Desktop"]) == ids


async def test_the_first_identity_is_kept(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.put_client(CLIENT)
        assert await store.add_edge_identity(IDENTITY) == IDENTITY
        assert await store.add_edge_identity(OTHER) == IDENTITY
        assert await store.add_host_identity(CLIENT.id, OTHER) == OTHER
        assert await store.add_host_identity(CLIENT.id, IDENTITY) == OTHER


async def test_a_host_identity_needs_its_client(open_store: OpenStore) -> None:
    async with open_store() as store:
        with pytest.raises(StoreError) as caught:
            await store.add_host_identity(CLIENT.id, OTHER)
        assert caught.value.reason == "conflict"


async def test_pairing_anew_keeps_what_belongs_to_the_client(open_store: OpenStore) -> None:
    again = ClientRecord(CLIENT.id, "Living room", b"DER2", NOW + timedelta(days=1))
    async with open_store() as store:
        await store.put_client(CLIENT)
        await store.add_host_identity(CLIENT.id, OTHER)
        await store.put_client(again)
        assert await store.list_clients() == (again,)
        assert await store.get_host_identity(CLIENT.id) == OTHER


async def test_a_deleted_client_leaves_nothing_behind(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.put_client(CLIENT)
        await store.add_host_identity(CLIENT.id, OTHER)
        await store.put_pairing(PairingRecord(CLIENT.id, BACKEND, b"der", NOW))
        await store.put_sticky(StickyRecord(CLIENT.id, BACKEND, NEVER))
        assert await store.delete_client(CLIENT.id)
        assert await store.get_host_identity(CLIENT.id) is None
        assert await store.get_pairing(CLIENT.id, BACKEND) is None
        assert await store.get_sticky(CLIENT.id) is None


async def test_clients_are_listed_longest_paired_first(open_store: OpenStore) -> None:
    older = ClientRecord("ff" * 32, "Phone", b"", NOW - timedelta(hours=1))
    async with open_store() as store:
        await store.put_client(CLIENT)
        await store.put_client(older)
        assert await store.list_clients() == (older, CLIENT)


async def test_put_replaces_and_delete_tells(open_store: OpenStore) -> None:
    moved = BackendId("beta/wolf")
    async with open_store() as store:
        await store.put_client(CLIENT)
        for backend in (BACKEND, moved):
            await store.put_sticky(StickyRecord(CLIENT.id, backend, NEVER))
        assert await store.get_sticky(CLIENT.id) == StickyRecord(CLIENT.id, moved, NEVER)
        assert not await store.delete_sticky(CLIENT.id, BACKEND)
        assert await store.delete_sticky(CLIENT.id, moved)
        for der in (b"1", b"2"):
            await store.put_pairing(PairingRecord(CLIENT.id, BACKEND, der, NOW))
        assert await store.get_pairing(CLIENT.id, moved) is None
        pairing = await store.get_pairing(CLIENT.id, BACKEND)
        assert pairing is not None
        assert pairing.host_certificate_der == b"2"
        assert await store.delete_pairing(CLIENT.id, BACKEND)


async def test_what_is_kept_for_a_client_needs_it(open_store: OpenStore) -> None:
    async with open_store() as store:
        for put in (
            lambda: store.put_pairing(PairingRecord(CLIENT.id, BACKEND, b"der", NOW)),
            lambda: store.put_sticky(StickyRecord(CLIENT.id, BACKEND, NEVER)),
        ):
            with pytest.raises(StoreError) as caught:
                await put()
            assert caught.value.reason == "conflict"


async def test_an_expired_sticky_entry_is_itself_or_forgotten(open_store: OpenStore) -> None:
    expired = StickyRecord(CLIENT.id, BACKEND, NOW - timedelta(days=1))
    async with open_store() as store:
        await store.put_client(CLIENT)
        await store.put_sticky(replace(expired, expires_at=NEVER))
        await store.put_sticky(expired)
        assert await store.get_sticky(CLIENT.id) in (None, expired)


async def test_another_key_is_refused_with_a_sentence(
    open_store: OpenStore, open_with_another_key: OpenStore
) -> None:
    async with open_store() as store:
        await store.add_edge_identity(IDENTITY)
    async with open_with_another_key() as store:
        with pytest.raises(StoreError, match="is this the key it was written with"):
            await store.get_edge_identity()


async def test_a_session_follows_its_states(open_store: OpenStore) -> None:
    paused = SessionRecord(
        "s1", CLIENT.id, BACKEND, "Desktop", "paused", NOW, NOW + timedelta(seconds=5), b"new"
    )
    async with open_store() as store:
        await store.add_session(SESSION)
        assert await store.update_session(paused)
        assert not await store.update_session(SESSION), "a late write must not undo a later state"
        assert await store.list_sessions() == (paused,)
        assert await store.delete_session("s1")
        assert not await store.update_session(paused), "what has ended stays ended"
        assert await store.list_sessions() == ()


async def test_a_session_is_added_once(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.add_session(SESSION)
        with pytest.raises(StoreError) as caught:
            await store.add_session(SESSION)
        assert caught.value.reason == "conflict"


async def test_a_client_can_be_given_to_another_user(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.put_client(CLIENT)
        for user in ("ben", None):
            assert await store.set_client_user(CLIENT.id, user)
            assert await store.get_client(CLIENT.id) == replace(CLIENT, user=user)


async def test_a_client_can_be_renamed_and_stays_what_it_is(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.put_client(CLIENT)
        assert await store.set_client_name(CLIENT.id, "Wohnzimmer ☕")
        assert await store.get_client(CLIENT.id) == replace(CLIENT, name="Wohnzimmer ☕")


async def test_tokens_rotate_and_are_revoked_together(open_store: OpenStore) -> None:
    old, new = token_hash(new_agent_token()), token_hash(new_agent_token())
    async with open_store() as store:
        await store.put_agent_token("alpha", old, NOW)
        await store.put_agent_token("alpha", new, NOW + timedelta(days=1))
        await store.put_agent_token("beta", b"b" * 32, NOW)
        assert await store.agent_for_token_hash(old) == "alpha"
        assert await store.agent_for_token_hash(new) == "alpha"
        assert await store.list_agents() == (
            AgentRecord("alpha", NOW, 2),
            AgentRecord("beta", NOW, 1),
        )
        assert await store.revoke_agent("alpha")
        assert await store.agent_for_token_hash(new) is None
        assert await store.agent_for_token_hash(b"b" * 32) == "beta"


ANNA = ApiTokenRecord("anna", b"a" * 32, ("read", "pair"), NOW)


async def test_api_tokens_have_one_name_each(open_store: OpenStore) -> None:
    namesake = replace(ANNA, token_hash=b"n" * 32, scopes=("admin",))
    robot = ApiTokenRecord("a-robot", b"r" * 32, ("read",), NOW)
    async with open_store() as store:
        assert await store.add_api_token(ANNA)
        assert not await store.add_api_token(namesake)
        assert await store.add_api_token(robot)
        assert await store.api_token_for_hash(namesake.token_hash) is None
        assert await store.api_token_for_hash(ANNA.token_hash) == ANNA
        assert await store.get_api_token("anna") == ANNA
        assert await store.list_api_tokens() == (robot, ANNA)
        assert await store.delete_api_token("anna")
        assert await store.api_token_for_hash(ANNA.token_hash) is None
        assert await store.add_api_token(namesake)
        assert await store.list_api_tokens() == (robot, namesake)
    assert b"a" * 9 not in repr(ANNA).encode()


async def test_of_edges_that_both_want_a_new_key_one_gets_it(open_store: OpenStore) -> None:
    first = SigningKeyRecord("k1", b"PRIVATE", NOW)
    second = SigningKeyRecord("k2", b"PRIVATE", NOW + timedelta(days=30))
    async with open_store() as store, open_store() as another:
        assert await store.add_signing_key(first, ())
        assert not await another.add_signing_key(replace(first, kid="kx"), ())
        assert await store.add_signing_key(second, ["k1"])
        assert not await another.add_signing_key(replace(second, kid="kx"), ["k1"])
        assert await another.list_signing_keys() == (first, second)
        assert await another.delete_signing_key("k1")
        assert await store.list_signing_keys() == (second,)
    assert "PRIVATE" not in repr(first)


async def test_signing_keys_are_sealed(
    open_store: OpenStore, open_with_another_key: OpenStore
) -> None:
    async with open_store() as store:
        await store.add_signing_key(SigningKeyRecord("k1", b"PRIVATE", NOW), ())
    async with open_with_another_key() as store:
        with pytest.raises(StoreError, match="cannot be decrypted"):
            await store.list_signing_keys()


async def test_another_process_token_is_seen_at_once(open_store: OpenStore) -> None:
    async with open_store() as edge, open_store() as command_line:
        assert await edge.agent_for_token_hash(b"h" * 32) is None
        await command_line.put_agent_token("alpha", b"h" * 32, NOW)
        assert await edge.agent_for_token_hash(b"h" * 32) == "alpha"
        await command_line.revoke_agent("alpha")
        assert await edge.agent_for_token_hash(b"h" * 32) is None


async def test_a_drain_keeps_its_first_time_and_its_last_deadline(open_store: OpenStore) -> None:
    deadline = NOW + timedelta(hours=3)
    async with open_store() as store:
        await store.put_drain("alpha", NOW)
        await store.put_drain("alpha", NOW, deadline)
        assert await store.list_drains() == (DrainRecord("alpha", NOW, deadline),)
        await store.put_drain("alpha", NOW + timedelta(hours=1))
        await store.put_drain(BACKEND, NOW)
        assert await store.list_drains() == (DrainRecord("alpha", NOW), DrainRecord(BACKEND, NOW))
        assert await store.delete_drain("alpha")
        assert await store.list_drains() == (DrainRecord(BACKEND, NOW),)


async def test_app_ids_are_by_normalised_title(open_store: OpenStore) -> None:
    async with open_store() as store:
        ids = await store.app_ids_for(["Desktop", "  DESKTOP ", "Steam", "\n"])
        assert ids == {"desktop": apps.app_id("Desktop"), "steam": apps.app_id("Steam")}


async def test_colliding_titles_get_ids_of_their_own(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in (sqlite, redis):
        monkeypatch.setattr(engine, "app_id", lambda _title, attempt: 7 + attempt)
    async with open_store() as store:
        assert await store.app_ids_for(["Aa"]) == {"aa": 7}
        assert await store.app_ids_for(["Bb", "Aa", "Cc"]) == {"aa": 7, "bb": 8, "cc": 9}
        many = [f"title {number}" for number in range(10, 20)]
        assert await store.app_ids_for(many) == dict(zip(many, range(10, 20), strict=True))
    async with open_store() as store:
        assert await store.app_ids_for(["Cc"]) == {"cc": 9}


async def test_many_tasks_at_once(open_store: OpenStore) -> None:
    async with open_store() as store:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(store.put_drain, f"agent-{number:02}", NOW)
        assert len(await store.list_drains()) == 20
