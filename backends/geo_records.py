"""Reads a place out of one record of a MaxMind-format database, whoever made it.

Two shapes are known: GeoLite2's and GeoIP2's (``location.latitude``), and the flat one of the npm
packages ``@ip-location-db/*`` (``latitude`` beside ``country_code``, as numbers or as text).
"""

from __future__ import annotations

from typing import Final

from backends.geography import Place

_max_number_characters: Final = 32
# Where databases put what they cannot place; in truth it is open sea.
_null_island: Final = Place(0.0, 0.0)


def place_in(record: object) -> Place | None:
    """Return the place that a record gives; None where it gives no coordinates.

    Raises:
        ValueError: the record is malformed, or its coordinates are nowhere on earth.

    """
    fields = _table(record)
    if "latitude" not in fields and "longitude" not in fields:
        fields = _table(fields.get("location", {}))
    latitude, longitude = fields.get("latitude"), fields.get("longitude")
    if _is_empty(latitude) and _is_empty(longitude):
        return None
    place = Place(_degrees(latitude, 90), _degrees(longitude, 180))
    return None if place == _null_island else place


def names_country(record: object) -> bool:
    """Tell whether a record says which country an address is in."""
    return isinstance(record, dict) and not record.keys().isdisjoint(("country", "country_code"))


def _table(value: object) -> dict[object, object]:
    if not isinstance(value, dict):
        raise ValueError("a record of the database is no table")
    return value


def _is_empty(value: object) -> bool:
    return value is None or value == ""


def _degrees(value: object, limit: int) -> float:
    if isinstance(value, str) and len(value) <= _max_number_characters:
        value = float(value)
    # A bool is an int to Python, and no number of degrees.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a coordinate is no number")
    if not -limit <= value <= limit:  # as for NaN
        raise ValueError("a coordinate is out of range")
    return float(value)
