"""Logs: one line an event, coloured for a person at a terminal, JSON for everything else."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Final, Literal, Never, TextIO

import structlog
import trio
from structlog.typing import EventDict

from moonhost.log_flood import LineLimiter
from moonlight.errors import printable

levels: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
LogFormat = Literal["auto", "json", "console"]
_Render = Callable[[object, str, EventDict], str | bytes]
flood_interval_s: Final = 5.0
"""How soon after the end of a minute it is told what was left out in it."""
max_library_characters: Final = 1_000


class Logs:
    """How a process writes its events; what `apply` sets holds for all its loggers.

    Args:
        stream: where the lines go.
        clock: monotonic, in seconds.

    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._flood = LineLimiter()
        self._level = logging.INFO
        self._render = _renderer("json", self._stream)
        self.suppressed = self._flood.suppressed
        """Lines that were left out since strangers brought about too many, by event."""

    def apply(self, level: str, log_format: LogFormat) -> None:
        """Write what is at `level` or above, in this format."""
        self._level = levels[level]
        self._render = _renderer(log_format, self._stream)

    def install(self) -> None:
        """Have everything that is logged in this process come here, by libraries too."""
        structlog.configure(
            processors=[
                self._select,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                # Tracebacks without local variables: those hold keys.
                structlog.processors.format_exc_info,
                self._write,
            ],
            # Levels are told apart by `_select`: loggers that are in use keep their class for good.
            wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
            logger_factory=structlog.PrintLoggerFactory(self._stream),
            cache_logger_on_first_use=True,
        )
        # Libraries that use the standard module speak up only when something is wrong.
        logging.basicConfig(level=logging.WARNING, handlers=[FromLibraries()])

    async def tell_floods(self) -> Never:
        """Tell of each minute in which lines were left out, soon after it, until cancelled."""
        while True:
            await trio.sleep(flood_interval_s)
            self._tell_flood()

    def _tell_flood(self) -> None:
        for one in self._flood.over(self._clock()):
            structlog.get_logger().warning(
                "log_lines_suppressed", suppressed=one.event, lines=one.lines
            )

    def _select(self, _logger: object, method: str, event: EventDict) -> EventDict:
        if levels.get(method, logging.ERROR) < self._level:
            raise structlog.DropEvent
        self._tell_flood()
        if not self._flood.admits(event["event"], self._clock()):
            raise structlog.DropEvent
        return event

    def _write(self, logger: object, method: str, event: EventDict) -> str | bytes:
        return self._render(logger, method, event)


class FromLibraries(logging.Handler):
    """Makes events of what libraries log by the standard module."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record as an event; one that cannot be formatted is told as logging does."""
        try:
            message = printable(record.getMessage(), max_library_characters)
        except Exception:
            self.handleError(record)
            return
        log = structlog.get_logger()
        tell = log.error if record.levelno >= logging.ERROR else log.warning
        tell("library_message", library=record.name, message=message, exc_info=record.exc_info)


def configure(level: str, log_format: LogFormat = "auto") -> Logs:
    """Send what is at `level` or above to standard error."""
    logs = Logs()
    logs.apply(level, log_format)
    logs.install()
    return logs


def _renderer(log_format: LogFormat, stream: TextIO) -> _Render:
    terminal = stream.isatty()
    if log_format == "console" or (log_format == "auto" and terminal):
        return structlog.dev.ConsoleRenderer(
            colors=terminal, exception_formatter=structlog.dev.plain_traceback
        )
    return structlog.processors.JSONRenderer()
