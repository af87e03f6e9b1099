from __future__ import annotations

import pytest
import trio
from proxy_fakes import FakeStore

from backends.errors import StoreError
from proxy.loop_lag import bounds_s, watch_lag
from proxy.measured_store import StoreFigures, measured
from proxy.tallies import Histogram


async def test_operations_are_timed_apart_by_reading_and_writing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    figures = StoreFigures()
    store = measured(FakeStore(), figures)
    assert await store.list_drains() == ()
    await store.put_drain("agent", None)  # type: ignore[arg-type]
    await store.list_drains()
    assert (figures.seconds["read"].count, figures.seconds["write"].count) == (2, 1)
    assert figures.up


async def test_a_store_that_is_away_is_down_until_it_answers() -> None:
    figures, fake = StoreFigures(), FakeStore()
    store = measured(fake, figures)
    fake.away = True
    with pytest.raises(StoreError):
        await store.list_clients()
    assert (figures.up, figures.failures) == (False, {"read": 1, "write": 0})
    fake.away = False
    await store.list_clients()
    assert (figures.up, figures.seconds["read"].count) == (True, 2)


async def test_what_is_no_operation_is_the_stores_own() -> None:
    fake = FakeStore()
    assert measured(fake, StoreFigures()).clients is fake.clients  # type: ignore[attr-defined]


async def test_a_loop_that_is_held_up_is_late(autojump_clock: trio.testing.MockClock) -> None:
    lags = Histogram(bounds_s)
    with trio.move_on_after(1.1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_lag, lags)
            await trio.sleep(0.2)
            autojump_clock.jump(0.25)  # a callback that took so long
            await trio.sleep_forever()
    assert lags.count >= 2
    assert lags.sum == pytest.approx(0.2)
