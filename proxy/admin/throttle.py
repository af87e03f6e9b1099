"""Slows down whoever guesses tokens: each network waits longer after each wrong one.

An attempt counts as wrong from its beginning until it proves right, so that asking many at once
gains nothing. When wrong tokens come from everywhere, networks that have shown one wait too; a
network that has shown none never waits. Times are of the caller's clock, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_max_doublings: Final = 30


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last_at: float = 0.0
    blocked_until: float = 0.0


class Throttle:
    """Counts wrong tokens. Of more networks than it remembers, the quietest are forgotten."""

    def __init__(
        self,
        *,
        max_networks: int = 4_096,
        free_failures: int = 10,
        free_failures_overall: int = 200,
        first_wait_s: float = 1.0,
        max_wait_s: float = 300.0,
        forget_after_s: float = 900.0,
    ) -> None:
        self._max_networks = max_networks
        self._free_failures = free_failures
        self._free_failures_overall = free_failures_overall
        self._first_wait_s = first_wait_s
        self._max_wait_s = max_wait_s
        self._forget_after_s = forget_after_s
        self._networks: dict[str, _Failures] = {}
        self._overall = _Failures()

    def __len__(self) -> int:
        return len(self._networks)

    def attempt(self, network: str, now: float) -> float:
        """Return how long a network has to wait, in seconds; 0 begins an attempt.

        Tell `was_right` or `was_wrong` what became of it.
        """
        failures = self._networks.pop(network, None)
        if failures is None or now - failures.last_at >= self._forget_after_s:
            failures = _Failures()
        else:
            blocked_until = max(failures.blocked_until, self._overall.blocked_until)
            if blocked_until > now:
                self._networks[network] = failures
                return blocked_until - now
        if len(self._networks) >= self._max_networks:
            del self._networks[next(iter(self._networks))]
        self._networks[network] = failures
        self._count(failures, self._free_failures, now)
        return 0.0

    def was_right(self, network: str, now: float) -> None:
        """End an attempt that is none to slow down."""
        failures = self._networks.get(network)
        if failures is None:
            return
        failures.count -= 1
        failures.blocked_until = now
        if failures.count <= 0:
            del self._networks[network]

    def was_wrong(self, now: float) -> None:
        """End an attempt with a wrong token."""
        if now - self._overall.last_at >= self._forget_after_s:
            self._overall = _Failures()
        self._count(self._overall, self._free_failures_overall, now)

    def _count(self, failures: _Failures, free: int, now: float) -> None:
        failures.count += 1
        failures.last_at = now
        beyond = failures.count - free
        if beyond >= 0:
            wait_s = self._first_wait_s * 2 ** min(beyond, _max_doublings)
            failures.blocked_until = now + min(wait_s, self._max_wait_s)
