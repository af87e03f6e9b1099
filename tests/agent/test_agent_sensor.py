"""Blocking readers that work, fail and hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import trio
from structlog.testing import capture_logs

from agent.sensor import Reading, Sensor
from tests.waiting import until


class Script:
    """A reader that does the next of what it is told, and counts how often it was asked."""

    def __init__(self, *steps: Callable[[], Reading[int]]) -> None:
        self.steps = list(steps)
        self.asked = 0

    def __call__(self) -> Reading[int]:
        self.asked += 1
        return self.steps.pop(0)()


def works() -> Reading[int]:
    return Reading(7)


def is_faulty() -> Reading[int]:
    return Reading(3, ("card0: no\nanswer", "card1: neither"))


def raises() -> Reading[int]:
    raise RuntimeError("a secret")


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Holds readers until set; set at the end at the latest, so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()


async def test_failures_are_told_once_and_so_is_the_recovery() -> None:
    sensor = Sensor("drm", Script(works, is_faulty, raises, works, works, raises), timeout_s=10)
    with capture_logs() as logs:
        readings = [await sensor.read() for _ in range(6)]
    assert readings == [Reading(7), is_faulty(), None, Reading(7), Reading(7), None]
    assert [entry["event"] for entry in logs] == [
        "reading_failed",
        "reading_works_again",
        "reading_failed",
    ]
    assert logs[0]["why"] == "card0: no?answer"
    assert "RuntimeError at" in logs[2]["why"]
    assert "secret" not in str(logs)


async def test_a_reader_that_hangs_costs_one_deadline_and_one_thread(
    released: threading.Event,
) -> None:
    def hangs() -> Reading[int]:
        released.wait(10)
        return Reading(1)

    script = Script(hangs, works)
    sensor = Sensor("nvml", script, timeout_s=0.5)
    with capture_logs() as logs:
        assert await sensor.read() is None
        with trio.fail_after(0.4):  # Less than the deadline: nobody waits for it again.
            for _ in range(100):
                assert await sensor.read() is None
        assert script.asked == 1
        closed: list[None] = []
        with trio.move_on_after(0.4) as soon:
            await sensor.close(lambda: closed.append(None))
        assert not soon.cancel_called
        assert not closed
        released.set()

        async def heard() -> bool:
            return await sensor.read() == Reading(7)

        await until(heard)
        await sensor.close(lambda: closed.append(None))
        assert closed
    assert script.asked == 2
    assert [entry["event"] for entry in logs] == ["reading_failed", "reading_works_again"]
    assert "0.5 s" in logs[0]["why"]


async def test_whoever_asks_may_give_up_and_the_next_one_waits_for_the_reader(
    released: threading.Event,
) -> None:
    def hangs() -> Reading[int]:
        released.wait(10)
        return Reading(1)

    script = Script(hangs, works)
    sensor = Sensor("nvml", script, timeout_s=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sensor.read)
        await until(lambda: script.asked == 1)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, released.set)
        assert await sensor.read() == Reading(7)
