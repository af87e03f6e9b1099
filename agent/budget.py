"""How much of a control message the hosts' apps and GPUs may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
import msgspec.structs

from revdial.messages import (
    FlowReport,
    Heartbeat,
    max_control_message_bytes,
    max_flow_reports,
)

T = TypeVar("T", bound=msgspec.Struct)

max_app_bytes = 36_864
"""Of all hosts' apps together, so that a hello stays within a control message."""
max_gpu_bytes = 15_360
"""Of all hosts' GPUs together, so that a heartbeat does too, new apps and 64 hosts included."""


message_margin_bytes = 128
"""What a heartbeat's own punctuation takes beside its parts."""


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


def with_flows(heartbeat: Heartbeat, flows: Sequence[FlowReport]) -> Heartbeat:
    """Give the same heartbeat with as many of `flows` as a control message has room for."""
    taken = len(msgspec.json.encode(heartbeat)) + message_margin_bytes
    kept = fit(flows[:max_flow_reports], max_control_message_bytes - taken)
    return msgspec.structs.replace(heartbeat, flows=kept)
