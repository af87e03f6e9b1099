"""What commands fail with: one sentence for whoever typed them."""

from __future__ import annotations


class CommandFailed(Exception):
    """A command could not do its work; ``str()`` says why and what to do."""
