"""The admin API: what the commands of ``moonhost`` ask a running edge, as JSON over HTTP.

It listens on loopback, off the data path, and every request under ``/api`` has to pass the gate.
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from backends.errors import StoreError
from backends.model import is_valid_name
from backends.store import Store
from moonlight.errors import ProtocolError
from moonlight.identity import ClientId
from proxy.access import AccessRules
from proxy.admin import console_files
from proxy.admin.backends import BackendsApi, one_client
from proxy.admin.gate import Gate
from proxy.admin.http import Endpoint, Handler, problem, read_json
from proxy.admin.scopes import OPERATORS, PAIRERS, READERS, WAITING_ROOM
from proxy.errors import EdgeError, Refused
from proxy.fleet import Fleet
from proxy.media import Media
from proxy.metrics import exposition
from proxy.nvhttp import NvHttp
from proxy.pairing_desk import Attempt, AttemptId, PairingDesk
from proxy.play import Play
from proxy.session_keeper import SessionKeeper
from proxy.sessions import Session, SessionId

_log = structlog.get_logger()


class _Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pin: str
    user: str | None = None

    def __repr__(self) -> str:
        return "_Pin(…)"


class _User(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user: str | None


class AdminApi:
    """Builds the ASGI application over the parts of a running edge."""

    def __init__(
        self,
        *,
        gate: Gate,
        store: Store,
        fleet: Fleet,
        desk: PairingDesk,
        keeper: SessionKeeper,
        play: Play,
        media: Media,
        nvhttp: NvHttp,
        access: AccessRules,
        metrics: CollectorRegistry,
    ) -> None:
        self._gate = gate
        self._store = store
        self._fleet = fleet
        self._desk = desk
        self._keeper = keeper
        self._play = play
        self._media = media
        self._nvhttp = nvhttp
        self._metrics = metrics
        self._access = access
        self._backends = BackendsApi(store, fleet, keeper, access)

    def application(self) -> Starlette:
        """Return the application, for any ASGI server on trio."""
        routes = [
            Route(endpoint.path, self._guarded(endpoint), methods=[endpoint.method])
            for endpoint in (*self._endpoints(), *self._backends.endpoints())
        ]
        routes += [
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", self._exposition),
        ]
        return Starlette(routes=[*routes, *console_files.routes()])

    def _endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("GET", "/api/v1/pairings", self._list_pairings, WAITING_ROOM),
            Endpoint("POST", "/api/v1/pairings/{id}", self._confirm_pairing, PAIRERS),
            Endpoint("DELETE", "/api/v1/pairings/{id}", self._refuse_pairing, PAIRERS),
            Endpoint("GET", "/api/v1/clients", self._list_clients, READERS),
            Endpoint("DELETE", "/api/v1/clients/{id}", self._forget_client, OPERATORS),
            Endpoint("PATCH", "/api/v1/clients/{id}", self._assign_client, OPERATORS),
            Endpoint("GET", "/api/v1/sessions", self._list_sessions, READERS),
            Endpoint("DELETE", "/api/v1/sessions/{id}", self._end_session, OPERATORS),
        ]

    def _guarded(self, endpoint: Endpoint) -> Handler:
        async def guarded(request: Request) -> Response:
            try:
                request.state.caller = await self._gate.admit(request, endpoint.scopes)
                return await endpoint.handler(request)
            except Refused as error:
                return problem(error.status, error.reason, str(error))
            except ProtocolError as error:
                return problem(400, error.reason, str(error))
            except (EdgeError, StoreError) as error:
                _log.error("admin_request_failed", path=request.url.path, why=str(error))
                return problem(503, error.reason, str(error))

        return guarded

    async def _list_pairings(self, request: Request) -> Response:
        return JSONResponse([_pairing(attempt) for attempt in self._desk.pending()])

    async def _confirm_pairing(self, request: Request) -> Response:
        body = await read_json(request, _Pin, '{"pin": "1234"}, with "user" if you like')
        if body.user is not None:
            self._check_user(body.user)
        attempt = AttemptId(request.path_params["id"])
        outcome = await self._desk.confirm(attempt, body.pin, user=body.user)
        return JSONResponse({"outcome": str(outcome)})

    async def _refuse_pairing(self, request: Request) -> Response:
        if not self._desk.refuse(AttemptId(request.path_params["id"])):
            return problem(404, "no_such_pairing", "No device waits under that id.")
        return Response(status_code=204)

    async def _list_clients(self, request: Request) -> Response:
        clients = await self._store.list_clients()
        return JSONResponse(
            [
                {
                    "id": client.id,
                    "name": client.name,
                    "user": client.user,
                    "paired_at": client.paired_at.isoformat(),
                    "app": self._keeper.table.current_app(ClientId(client.id)) or None,
                }
                for client in clients
            ]
        )

    async def _forget_client(self, request: Request) -> Response:
        client = one_client(await self._store.list_clients(), request.path_params["id"])
        await self._nvhttp.forget_client(ClientId(client.id))
        return Response(status_code=204)

    async def _assign_client(self, request: Request) -> Response:
        body = await read_json(request, _User, '{"user": "anna"}, or {"user": null}')
        if body.user is not None:
            self._check_user(body.user)
        client = one_client(await self._store.list_clients(), request.path_params["id"])
        await self._store.set_client_user(client.id, body.user)
        return Response(status_code=204)

    def _check_user(self, user: str) -> None:
        if not is_valid_name(user):
            raise Refused(400, "bad_user", "A user has 1-64 letters, digits, dots or dashes.")
        if not self._access.knows(user):
            raise Refused(404, "no_such_user", f"[users] in the configuration has no {user}.")

    async def _list_sessions(self, request: Request) -> Response:
        regions = {backend.id: backend.region for backend in self._fleet.backends()}
        return JSONResponse(
            [self._session(session, regions.get(session.backend)) for session in self._keeper.table]
        )

    def _session(self, session: Session, region: str | None) -> dict[str, Any]:
        return {
            "id": session.id,
            "client": session.client,
            "client_address": session.client_address,
            "backend": session.backend,
            "region": region,
            "app": session.app_title,
            "mode": session.mode,
            "state": str(session.state),
            "video_encrypted_by": str(session.video.by),
            "started_at": session.started_at.isoformat(),
            "flows": {
                str(flow.kind): {
                    "client": None if flow.bound_to is None else str(flow.bound_to),
                    "datagrams_to_client": flow.datagrams_to_client,
                    "bytes_to_client": flow.bytes_to_client,
                    "datagrams_to_host": flow.datagrams_to_host,
                    "rtp_missing": flow.gaps.missing,
                    "dropped": dict(flow.drops()),
                }
                for flow in self._media.flows_of(session.id)
            },
        }

    async def _end_session(self, request: Request) -> Response:
        if not await self._play.end_at_host(SessionId(request.path_params["id"])):
            return problem(404, "no_such_session", "There is no session of that id.")
        return Response(status_code=204)

    async def _healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:
        if not self._play.accepting:
            return PlainTextResponse("draining\n", status_code=503)
        return PlainTextResponse("ready\n")

    async def _exposition(self, request: Request) -> Response:
        return Response(await exposition(self._metrics), media_type=CONTENT_TYPE_LATEST)


def _pairing(attempt: Attempt) -> dict[str, Any]:
    return {
        "id": attempt.id,
        "address": attempt.address,
        "device": attempt.device,
        "asked_at": attempt.asked_at.isoformat(),
    }
