"""Values that several of the admin API's answers and questions hold."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec

from backends.geography import ClientPlace, LocatedBy

Time = Annotated[datetime, msgspec.Meta(tz=True)]
"""Of UTC; RFC 3339 in JSON."""

max_id_characters: Final = 64


class ById(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The path of one thing."""

    id: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=max_id_characters, description="The id that the list shows."
        ),
    ]


class Whereabouts(msgspec.Struct, frozen=True):
    """Where a client is, and who says so."""

    located_by: LocatedBy
    region: str | None
    latitude: float | None
    longitude: float | None

    @classmethod
    def of(cls, client: ClientPlace) -> Whereabouts:
        """Return it as the fleet located it."""
        place = client.place
        return cls(
            client.located_by,
            client.region,
            None if place is None else place.latitude,
            None if place is None else place.longitude,
        )


def rfc3339(at: datetime) -> str:
    """Write a time of UTC as msgspec writes a `Time`."""
    return at.isoformat().replace("+00:00", "Z")


def milliseconds(seconds: float | None) -> float | None:
    """Return a length of time in ms, to a tenth of one."""
    return None if seconds is None else round(seconds * 1000, 1)
