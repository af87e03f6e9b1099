"""What the commands read and say in words: lengths of time, events, why a launch goes somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from moonhost.errors import CommandFailed
from moonlight.errors import printable
from proxy.admin.drains import max_deadline_s

max_line_characters: Final = 1_024
_units: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_length: Final = re.compile(r"([0-9]{1,8})([smhd])")


def seconds_of(text: str) -> int:
    """Read a length of time such as ``90s``, ``30m``, ``2h`` or ``1d``.

    Raises:
        CommandFailed: it is none, or longer than a year.

    """
    match = _length.fullmatch(text)
    if match is None or int(match[1]) * _units[match[2]] > max_deadline_s:
        raise CommandFailed("A length of time is written as 90s, 30m, 2h or 1d: up to 365d.")
    return int(match[1]) * _units[match[2]]


def plain(value: object) -> str:
    """Make what others named fit for a line of a terminal."""
    return printable(str(value), max_line_characters)


def event_line(event: dict[str, Any]) -> str:
    """Tell in one line what happened."""
    known = ("id", "at", "kind", "subject")
    details = [f"{name}={value}" for name, value in event.items() if name not in known]
    return plain("  ".join([event["at"], event["kind"], event["subject"], *details]))


_located: Final = {
    "pinned_network": "its network is pinned to {region}",
    "database": "the database has it at {latitude:.2f}, {longitude:.2f}",
    "edge_region": "nobody knows where it is, so it counts as in {region}, the edge's region",
    "nothing": "nobody knows where it is, and geography.edge_region is not set",
}
_reasons: Final = {
    "running": "the client's session runs there",
    "sticky": "the client played there last",
    "nearest": "no region that has the app is nearer",
    "spilled": "nearer regions have no room: {regions}",
    "quickest": "its tunnel has the shortest round trip",
    "least_loaded": "it is the least loaded",
}


def explanation(told: dict[str, Any]) -> Iterator[str]:
    """Tell in sentences what the admin API's explanation says."""
    place = told["client_place"]
    yield f"The client: {_located[place['located_by']].format(**place)}."
    if told["chosen"] is None:
        yield f"It would get no host ({told['reason']}): {told['message']}"
        return
    reason = told["reason"]
    if reason == "nearest" and told["distance_km"] is None:
        reason = "quickest"  # as nothing is near, or everything is
    why = _reasons[reason].format(regions=", ".join(told["passed_over"]))
    far = "" if told["distance_km"] is None else f", {told['distance_km']} km away"
    yield f"It would get {told['chosen']} in {told['region']}{far}: {why}."
