"""An id is good once, for the tunnel that was asked, while somebody waits."""

from __future__ import annotations

import pytest
import trio

from revdial.errors import TunnelClosed
from revdial.pending import PendingTable, new_id


async def test_an_id_is_claimed_once_and_only_through_its_own_tunnel() -> None:
    table: PendingTable[str] = PendingTable()
    with table.waiting(1) as (dial_id, pending):
        assert table.claim(dial_id, 2) is None
        assert table.claim("another", 1) is None
        assert dial_id in table
        assert table.claim(dial_id, 1) is pending
        assert table.claim(dial_id, 1) is None
        assert pending.deliver("it")
        assert not pending.deliver("again")
        assert await pending.wait() == "it"
    assert len(table) == 0


async def test_an_unclaimed_id_is_forgotten_when_nobody_waits() -> None:
    table: PendingTable[str] = PendingTable()
    with table.waiting(1) as (dial_id, pending):
        assert pending.abandon() is None
    assert table.claim(dial_id, 1) is None
    assert not pending.deliver("late")
    assert not pending.fail(TunnelClosed())


async def test_a_lost_tunnel_fails_only_its_own() -> None:
    table: PendingTable[str] = PendingTable()
    with table.waiting(1) as (_, lost), table.waiting(2) as (_, other):
        table.fail_all(1, TunnelClosed())
        with pytest.raises(TunnelClosed):
            await lost.wait()
        with trio.move_on_after(0):
            await other.wait()
        assert other.deliver("still")


def test_ids_are_192_random_bits() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000
    assert all(len(new_id()) == 32 for _ in range(10))
