"""The configuration in force, and how another one comes in its place while the process runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Generic, TypeVar

import structlog
from pydantic import BaseModel

from settings.loader import ConfigError
from settings.reload_plan import plan_reload

_Model = TypeVar("_Model", bound=BaseModel)
_log = structlog.get_logger()


class ReloadOutcome(StrEnum):
    """What came of reading the configuration again."""

    RELOADED = "reloaded"
    REFUSED = "refused"
    """It cannot be used; the former one stays."""


class ReloadFigures:
    """How often the configuration was read again, and whether the last time succeeded."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        """By `ReloadOutcome`."""
        self.last_successful = True

    def count(self, outcome: ReloadOutcome) -> None:
        """Note what came of one."""
        self.outcomes[outcome] += 1
        self.last_successful = outcome is ReloadOutcome.RELOADED


class Reloading(Generic[_Model]):
    """Reads the configuration again, and puts all of it in force that can change, or nothing.

    Args:
        config: what the process was started with.
        reloadable: the dotted paths of settings that can change, see `settings.reload_plan`.
        prepare: does what can fail or takes time for another configuration, and returns what then
            puts it in force without waiting.
        refusals: what `prepare` raises where a configuration cannot be used, besides `ConfigError`.

    """

    def __init__(
        self,
        config: _Model,
        reloadable: frozenset[str],
        prepare: Callable[[_Model], Awaitable[Callable[[], None]]],
        refusals: tuple[type[Exception], ...] = (),
    ) -> None:
        self.config = config
        """The configuration in force."""
        self.figures = ReloadFigures()
        self._reloadable = reloadable
        self._prepare = prepare
        self._refusals: tuple[type[Exception], ...] = (ConfigError, *refusals)

    async def reload(self, load: Callable[[], _Model]) -> None:
        """Take what `load` returns; a `ConfigError` of it is logged, as all that follows."""
        try:
            plan = plan_reload(self.config, load(), self._reloadable)
            put_in_force = await self._prepare(plan.config)
        except self._refusals as error:
            self.figures.count(ReloadOutcome.REFUSED)
            _log.error("configuration_refused", why=str(error))
            return
        self.config = plan.config
        put_in_force()
        self.figures.count(ReloadOutcome.RELOADED)
        _log.info("configuration_reloaded", changed=list(plan.changed))
        if plan.needs_restart:
            _log.warning("restart_needed", settings=list(plan.needs_restart))
