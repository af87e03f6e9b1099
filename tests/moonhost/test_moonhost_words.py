from __future__ import annotations

from typing import Any

import pytest

from moonhost.errors import CommandFailed
from moonhost.words import event_line, explanation, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("1d", 86_400), ("0s", 0)]
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "-1s", "1w", "1.5h", "366d", "99999999d", "1h30m", "s"])
def test_what_is_no_length_of_time_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(CommandFailed, match="30m"):
        seconds_of(text)


def test_an_event_is_told_in_one_line_that_a_terminal_can_show() -> None:
    event = {"id": 7, "at": "2026-11-30T06:00:00Z", "kind": "pairing_asked", "subject": "ab12"}
    assert event_line(event | {"device": "TV\x1b[2J", "address": "::1"}) == (
        "2026-11-30T06:00:00Z  pairing_asked  ab12  device=TV?[2J  address=::1"
    )


def told(**others: Any) -> dict[str, Any]:
    place = {"located_by": "database", "region": None, "latitude": 50.0, "longitude": 8.5}
    chosen = {"chosen": "a/wolf", "region": "eu", "reason": "nearest", "distance_km": 12}
    return {"client_place": place, "passed_over": [], **chosen, **others}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (told(), ["the database has it at 50.00, 8.50", "a/wolf in eu, 12 km away: no region"]),
        (told(distance_km=None), ["a/wolf in eu: its tunnel has the shortest round trip"]),
        (told(distance_km=None, reason="sticky"), ["a/wolf in eu: the client played there last"]),
        (told(reason="spilled", passed_over=["us", "jp"]), ["nearer regions have no room: us, jp"]),
        (
            told(chosen=None, reason="all_full", message="All in use."),
            ["no host (all_full): All in use."],
        ),
        (
            told(client_place={"located_by": "nothing", "region": None}),
            ["geography.edge_region is not set"],
        ),
    ],
)
def test_an_explanation_is_told_in_sentences(answer: dict[str, Any], words: list[str]) -> None:
    text = "\n".join(explanation(answer))
    for part in words:
        assert part in text
