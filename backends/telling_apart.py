"""How far a host can tell its sessions apart, and what the edge must do where it cannot.

A host recognises a session by the address its messages come from, or by what the client brings
back: the host text of ``sessionUrl0`` in RTSP, and the secrets of SETUP in pings and CONNECT. The
edge restores all of that, whatever its client sent. So two sessions can be mixed up at a host only
if they come from one address *and* the host names both alike, or gives no secrets.

What a host does is seen at each launch and each SETUP. Nothing is taken for granted before: until
both are known one session is set up at a time there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

kinds_with_one_pending_launch = frozenset({"sunshine"})
"""They give every handshake to the launch that waits for one, whatever it names, and take no other
until that is over: source addresses are of no help."""


class Telling(StrEnum):
    """How sessions have to be kept from being mixed up at a host."""

    APART = "apart"
    """The host does it."""

    IN_TURN = "in_turn"
    """One at a time from launch to PLAY."""

    ALONE = "alone"
    """One at a time from launch to cancel: paused ones are confused with others as well."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What launches and handshakes have shown of a host; None for not yet."""

    label: str | None = field(default=None, repr=False)
    """Host text of the last ``sessionUrl0``."""
    labels_differ: bool | None = None
    """Whether that was another one than the one before."""
    gives_secrets: bool | None = None
    """Whether the last SETUP came with a ping payload or connect data."""

    def launched(self, label: str) -> Seen:
        """Add the host text of the ``sessionUrl0`` of a launch or resume."""
        differ = None if self.label is None else label != self.label
        return replace(self, label=label, labels_differ=differ)

    def set_up(self, *, secret: bool) -> Seen:
        """Add the answer to a SETUP."""
        return replace(self, gives_secrets=secret)


def telling(kind: str, seen: Seen, *, own_addresses: bool, by_address: bool = False) -> Telling:
    """Decide what a host of a kind needs.

    Args:
        kind: what its agent calls it.
        seen: what it has shown.
        own_addresses: it sees each session come from an address of its own.
        by_address: its operator says that it goes by addresses alone.

    """
    if not own_addresses and (by_address or seen.gives_secrets is False):
        return Telling.ALONE
    if kind in kinds_with_one_pending_launch:
        return Telling.IN_TURN
    if own_addresses:
        return Telling.APART
    if seen.labels_differ is False:
        return Telling.ALONE
    return Telling.APART if seen.labels_differ and seen.gives_secrets else Telling.IN_TURN
