"""What can go wrong on the agent's side: one tree of errors with one root."""

from __future__ import annotations


class AgentError(Exception):
    """Root of this package's errors.

    `reason` is a short snake_case token, fit for a metric's label; ``str()`` is one sentence for
    an operator. Neither ever holds a secret.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NeighbourError(AgentError):
    """A machine beside the agent could not be woken."""


class HostApiError(AgentError):
    """A host's own API could not be asked, refused, or answered nonsense."""
