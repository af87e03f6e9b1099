"""What commands fail with: one sentence for whoever typed them."""

from __future__ import annotations

from pathlib import Path
from typing import Final


class CommandFailed(Exception):
    """A command could not do its work; ``str()`` says why and what to do."""


class AdminError(CommandFailed):
    """The edge could not be asked, or refused; ``str()`` says what to do."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Unreadable(CommandFailed):
    """The user who runs this may not read a configuration."""

    remedy: Final = (
        "Run this as the user that runs the edge or the agent, as with `sudo -u moonhost`, and let "
        "that user read it (`chgrp moonhost`)."
    )

    def __init__(self, path: Path) -> None:
        self.seen = f"{path} is not readable for this user"
        super().__init__(f"{self.seen}. {self.remedy}")
