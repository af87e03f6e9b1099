"""The admin API's waiting room: the devices that want to be paired, and the PINs that they show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from backends.geography import ClientPlace
from moonlight.pairing import PairingOutcome
from proxy.access import AccessRules
from proxy.admin.clients import User, check_user
from proxy.admin.endpoints import Asked, Endpoint, NoParameters
from proxy.admin.paging import Page, PageQuery, page, since
from proxy.admin.scopes import PAIRERS, WAITING_ROOM
from proxy.admin.values import ById, Time, Whereabouts
from proxy.errors import Refused
from proxy.pairing_desk import Attempt, AttemptId, PairingDesk


class PairingItem(msgspec.Struct, frozen=True):
    """A device that waits for somebody to tell its PIN."""

    id: str
    address: str
    device: Annotated[str, msgspec.Meta(description="What it calls itself.")]
    asked_at: Time
    place: Whereabouts


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the device shows, and whose it is."""

    pin: Annotated[str, msgspec.Meta(max_length=16, extra_json_schema={"pattern": "^[0-9]+$"})]
    user: User | None = None

    def __repr__(self) -> str:
        return "Pin(…)"


class Paired(msgspec.Struct, frozen=True):
    """How a pairing ended."""

    outcome: PairingOutcome


class PairingsApi:
    """Answers for the devices that wait at an edge."""

    def __init__(
        self, desk: PairingDesk, locate: Callable[[str], ClientPlace], access: AccessRules
    ) -> None:
        self._desk = desk
        self._locate = locate
        self._access = access

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        one = "/api/v1/pairings/{id}"
        return [
            Endpoint("GET", "/api/v1/pairings", self.list_pairings, WAITING_ROOM),
            Endpoint(
                "POST",
                one,
                self.confirm_pairing,
                PAIRERS,
                problems={
                    400: ("bad_pin", "bad_user"),
                    404: ("no_such_pairing", "no_such_user"),
                    409: ("pairing_gone",),
                    504: ("pairing_not_finished",),
                },
                example={"pin": "1234", "user": None},
            ),
            Endpoint(
                "DELETE",
                one,
                self.refuse_pairing,
                PAIRERS,
                problems={404: ("no_such_pairing",)},
            ),
        ]

    async def list_pairings(self, asked: Asked[NoParameters, PageQuery, None]) -> Page[PairingItem]:
        """List the devices that wait to be paired, the one that waits longest first."""
        part = page(self._desk.pending(), lambda one: since(one.asked_at, one.id), asked.query)
        return Page([self._item(attempt) for attempt in part.items], part.next)

    def _item(self, attempt: Attempt) -> PairingItem:
        place = Whereabouts.of(self._locate(attempt.address))
        return PairingItem(attempt.id, attempt.address, attempt.device, attempt.asked_at, place)

    async def confirm_pairing(self, asked: Asked[ById, NoParameters, Pin]) -> Paired:
        """Tell the PIN that a device shows; answers once the device is paired, or is not."""
        if asked.body.user is not None:
            check_user(asked.body.user, self._access)
        attempt = AttemptId(asked.path.id)
        return Paired(await self._desk.confirm(attempt, asked.body.pin, user=asked.body.user))

    async def refuse_pairing(self, asked: Asked[ById, NoParameters, None]) -> None:
        """Turn a device away that waits to be paired."""
        if not self._desk.refuse(AttemptId(asked.path.id)):
            raise Refused(404, "no_such_pairing", "No device waits under that id.")
