"""Times as the stores keep them: microseconds since 1970, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_epoch: Final = datetime(1970, 1, 1, tzinfo=UTC)
_microsecond: Final = timedelta(microseconds=1)


def to_us(time: datetime) -> int:
    """Return a time as it is kept."""
    return (time - _epoch) // _microsecond


def from_us(microseconds: int) -> datetime:
    """Return what was kept as a time; `OverflowError` for one that no calendar has."""
    return _epoch + timedelta(microseconds=microseconds)
