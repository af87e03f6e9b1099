"""What can be wrong with a peer's bytes: one tree of errors with one root."""

from __future__ import annotations

import re
from typing import Final

# Half a 128-bit key is as long a piece of one as may ever be shown.
_KEY_DIGITS: Final = re.compile(r"[0-9A-Fa-f]{16,}")


def printable(text: str | bytes, max_length: int = 80) -> str:
    """Make text that a peer named safe for a log, a label or a page.

    Control characters and other unprintable ones become ``?``; what is longer than
    `max_length` characters is cut and marked with an ellipsis.
    """
    if isinstance(text, bytes):
        text = text[: max_length + 1].decode("utf-8", "replace")
    clean = "".join(
        character if character.isprintable() else "?" for character in text[: max_length + 1]
    )
    return clean if len(clean) <= max_length else clean[: max_length - 1] + "…"


def quoted(text: str, max_length: int = 80) -> str:
    """Make a peer's own words safe to repeat in an error: `printable`, and without keys.

    A peer may echo what it was asked, and that holds a session's key: digits of a key become
    ``…``.
    """
    return printable(_KEY_DIGITS.sub("…", text), max_length)


class ProtocolError(Exception):
    """A peer broke the protocol.

    `reason` is a short snake_case token, fit for a metric's label; ``str()`` is one sentence for
    a person. Neither ever holds a secret, nor a control character.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Malformed(ProtocolError):
    """Bytes that no valid message begins with."""


class TooLarge(ProtocolError):
    """More bytes, lines, elements or commands than a message may have."""


class OutOfOrder(ProtocolError):
    """A valid message that may not come now."""


class AuthenticationFailed(ProtocolError):
    """A wrong PIN, signature, tag or certificate."""
