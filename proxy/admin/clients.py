"""The admin API's clients: who is paired, whose devices they are, and what they are called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from backends.model import is_valid_name, name_pattern, name_rule
from backends.records import ClientRecord
from backends.store import Store
from moonlight.identity import ClientId, short_id
from proxy.access import AccessRules
from proxy.admin.endpoints import Asked, Endpoint, NoParameters
from proxy.admin.paging import Page, PageQuery, page, since
from proxy.admin.scopes import OPERATORS, READERS
from proxy.admin.values import ById, Time
from proxy.errors import Refused
from proxy.events import EventKind, Events
from proxy.nvhttp import NvHttp
from proxy.sessions import SessionTable

_log = structlog.get_logger()

max_name_characters: Final = 64

User = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=64,
        extra_json_schema={"pattern": f"^{name_pattern}$"},
        description="One of [users] in the edge's configuration.",
    ),
]


class ClientItem(msgspec.Struct, frozen=True):
    """A paired client."""

    id: str
    name: str
    user: str | None
    paired_at: Time
    app: Annotated[int | None, msgspec.Meta(description="The id of the app that runs for it.")]


class _Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user: Annotated[User | None, msgspec.Meta(description="Null: nobody's.")] | UnsetType = UNSET
    name: (
        Annotated[
            str,
            msgspec.Meta(
                min_length=1,
                max_length=max_name_characters,
                description="Characters that can be printed.",
            ),
        ]
        | UnsetType
    ) = UNSET


ClientChange = Annotated[_Change, msgspec.Meta(extra_json_schema={"minProperties": 1})]


class ClientsApi:
    """Answers for the clients that are paired with an edge."""

    def __init__(
        self,
        store: Store,
        table: SessionTable,
        nvhttp: NvHttp,
        access: AccessRules,
        events: Events,
    ) -> None:
        self._store = store
        self._table = table
        self._nvhttp = nvhttp
        self._access = access
        self._events = events

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        one = "/api/v1/clients/{id}"
        return [
            Endpoint("GET", "/api/v1/clients", self.list_clients, READERS),
            Endpoint(
                "PATCH",
                one,
                self.change_client,
                OPERATORS,
                problems={400: ("bad_user", "bad_name"), 404: ("no_such_client", "no_such_user")},
                example={"user": "anna", "name": "Anna's phone"},
            ),
            Endpoint(
                "DELETE",
                one,
                self.unpair_client,
                OPERATORS,
                problems={404: ("no_such_client",), 503: ("client_busy",)},
            ),
        ]

    async def list_clients(self, asked: Asked[NoParameters, PageQuery, None]) -> Page[ClientItem]:
        """List the paired clients, the longest paired first; who pairs anew goes to the end."""
        part = page(
            await self._store.list_clients(),
            lambda client: since(client.paired_at, client.id),
            asked.query,
        )
        return Page([self._item(client) for client in part.items], part.next)

    def _item(self, client: ClientRecord) -> ClientItem:
        app = self._table.current_app(ClientId(client.id)) or None
        return ClientItem(client.id, client.name, client.user, client.paired_at, app)

    async def change_client(self, asked: Asked[ById, NoParameters, ClientChange]) -> None:
        """Say whose a client is, or what it is called, or both.

        The beginning of its id is enough, if no other client's begins like that.
        """
        change = asked.body
        details = self._checked(change)
        client = one_client(await self._store.list_clients(), asked.path.id)
        if change.user is not UNSET:
            await self._store.set_client_user(client.id, change.user)
        if change.name is not UNSET:
            await self._store.set_client_name(client.id, change.name)
        self._events.keep(EventKind.CLIENT_CHANGED, short_id(client.id), **details)
        _log.info("client_changed", client=short_id(client.id), **details)

    def _checked(self, change: _Change) -> dict[str, str]:
        details = {}
        if change.user is not UNSET:
            if change.user is not None:
                check_user(change.user, self._access)
            details["user"] = change.user or ""
        if change.name is not UNSET:
            if not change.name.isprintable() or not change.name.strip():
                raise Refused(
                    400, "bad_name", "A name has 1-64 characters, all of which can be printed."
                )
            details["name"] = change.name
        if not details:
            raise Refused(400, "bad_body", "The body has to hold a user, a name, or both.")
        return details

    async def unpair_client(self, asked: Asked[ById, NoParameters, None]) -> None:
        """Unpair a client and end its session.

        The beginning of its id is enough, if no other client's begins like that.
        """
        client = one_client(await self._store.list_clients(), asked.path.id)
        await self._nvhttp.forget_client(ClientId(client.id))


def one_client(clients: Iterable[ClientRecord], beginning: str) -> ClientRecord:
    """Return the one client whose id begins like that.

    Raises:
        Refused: there is none, or more than one.

    """
    found = [known for known in clients if known.id.startswith(beginning)]
    if not found:
        raise Refused(404, "no_such_client", "No client has an id that begins like that.")
    if len(found) > 1:
        several = f"{len(found)} clients have ids that begin like that: tell more of it."
        raise Refused(404, "no_such_client", several)
    return found[0]


def check_user(user: str, access: AccessRules) -> None:
    """Raise `Refused` if nobody of the configuration is called that."""
    if not is_valid_name(user):
        raise Refused(400, "bad_user", f"A user has {name_rule}.")
    if not access.knows(user):
        raise Refused(404, "no_such_user", f"[users] in the configuration has no {user}.")
