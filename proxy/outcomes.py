"""What came of the requests of clients to play, and of their pairings."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import trio

from backends.errors import StoreError
from backends.selection import Refusal
from moonlight.pairing import PairingOutcome
from proxy.errors import Refused
from proxy.tallies import Histogram, Tally

Asked = Literal["launch", "resume"]

_bounds_s: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0)
_server_fault: Final = 500
nothing_wrong: Final = "none"


class Outcome(enum.StrEnum):
    """How a launch or a resume ended."""

    STARTED = "started"
    REFUSED = "refused"
    """The client cannot have that: it asks wrongly, or is busy already."""
    FAILED = "failed"
    """It could have had that, and something was amiss here or at the hosts."""
    GIVEN_UP = "given_up"
    """The client hung up, or the edge was stopped."""


LAUNCH_REASONS: Final = frozenset(map(str, Refusal)) | {
    "agent_offline",
    "app_already_running",
    "client_busy",
    "draining",
    "handshake_out_of_turn",
    "host_asleep",
    "host_connection_lost",
    "host_failed",
    "host_identity_changed",
    "host_pairing_busy",
    "host_pairing_retried",
    "host_pairing_timeout",
    "host_refused",
    "host_refused_pairing",
    "host_timeout",
    "host_unreachable",
    "no_rtsp_port",
    "no_turn_at_host",
    "nothing_to_resume",
    "pickup_timeout",
    "session_ended",
    "sessions_not_told_apart",
    "store",
    "too_many_sessions",
    "tunnel_closed",
}
"""Why a launch or a resume can have failed, of what the edge itself says; agents and hosts, and
what is wrong with a request, add reasons of their own."""


class PlayOutcomes:
    """Launches and resumes since the edge started."""

    def __init__(self) -> None:
        self.counts = Tally(
            [
                *((asked, Outcome.STARTED, nothing_wrong) for asked in ("launch", "resume")),
                *(("launch", Outcome.FAILED, reason) for reason in sorted(LAUNCH_REASONS)),
            ]
        )
        """By what was asked, `Outcome`, and reason."""
        self.seconds = Histogram(_bounds_s)
        """How long clients waited for an app to be started, of those that were."""

    @contextmanager
    def counted(self, asked: Asked) -> Iterator[None]:
        """Count what comes of a block."""
        began_at = trio.current_time()
        try:
            yield
        except Refused as error:
            ours = error.status >= _server_fault
            self.counts.add(asked, Outcome.FAILED if ours else Outcome.REFUSED, error.reason)
            raise
        except StoreError:
            self.counts.add(asked, Outcome.FAILED, "store")
            raise
        except trio.Cancelled:
            self.counts.add(asked, Outcome.GIVEN_UP, nothing_wrong)
            raise
        except Exception:
            self.counts.add(asked, Outcome.FAILED, "bug")
            raise
        self.counts.add(asked, Outcome.STARTED, nothing_wrong)
        self.seconds.observe(trio.current_time() - began_at)


class PairingEnd(enum.StrEnum):
    """How a pairing ended that was not brought to its end (`PairingOutcome`)."""

    GIVEN_UP = "given_up"
    """The client hung up, or nobody told its PIN in time."""
    REPLACED = "replaced"
    """The same client asked anew."""
    NOT_FINISHED = "not_finished"
    """Its PIN was told, and the client did not go on."""
    REFUSED = "refused"
    """By an operator."""
    BROKEN_OFF = "broken_off"
    """The client sent what does not belong there."""
    TURNED_AWAY = "turned_away"
    """Too many wait already."""


PAIRING_ENDS: Final = tuple(dict.fromkeys((*map(str, PairingOutcome), *map(str, PairingEnd))))
