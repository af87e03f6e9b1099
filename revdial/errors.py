"""The errors of tunnels, one tree, so that a caller can end a session for any of them at once.

Every error has a `reason`: a short snake_case token that may become a metric's label. The text is
one sentence for people; what a peer named in it has been cleaned by `printable`.
"""

from __future__ import annotations

import re
import traceback

_NOT_A_TOKEN = re.compile(r"[^a-z0-9_]+")

max_reason_length = 40


class TunnelError(Exception):
    """Root of everything that goes wrong in a tunnel."""

    default_reason = "tunnel_error"

    def __init__(self, reason: str = "", message: str = "") -> None:
        self.reason = reason or self.default_reason
        self.message = message or self.reason.replace("_", " ")
        super().__init__(self.message)


class BadMessage(TunnelError):
    """The peer sent something that is not a message of this protocol, or one beyond a limit."""

    default_reason = "bad_message"


class TunnelClosed(TunnelError):
    """The tunnel, or the data connection, is gone; the peer may come back with a new one."""

    default_reason = "tunnel_closed"


class DialRefused(TunnelError):
    """The agent will not, or cannot, open what was asked; asking again will not help soon."""

    default_reason = "dial_refused"


def refusal_behind(error: BaseException | None) -> DialRefused | None:
    """The refusal that a connection broke for, where it did, however deep it is told."""
    while error is not None and not isinstance(error, DialRefused):
        error = error.__cause__ or error.__context__
    return error


class PickupTimeout(TunnelError):
    """The agent did not dial back in time."""

    default_reason = "pickup_timeout"


class RequestFailed(TunnelError):
    """The agent answered a request with an error, or not in time (`reason` "timeout")."""

    default_reason = "request_failed"


def where(error: BaseException) -> str:
    """A bug for one line of a log: its type and place. No text, no values: they may be secrets."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def printable(text: str, max_length: int = 120) -> str:
    """What a peer named, fit for a log: one line, no control characters, bounded."""
    return "".join(c if c.isprintable() else "?" for c in text[:max_length])


def token(text: str) -> str:
    """A peer's reason made fit for a metric's label; "unknown" when nothing is left of it."""
    return _NOT_A_TOKEN.sub("_", text.lower()[:max_reason_length]).strip("_") or "unknown"
