"""The admin API's part about backends: how they are, drains, and where a launch would go."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Annotated, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from backends.errors import NoBackend
from backends.geography import Place
from backends.model import Backend, agent_of, is_valid_name
from backends.records import ClientRecord, DrainRecord
from backends.selection import Decision, LaunchIntent
from backends.store import Store
from moonlight.identity import ClientId
from proxy.access import AccessRules
from proxy.admin.http import Endpoint, problem, read_json
from proxy.admin.scopes import OPERATORS, READERS
from proxy.errors import Refused
from proxy.fleet import Fleet
from proxy.session_keeper import SessionKeeper

max_deadline_s: Final = 365 * 24 * 3600
max_title_characters: Final = 512


class _Drain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    deadline_s: Annotated[float, msgspec.Meta(ge=0, le=max_deadline_s)] | None = None


class BackendsApi:
    """Answers for the backends of a running edge."""

    def __init__(
        self, store: Store, fleet: Fleet, keeper: SessionKeeper, access: AccessRules
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._keeper = keeper
        self._access = access

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        drain = "/api/v1/drains/{target:path}"
        return [
            Endpoint("GET", "/api/v1/backends", self._list, READERS),
            Endpoint("GET", "/api/v1/backends/explain", self._explain, READERS),
            Endpoint("GET", "/api/v1/drains", self._list_drains, READERS),
            Endpoint("PUT", drain, self._drain, OPERATORS),
            Endpoint("DELETE", drain, self._undrain, OPERATORS),
            Endpoint("GET", "/api/v1/events", self._list_events, READERS),
        ]

    async def _list(self, request: Request) -> Response:
        return JSONResponse([self._backend(backend) for backend in self._fleet.backends()])

    def _backend(self, backend: Backend) -> dict[str, Any]:
        heartbeat = self._fleet.last_heartbeat(backend.agent_id)
        report = heartbeat and next((r for r in heartbeat.hosts if r.name == backend.host), None)
        return {
            "id": backend.id,
            "kind": backend.kind,
            "region": backend.region,
            **_coordinates(backend.place),
            "trouble": backend.trouble,
            "draining": backend.draining,
            **_condition(backend),
            "apps": sorted(app.title for app in backend.apps),
            "gpus": [msgspec.to_builtins(gpu) for gpu in report.gpus] if report else [],
            "machine": heartbeat
            and {
                "cpu_percent": heartbeat.cpu_percent,
                "memory_used_bytes": heartbeat.memory_used_bytes,
                "memory_total_bytes": heartbeat.memory_total_bytes,
                "network_receive_bits_per_s": heartbeat.network_receive_bits_per_s,
                "network_send_bits_per_s": heartbeat.network_send_bits_per_s,
            },
        }

    async def _explain(self, request: Request) -> Response:
        address, title = _asked(request, "client_ip"), _asked(request, "app")
        try:
            ip_address(address)
        except ValueError:
            raise Refused(400, "bad_address", "client_ip has to be an IP address.") from None
        client = await self._client(request.query_params.get("client"))
        user = request.query_params.get("user") or (None if client is None else client.user)
        access = self._access.of(user)
        intent = LaunchIntent(
            "" if client is None else client.id,
            title,
            self._fleet.locate(address),
            access.regions,
        )
        session = self._keeper.table.of_client(ClientId(intent.client))
        explained = await self._fleet.explain(intent, None if session is None else session.backend)
        outcome = explained.outcome
        if not access.allows_app(title):
            outcome = NoBackend("app_not_allowed", f"This user may not use {title!r}.")
        return JSONResponse(
            {
                "client_place": {
                    "located_by": str(intent.place.located_by),
                    "region": intent.place.region,
                    **_coordinates(intent.place.place),
                },
                **_outcome(outcome),
                "backends": [
                    {
                        "id": verdict.backend.id,
                        "region": verdict.backend.region,
                        "distance_km": _kilometres(verdict.distance_km),
                        "excluded": verdict.excluded and str(verdict.excluded),
                        **_condition(verdict.backend),
                    }
                    for verdict in explained.verdicts
                ],
            }
        )

    async def _client(self, beginning: str | None) -> ClientRecord | None:
        if not beginning:
            return None
        return one_client(await self._store.list_clients(), beginning)

    async def _list_drains(self, request: Request) -> Response:
        return JSONResponse([self._drain_of(drain) for drain in await self._store.list_drains()])

    def _drain_of(self, drain: DrainRecord) -> dict[str, Any]:
        left = [session for session in self._keeper.table if drain.covers(session.backend)]
        return {
            "target": drain.target,
            "since": drain.since.isoformat(),
            "deadline": drain.deadline and drain.deadline.isoformat(),
            "sessions": len(left),
        }

    async def _drain(self, request: Request) -> Response:
        target = request.path_params["target"]
        if not all(is_valid_name(part) for part in target.split("/")) or target.count("/") > 1:
            raise Refused(400, "bad_target", "A drain is for AGENT/HOST, or for all of an AGENT.")
        if not await self._is_known(target):
            raise Refused(404, "no_such_backend", f"No backend and no agent is called {target}.")
        asked = await read_json(request, _Drain, '{"deadline_s": 3600}, or {}')
        now = datetime.now(UTC)
        deadline = None if asked.deadline_s is None else now + timedelta(seconds=asked.deadline_s)
        await self._store.put_drain(target, now, deadline)
        await self._fleet.load_drains()
        self._fleet.events.note("drain_began", target)
        # Somebody may have lifted it meanwhile; what was asked for is told all the same.
        kept = (drain for drain in self._fleet.drains() if drain.target == target)
        return JSONResponse(self._drain_of(next(kept, DrainRecord(target, now, deadline))))

    async def _is_known(self, target: str) -> bool:
        """Tell whether there is such a backend or agent, or will be once its agent connects."""
        backends = self._fleet.backends()
        if any(target in (backend.id, backend.agent_id) for backend in backends):
            return True
        agent = agent_of(target)
        if any(backend.agent_id == agent for backend in backends):
            return False
        return agent in {held.agent_id for held in await self._store.list_agents()}

    async def _undrain(self, request: Request) -> Response:
        target = request.path_params["target"]
        if not await self._store.delete_drain(target):
            return problem(404, "no_such_drain", "Nothing drains under that name.")
        await self._fleet.load_drains()
        self._fleet.events.note("drain_ended", target)
        return Response(status_code=204)

    async def _list_events(self, request: Request) -> Response:
        return JSONResponse(
            [
                {
                    "at": event.at.isoformat(),
                    "kind": event.kind,
                    "subject": event.subject,
                    **event.details,
                }
                for event in self._fleet.events.newest()
            ]
        )


def one_client(clients: tuple[ClientRecord, ...], beginning: str) -> ClientRecord:
    """Return the one client whose id begins like that.

    Raises:
        Refused: there is none, or more than one.

    """
    found = [known for known in clients if known.id.startswith(beginning)]
    if len(found) != 1:
        raise Refused(404, "no_such_client", f"{len(found)} clients have an id like that.")
    return found[0]


def _asked(request: Request, name: str) -> str:
    text = request.query_params.get(name, "")
    if not 0 < len(text) <= max_title_characters:
        raise Refused(400, "bad_query", f"{name} has to be given.")
    return text


def _outcome(outcome: Decision | NoBackend) -> dict[str, Any]:
    if isinstance(outcome, NoBackend):
        return {"chosen": None, "reason": outcome.reason, "message": str(outcome)}
    return {
        "chosen": outcome.backend.id,
        "region": outcome.backend.region,
        "reason": str(outcome.reason),
        "distance_km": _kilometres(outcome.distance_km),
        "passed_over": list(outcome.passed_over),
    }


def _coordinates(place: Place | None) -> dict[str, float | None]:
    return {
        "latitude": None if place is None else place.latitude,
        "longitude": None if place is None else place.longitude,
    }


def _condition(backend: Backend) -> dict[str, Any]:
    return {
        "state": str(backend.state),
        "sessions": backend.sessions,
        "max_sessions": backend.max_sessions,
        "gpu_memory_percent": _percent(backend.gpu_memory_share),
        "rtt_ms": None if backend.rtt_s is None else round(backend.rtt_s * 1000, 1),
    }


def _kilometres(distance: float) -> int | None:
    return None if math.isinf(distance) else round(distance)


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 1)
