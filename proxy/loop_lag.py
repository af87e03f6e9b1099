"""How late the event loop runs what is due: media waits for as long, in every session at once."""

from __future__ import annotations

from typing import Final

import trio

from proxy.tallies import Histogram

interval_s: Final = 0.25
bounds_s: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


async def watch_lag(lags: Histogram) -> None:
    """Note every `interval_s` how much later than asked a sleep ends, until cancelled."""
    while True:
        due_at = trio.current_time() + interval_s
        await trio.sleep_until(due_at)
        lags.observe(max(0.0, trio.current_time() - due_at))
