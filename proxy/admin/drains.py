"""The admin API's drains: backends and agents that take no new sessions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec

from backends.model import agent_of, name_pattern
from backends.records import DrainRecord
from backends.store import Store
from proxy.admin.endpoints import Asked, Endpoint, NoParameters
from proxy.admin.paging import Page, PageQuery, page
from proxy.admin.scopes import OPERATORS, READERS
from proxy.admin.values import Time
from proxy.errors import Refused
from proxy.events import EventKind
from proxy.fleet import Fleet
from proxy.sessions import SessionTable

max_deadline_s: Final = 365 * 24 * 3600


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The path of what drains."""

    target: Annotated[
        str,
        msgspec.Meta(
            pattern=f"^{name_pattern}(/{name_pattern})?$",
            description="AGENT/HOST, or AGENT for all of its hosts.",
        ),
    ]


class DrainWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a drain is to be."""

    deadline_s: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=max_deadline_s)] | None,
        msgspec.Meta(description="After so many seconds what still runs is ended; null: never."),
    ] = None


class DrainItem(msgspec.Struct, frozen=True):
    """A backend, or an agent with all of its hosts, that takes no new sessions."""

    target: str
    since: Time
    deadline: Time | None
    sessions: Annotated[int, msgspec.Meta(description="How many still run there.")]


class DrainsApi:
    """Answers for the drains of an edge."""

    def __init__(self, store: Store, fleet: Fleet, table: SessionTable) -> None:
        self._store = store
        self._fleet = fleet
        self._table = table

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        one = "/api/v1/drains/{target:path}"
        return [
            Endpoint("GET", "/api/v1/drains", self.list_drains, READERS),
            Endpoint(
                "PUT",
                one,
                self.begin_drain,
                OPERATORS,
                problems={404: ("no_such_backend",)},
                example={"deadline_s": 3600},
            ),
            Endpoint("DELETE", one, self.end_drain, OPERATORS, problems={404: ("no_such_drain",)}),
        ]

    async def list_drains(self, asked: Asked[NoParameters, PageQuery, None]) -> Page[DrainItem]:
        """List the drains by target."""
        part = page(await self._store.list_drains(), lambda drain: (0, drain.target), asked.query)
        return Page([self._item(drain) for drain in part.items], part.next)

    def _item(self, drain: DrainRecord) -> DrainItem:
        left = sum(drain.covers(session.backend) for session in self._table)
        return DrainItem(drain.target, drain.since, drain.deadline, left)

    async def begin_drain(self, asked: Asked[Target, NoParameters, DrainWish]) -> DrainItem:
        """Start nothing new at a backend; said again, its deadline is the new one.

        Sessions go on and can be resumed. A drain outlives restarts of edge and agent.
        """
        target, after_s = asked.path.target, asked.body.deadline_s
        if not await self._is_known(target):
            raise Refused(404, "no_such_backend", f"No backend and no agent is called {target}.")
        now = datetime.now(UTC)
        deadline = None if after_s is None else now + timedelta(seconds=after_s)
        await self._store.put_drain(target, now, deadline)
        await self._fleet.load_drains()
        self._fleet.events.note(EventKind.DRAIN_BEGAN, target)
        # Somebody may have lifted it meanwhile; what was asked for is told all the same.
        kept = (drain for drain in self._fleet.drains() if drain.target == target)
        return self._item(next(kept, DrainRecord(target, now, deadline)))

    async def _is_known(self, target: str) -> bool:
        """Tell whether there is such a backend or agent, or will be once its agent connects."""
        backends = self._fleet.backends()
        if any(target in (backend.id, backend.agent_id) for backend in backends):
            return True
        agent = agent_of(target)
        if any(backend.agent_id == agent for backend in backends):
            return False
        return agent in {held.agent_id for held in await self._store.list_agents()}

    async def end_drain(self, asked: Asked[Target, NoParameters, None]) -> None:
        """Let a backend take new sessions again."""
        target = asked.path.target
        if not await self._store.delete_drain(target):
            raise Refused(404, "no_such_drain", "Nothing drains under that name.")
        await self._fleet.load_drains()
        self._fleet.events.note(EventKind.DRAIN_ENDED, target)
