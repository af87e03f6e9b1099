"""What can go wrong with choosing a backend and keeping state: one tree of errors with one root."""

from __future__ import annotations


class BackendError(Exception):
    """Root of this package's errors.

    `reason` is a short snake_case token, fit for a metric's label; ``str()`` is one sentence for
    a person. Neither ever holds a secret.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NoBackend(BackendError):
    """No backend can take this launch; the sentence is shown to the player on their screen."""


class InvalidOffer(BackendError):
    """An agent offered what cannot be put in the table (a bad name, too many hosts or apps)."""


class StoreError(BackendError):
    """State could not be read or written; nothing was half done."""


class GeoDatabaseError(BackendError):
    """A file with clients' places cannot be used (now): missing, unreadable or malformed."""
