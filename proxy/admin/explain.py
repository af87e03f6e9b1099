"""The admin API's explanation: which backend a launch would get now, and why."""

from __future__ import annotations

import math
from ipaddress import ip_address
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType

from backends.errors import NoBackend
from backends.model import State
from backends.records import ClientRecord
from backends.selection import Decision, LaunchIntent, Verdict
from backends.store import Store
from moonlight.identity import ClientId
from proxy.access import AccessRules
from proxy.admin.backends import percent
from proxy.admin.clients import one_client
from proxy.admin.endpoints import Asked, Endpoint, NoParameters
from proxy.admin.scopes import READERS
from proxy.admin.values import Whereabouts, max_id_characters, milliseconds
from proxy.errors import Refused
from proxy.fleet import Fleet
from proxy.sessions import SessionTable

max_title_characters: Final = 512


class LaunchQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A launch that is thought of."""

    client_ip: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=64, description="The IP address that it would come from."
        ),
    ]
    app: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=max_title_characters, description="The title of the app."
        ),
    ]
    client: Annotated[
        str,
        msgspec.Meta(
            max_length=max_id_characters, description="As this client: its id, or the beginning."
        ),
    ] = ""
    user: Annotated[str, msgspec.Meta(max_length=64, description="As a client of this user.")] = ""


class VerdictItem(msgspec.Struct, frozen=True, kw_only=True):
    """How one backend fares."""

    id: str
    region: str
    distance_km: int | None
    excluded: Annotated[str | None, msgspec.Meta(description="Why it cannot take the launch.")]
    state: State
    sessions: int
    max_sessions: int
    gpu_memory_percent: float | None
    rtt_ms: float | None


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """What a launch would get; a message where that is nothing, else where it would be."""

    client_place: Whereabouts
    chosen: str | None
    reason: str
    message: str | UnsetType = UNSET
    region: str | UnsetType = UNSET
    distance_km: int | UnsetType | None = UNSET
    passed_over: Annotated[
        list[str] | UnsetType, msgspec.Meta(description="Regions that are nearer and had no room.")
    ] = UNSET
    backends: list[VerdictItem]


class ExplainApi:
    """Answers where launches would go."""

    def __init__(
        self, store: Store, fleet: Fleet, table: SessionTable, access: AccessRules
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._table = table
        self._access = access

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        return [
            Endpoint(
                "GET",
                "/api/v1/backends/explain",
                self.explain_launch,
                READERS,
                problems={400: ("bad_address",), 404: ("no_such_client",)},
            )
        ]

    async def explain_launch(self, asked: Asked[NoParameters, LaunchQuery, None]) -> Explained:
        """Tell which backend a launch would get now and why, without launching."""
        query = asked.query
        try:
            ip_address(query.client_ip)
        except ValueError:
            raise Refused(400, "bad_address", "client_ip has to be an IP address.") from None
        client = await self._client(query.client)
        access = self._access.of(query.user or (None if client is None else client.user))
        intent = LaunchIntent(
            "" if client is None else client.id,
            query.app,
            self._fleet.locate(query.client_ip),
            access.regions,
        )
        session = self._table.of_client(ClientId(intent.client))
        explained = await self._fleet.explain(intent, None if session is None else session.backend)
        outcome = explained.outcome
        if not access.allows_app(query.app):
            outcome = NoBackend("app_not_allowed", f"This user may not use {query.app!r}.")
        place = Whereabouts.of(intent.place)
        return _explained(place, outcome, [_verdict(verdict) for verdict in explained.verdicts])

    async def _client(self, beginning: str) -> ClientRecord | None:
        if not beginning:
            return None
        return one_client(await self._store.list_clients(), beginning)


def _explained(
    place: Whereabouts, outcome: Decision | NoBackend, verdicts: list[VerdictItem]
) -> Explained:
    if isinstance(outcome, NoBackend):
        return Explained(
            client_place=place,
            chosen=None,
            reason=outcome.reason,
            message=str(outcome),
            backends=verdicts,
        )
    return Explained(
        client_place=place,
        chosen=outcome.backend.id,
        reason=str(outcome.reason),
        region=outcome.backend.region,
        distance_km=_kilometres(outcome.distance_km),
        passed_over=list(outcome.passed_over),
        backends=verdicts,
    )


def _verdict(verdict: Verdict) -> VerdictItem:
    backend = verdict.backend
    return VerdictItem(
        id=backend.id,
        region=backend.region,
        distance_km=_kilometres(verdict.distance_km),
        excluded=None if verdict.excluded is None else str(verdict.excluded),
        state=backend.state,
        sessions=backend.sessions,
        max_sessions=backend.max_sessions,
        gpu_memory_percent=percent(backend.gpu_memory_share),
        rtt_ms=milliseconds(backend.rtt_s),
    )


def _kilometres(distance: float) -> int | None:
    return None if math.isinf(distance) else round(distance)
