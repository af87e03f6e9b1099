"""Why the light client could not play."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from moonlight.errors import ProtocolError


class ClientFailed(Exception):
    """A client could not do what it was asked to.

    `reason` is a short snake_case token to count by; ``str()`` is one sentence, without secrets.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def failing_at(step: str, *, timeout_s: float) -> Iterator[None]:
    """Give a block a deadline, and turn whatever a host or network does in it into `ClientFailed`.

    `step` names the block in reasons and sentences: one word, or several joined by underscores.
    """
    words = step.replace("_", " ")
    try:
        with trio.fail_after(timeout_s):
            yield
    except trio.TooSlowError:
        message = f"The {words} took more than {timeout_s:g} s."
        raise ClientFailed(f"{step}_timeout", message) from None
    except ProtocolError as error:
        raise ClientFailed(f"{step}_{error.reason}", f"The {words} failed: {error}") from error
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
        message = f"The {words} failed: the connection could not be made, or broke."
        raise ClientFailed(f"{step}_connection", message) from error


@contextmanager
def first_failure() -> Iterator[None]:
    """Raise one exception in place of a nursery's group: what ends one task ends the others."""
    try:
        yield
    except BaseExceptionGroup as group:
        failures, others = group.split(Exception)
        if others is not None:  # cancelled, or interrupted: that goes first
            raise others from None
        raise _leaf(failures) from None


def _leaf(error: BaseException | None) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert error is not None  # noqa: S101 - a group is never empty
    return error
