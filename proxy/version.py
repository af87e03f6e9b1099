"""Which moonhost this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Return the version of the package that is installed, or ``unknown``."""
    try:
        return metadata.version("moonhost")
    except metadata.PackageNotFoundError:
        return "unknown"
