"""What comes into force while a process runs: all that can of a usable file, or nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from pydantic import BaseModel, ConfigDict
from structlog.testing import capture_logs

from settings import ConfigError, Problem
from settings.reload_plan import leaves, plan_reload
from settings.reloading import Reloading


class Place(BaseModel):
    model_config = ConfigDict(frozen=True)

    near: str = "here"


class Door(BaseModel):
    model_config = ConfigDict(frozen=True)

    port: int = 1
    width: int = 1


class House(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str = "house"
    door: Door = Door()
    places: dict[str, Place] = {}
    annex: Place | None = None


RELOADABLE = frozenset({"name", "door.width", "places"})


def test_a_setting_is_a_leaf_and_a_table_of_the_users_own_is_one() -> None:
    assert list(leaves(House)) == ["name", "door.port", "door.width", "places", "annex"]


def test_what_can_change_does_and_what_cannot_is_named_and_stays() -> None:
    old = House()
    new = House(
        name="hut",
        door=Door(port=2, width=2),
        places={"a": Place(near="there")},
        annex=Place(),
    )

    plan = plan_reload(old, new, RELOADABLE)

    assert plan.changed == ("name", "door.width", "places")
    assert plan.needs_restart == ("door.port", "annex")
    assert plan.config == House(name="hut", door=Door(port=1, width=2), places=new.places)
    assert old == House()


def test_what_needs_a_restart_is_named_until_there_is_one() -> None:
    wanted = House(door=Door(port=2))
    first = plan_reload(House(), wanted, RELOADABLE)
    assert plan_reload(first.config, wanted, RELOADABLE).needs_restart == ("door.port",)


def test_the_same_again_changes_nothing() -> None:
    plan = plan_reload(House(), House(), RELOADABLE)
    assert (plan.config, plan.changed, plan.needs_restart) == (House(), (), ())


class Parts:
    """What goes by the configuration, and notes what it is told."""

    def __init__(self, *failures: Exception) -> None:
        self.in_force: list[House] = []
        self._failures = list(failures)

    async def prepare(self, config: House) -> Callable[[], None]:
        if self._failures:
            raise self._failures.pop()
        return lambda: self.in_force.append(config)


def reloading(parts: Parts, *refusals: type[Exception]) -> Reloading[House]:
    prepare: Callable[[House], Awaitable[Callable[[], None]]] = parts.prepare
    return Reloading(House(), RELOADABLE, prepare, refusals)


async def test_a_reload_is_told_with_the_paths_and_never_the_values() -> None:
    parts = Parts()
    ours = reloading(parts)
    with capture_logs() as events:
        await ours.reload(lambda: House(name="secret", door=Door(port=7)))

    assert parts.in_force == [ours.config] == [House(name="secret")]
    assert events == [
        {"event": "configuration_reloaded", "log_level": "info", "changed": ["name"]},
        {"event": "restart_needed", "log_level": "warning", "settings": ["door.port"]},
    ]
    assert ours.figures.outcomes == {"reloaded": 1}
    assert ours.figures.last_successful


@pytest.mark.parametrize("when", ["load", "prepare"])
async def test_what_cannot_be_used_leaves_everything_as_it_was(when: str) -> None:
    error = ConfigError(None, (Problem("door.port", "is taken"), Problem("name", "is odd")))
    parts = Parts(*([error] if when == "prepare" else []))
    ours = reloading(parts)

    def load() -> House:
        if when == "load":
            raise error
        return House(name="hut")

    with capture_logs() as events:
        await ours.reload(load)

    assert (ours.config, parts.in_force) == (House(), [])
    assert events == [
        {"event": "configuration_refused", "log_level": "error", "why": str(error)},
    ]
    assert ours.figures.outcomes == {"refused": 1}
    assert not ours.figures.last_successful
    await ours.reload(House)
    assert ours.figures.last_successful


async def test_parts_may_refuse_in_their_own_words() -> None:
    ours = reloading(Parts(LookupError("no such file")), LookupError)
    with capture_logs() as events:
        await ours.reload(House)
    assert events[0]["why"] == "no such file"
