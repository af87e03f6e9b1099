"""Which backends are woken now, and how: decided from what is asleep and what was tried when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from backends.model import Backend, BackendId, Health


class WakeOutcome(StrEnum):
    """What came of a wish to wake backends."""

    AGENT_SENT = "agent_sent"
    """An agent has sent the magic packet."""
    WEBHOOK_CALLED = "webhook_called"
    AGENT_OFFLINE = "agent_offline"
    AGENT_FAILED = "agent_failed"
    WEBHOOK_FAILED = "webhook_failed"
    NOTHING_ASLEEP = "nothing_asleep"
    TRIED_LATELY = "tried_lately"
    """What sleeps has been woken within the configured interval."""
    REPEATED = "repeated"
    """A magic packet right after another: clients send one to each of many ports."""


@dataclass(frozen=True, slots=True)
class WakeRule:
    """How one backend is woken: by an agent in its neighbourhood, or by the webhook (both None)."""

    backend: BackendId
    agent: str | None = None
    neighbour: str | None = None
    """What that agent calls the backend's machine."""


@dataclass(frozen=True, slots=True)
class WakeAction:
    """One thing to do; it may wake several backends, as those on one machine."""

    backends: tuple[BackendId, ...]
    agent: str | None = None
    """None for the webhook."""
    neighbour: str | None = None


@dataclass(slots=True)
class _Try:
    since: float
    ended: bool = False
    failed: bool = False


class WakeHistory:
    """When each backend was last woken, so that nobody can have it done too often.

    `now` is a monotonic clock in seconds. Whatever came of it, a backend's next try comes
    `min_interval_s` after the last one began, and after that one has ended.
    """

    def __init__(self, min_interval_s: float) -> None:
        self._min_interval_s = min_interval_s
        self._tries: dict[BackendId, _Try] = {}

    def due(self, rules: Iterable[WakeRule], now: float) -> tuple[WakeRule, ...]:
        """Give those of these rules whose backends may be woken now."""
        return tuple(rule for rule in rules if not self._is_recent(rule.backend, now))

    def begin(self, action: WakeAction, now: float) -> None:
        """Note that an action begins."""
        for backend in action.backends:
            self._tries[backend] = _Try(now)

    def end(self, action: WakeAction, *, failed: bool) -> None:
        """Note what came of an action."""
        for backend in action.backends:
            self._tries[backend].ended = True
            self._tries[backend].failed = failed

    def is_waking(self, backend: BackendId, now: float) -> bool:
        """Tell whether there is hope: it was woken lately, and nothing went wrong with that."""
        return self._is_recent(backend, now) and not self._tries[backend].failed

    def _is_recent(self, backend: BackendId, now: float) -> bool:
        last = self._tries.get(backend)
        return last is not None and (not last.ended or now - last.since < self._min_interval_s)


def is_asleep(backend: Backend | None) -> bool:
    """Tell whether a backend may be asleep: unknown, without its agent, or without its host.

    One that is drained was taken out of service on purpose, and is left alone.
    """
    return backend is None or (backend.health is Health.UNHEALTHY and not backend.draining)


def actions(rules: Iterable[WakeRule]) -> tuple[WakeAction, ...]:
    """Say what to do about rules: one action a machine, and one call of the webhook for all."""
    together: dict[tuple[str | None, str | None], list[BackendId]] = {}
    for rule in rules:
        together.setdefault((rule.agent, rule.neighbour), []).append(rule.backend)
    return tuple(
        WakeAction(tuple(backends), agent, neighbour)
        for (agent, neighbour), backends in together.items()
    )
