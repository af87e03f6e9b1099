"""How lines look: JSON for programs, words for people, the same shape whoever logged."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from moonhost import logs
from moonhost.log_flood import max_lines, minute_s
from moonhost.logs import FromLibraries, Logs

SECRET = "0123456789abcdef"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    yield
    structlog.reset_defaults()


def installed(stream: io.StringIO, clock: Clock | None = None) -> Logs:
    made = Logs(stream, clock or Clock())
    made.install()
    return made


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_where_nobody_looks() -> None:
    stream = io.StringIO()
    installed(stream).apply("info", "auto")
    structlog.get_logger().info("session_ended", session="s", why="two\nlines")

    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "session_ended",
        "level": "info",
        "session": "s",
        "why": "two\nlines",
    }


@pytest.mark.parametrize(
    ("stream", "log_format", "coloured", "json_line"),
    [
        (Terminal(), "auto", True, False),
        (Terminal(), "json", False, True),
        (Terminal(), "console", True, False),
        (io.StringIO(), "auto", False, True),
        (io.StringIO(), "console", False, False),
    ],
)
def test_the_format_is_what_was_asked_for(
    stream: io.StringIO, log_format: logs.LogFormat, coloured: bool, json_line: bool
) -> None:
    installed(stream).apply("info", log_format)
    structlog.get_logger().warning("agent_refused", agent="den")

    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "agent_refused" in text
    assert ("\x1b[" in text) is coloured
    assert text.startswith("{") is json_line


def test_level_and_format_change_for_loggers_that_are_in_use() -> None:
    stream = io.StringIO()
    ours = installed(stream)
    ours.apply("warning", "json")
    bound = structlog.get_logger().bind(agent="den")
    bound.info("tunnel_up")
    ours.apply("debug", "json")
    bound.debug("answer_not_sent")
    ours.apply("debug", "console")
    bound.info("tunnel_down")

    first, second = stream.getvalue().splitlines()
    assert json.loads(first)["event"] == "answer_not_sent"
    assert "tunnel_down" in second
    assert "{" not in second


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_is_without_the_values_of_variables(log_format: logs.LogFormat) -> None:
    stream = io.StringIO()
    installed(stream).apply("info", log_format)

    def fail(key: str) -> None:
        raise ValueError(f"{len(key)} characters")

    try:
        fail(SECRET)
    except ValueError:
        structlog.get_logger().exception("flow_failed")

    text = stream.getvalue()
    assert "ValueError: 16 characters" in text
    assert "in fail" in text
    assert SECRET not in text


def test_what_libraries_log_has_the_same_shape() -> None:
    stream = io.StringIO()
    installed(stream).apply("info", "json")
    library = logging.Logger("hypercorn.error")  # noqa: LOG001 - nobody else's
    library.addHandler(FromLibraries())
    library.warning("odd: %s", "a\x1b[2Jb")
    library.error("worse")

    odd, worse = lines(stream)
    assert (odd["event"], odd["level"]) == ("library_message", "warning")
    assert odd["library"] == "hypercorn.error"
    assert odd["message"].startswith("odd: a")
    assert "\x1b" not in odd["message"]
    assert worse["level"] == "error"


def test_a_record_that_cannot_be_formatted_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    stream = io.StringIO()
    installed(stream)
    library = logging.Logger("library")  # noqa: LOG001 - nobody else's
    library.addHandler(FromLibraries())
    library.warning("%d", "no number")
    assert stream.getvalue() == ""


async def test_a_flood_of_strangers_is_bounded_and_summed_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stream, clock = io.StringIO(), Clock()
    ours = installed(stream, clock)
    ours.apply("info", "json")
    for _ in range(max_lines + 30):
        structlog.get_logger().info("rtsp_refused", client_address="192.0.2.1")
    structlog.get_logger().info("session_launched")
    assert [line["event"] for line in lines(stream)] == [
        *["rtsp_refused"] * max_lines,
        "session_launched",
    ]
    clock.now += minute_s

    with trio.move_on_after(logs.flood_interval_s + 1):
        await ours.tell_floods()

    last = lines(stream)[-1]
    assert (last["event"], last["level"]) == ("log_lines_suppressed", "warning")
    assert (last["suppressed"], last["lines"]) == ("rtsp_refused", 30)
    assert ours.suppressed == {"rtsp_refused": 30}


def test_lines_below_the_level_take_no_room() -> None:
    stream = io.StringIO()
    ours = installed(stream)
    ours.apply("warning", "json")
    for _ in range(2 * max_lines):
        structlog.get_logger().info("rtsp_refused")
    structlog.get_logger().warning("rtsp_refused")
    assert len(lines(stream)) == 1
    assert not ours.suppressed
