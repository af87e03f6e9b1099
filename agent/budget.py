"""How much of a control message the hosts' apps and GPUs may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

max_app_bytes = 36_864
"""Of all hosts' apps together, so that a hello stays within a control message."""
max_gpu_bytes = 15_360
"""Of all hosts' GPUs together, so that a heartbeat does too, new apps and 64 hosts included."""


def fit(items: Sequence[T], max_bytes: int) -> tuple[T, ...]:
    """Give the first of `items` that, written as JSON, take no more than `max_bytes`."""
    kept = []
    left = max_bytes
    for item in items:
        left -= len(msgspec.json.encode(item)) + 1
        if left < 0:
            break
        kept.append(item)
    return tuple(kept)
