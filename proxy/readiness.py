"""Whether an edge should be sent new clients: one answer for ``/readyz`` and for metrics."""

from __future__ import annotations


def why_not_ready(*, accepting: bool, store_up: bool) -> str | None:
    """Tell why an edge can take no launches; None where it can.

    Without its store an edge goes on with what streams, and can begin nothing.
    """
    reasons = [
        reason
        for reason, holds in (("draining", not accepting), ("store down", not store_up))
        if holds
    ]
    return ", ".join(reasons) or None
