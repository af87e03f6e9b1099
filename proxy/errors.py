"""What can go wrong at the edge: one tree of errors with one root."""

from __future__ import annotations


class EdgeError(Exception):
    """Something failed at the edge.

    `reason` is a short snake_case token, fit for a metric's label; ``str()`` says to an operator
    which host or session it was and what to do, without secrets.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Refused(EdgeError):
    """A client asked for what cannot be had.

    Its message is read by a person in their Moonlight app; `status` is the answer's status code.
    `retry_after_s` is when to ask again, where that is known.
    """

    def __init__(
        self, status: int, reason: str, message: str, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(reason, message)
        self.status = status
        self.retry_after_s = retry_after_s


class HostUnavailable(EdgeError):
    """A host could not be reached through its tunnel, or did not answer in time."""


class HostIdentityChanged(HostUnavailable):
    """A host showed another certificate than the one it was paired with."""


class HostRefused(EdgeError):
    """A host answered, but not with what was asked for."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.status = status


class StartFailed(EdgeError):
    """The edge cannot start as it is configured."""
