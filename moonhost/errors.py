"""What commands fail with: one sentence for whoever typed them."""

from __future__ import annotations


class CommandFailed(Exception):
    """A command could not do its work; ``str()`` says why and what to do."""


class AdminError(CommandFailed):
    """The edge could not be asked, or refused; ``str()`` says what to do."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
