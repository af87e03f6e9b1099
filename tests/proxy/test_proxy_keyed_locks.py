from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.keyed_locks import KeyedLocks


async def test_one_task_at_a_time_holds_a_key_and_others_come_in_turn(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    locks: KeyedLocks[str] = KeyedLocks()
    order: list[str] = []

    async def hold(name: str, key: str) -> None:
        async with locks.held(key, timeout_s=60):
            order.append(f"{name} in")
            await trio.sleep(1)
            order.append(f"{name} out")

    async with trio.open_nursery() as holders:
        for name in ("first", "second"):
            holders.start_soon(hold, name, "key")
            await trio.testing.wait_all_tasks_blocked()
        holders.start_soon(hold, "other", "another key")
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["first in", "other in"]
        assert len(locks) == 2
    assert [entry for entry in order if not entry.startswith("other")] == [
        "first in",
        "first out",
        "second in",
        "second out",
    ]
    assert len(locks) == 0


async def test_who_waits_too_long_is_told_and_leaves_nothing(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    locks: KeyedLocks[str] = KeyedLocks()

    async def wait() -> None:
        with pytest.raises(trio.TooSlowError):
            async with locks.held("key", timeout_s=5):
                raise AssertionError("two hold one lock")

    async with locks.held("key", timeout_s=1), trio.open_nursery() as waiting:
        waiting.start_soon(wait)
    assert trio.current_time() == 5
    assert len(locks) == 0


async def test_an_error_inside_releases_the_lock() -> None:
    locks: KeyedLocks[str] = KeyedLocks()
    with pytest.raises(KeyError):
        async with locks.held("key", timeout_s=1):
            raise KeyError
    assert len(locks) == 0
