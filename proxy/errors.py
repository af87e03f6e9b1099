"""What can go wrong at the edge: one tree of errors with one root."""

from __future__ import annotations

from collections.abc import Mapping


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

    Its message is read by a person in their Moonlight app, or by a caller of the admin API;
    `status` is the answer's status code, and `headers` are more of its headers.
    """

    def __init__(
        self, status: int, reason: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason, message)
        self.status = status
        self.headers: Mapping[str, str] = headers or {}


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
