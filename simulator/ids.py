"""The names by which a host knows its sessions."""

from __future__ import annotations

from typing import NewType

SessionId = NewType("SessionId", int)
"""Rises with every launch and is never used again."""
