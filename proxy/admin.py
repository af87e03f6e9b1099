"""The admin API: what the commands of ``moonhost`` ask a running edge, as JSON over HTTP.

It listens on loopback, off the data path, and every request under ``/api`` needs the bearer token
that the edge keeps in ``admin.token`` in its state folder.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec
import structlog
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from backends.errors import StoreError
from backends.store import Store
from moonlight.errors import ProtocolError
from moonlight.identity import ClientId
from proxy.errors import EdgeError, Refused
from proxy.fleet import Fleet
from proxy.media import Media
from proxy.nvhttp import NvHttp
from proxy.pairing_desk import Attempt, AttemptId, PairingDesk
from proxy.play import Play
from proxy.session_keeper import SessionKeeper
from proxy.sessions import Session, SessionId

_log = structlog.get_logger()

max_body_bytes: Final = 4_096
body_timeout_s: Final = 10.0

Handler = Callable[[Request], Awaitable[Response]]


class _Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pin: str

    def __repr__(self) -> str:
        return "_Pin(…)"


class AdminApi:
    """Builds the ASGI application over the parts of a running edge."""

    def __init__(
        self,
        *,
        token: str,
        store: Store,
        fleet: Fleet,
        desk: PairingDesk,
        keeper: SessionKeeper,
        play: Play,
        media: Media,
        nvhttp: NvHttp,
        metrics: CollectorRegistry,
    ) -> None:
        self._token = token
        self._store = store
        self._fleet = fleet
        self._desk = desk
        self._keeper = keeper
        self._play = play
        self._media = media
        self._nvhttp = nvhttp
        self._metrics = metrics

    def application(self) -> Starlette:
        """Return the application, for any ASGI server on trio."""
        api = [
            ("/api/v1/pairings", "GET", self._list_pairings),
            ("/api/v1/pairings/{id}", "POST", self._confirm_pairing),
            ("/api/v1/pairings/{id}", "DELETE", self._refuse_pairing),
            ("/api/v1/clients", "GET", self._list_clients),
            ("/api/v1/clients/{id}", "DELETE", self._forget_client),
            ("/api/v1/sessions", "GET", self._list_sessions),
            ("/api/v1/sessions/{id}", "DELETE", self._end_session),
            ("/api/v1/backends", "GET", self._list_backends),
        ]
        routes = [
            Route(path, self._guarded(handler), methods=[method]) for path, method, handler in api
        ]
        routes += [
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", self._exposition),
        ]
        return Starlette(routes=routes)

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(
                token.encode(), self._token.encode()
            ):
                return _problem(401, "unauthorized", "A bearer token is needed: see admin.token.")
            try:
                return await handler(request)
            except Refused as error:
                return _problem(error.status, error.reason, str(error))
            except ProtocolError as error:
                return _problem(400, error.reason, str(error))
            except (EdgeError, StoreError) as error:
                _log.error("admin_request_failed", path=request.url.path, why=str(error))
                return _problem(503, error.reason, str(error))

        return guarded

    async def _list_pairings(self, request: Request) -> Response:
        return JSONResponse([_pairing(attempt) for attempt in self._desk.pending()])

    async def _confirm_pairing(self, request: Request) -> Response:
        try:
            body = msgspec.json.decode(await _body(request), type=_Pin)
        except (msgspec.DecodeError, UnicodeError):
            return _problem(400, "bad_body", 'The body has to be {"pin": "1234"}.')
        outcome = await self._desk.confirm(AttemptId(request.path_params["id"]), body.pin)
        return JSONResponse({"outcome": str(outcome)})

    async def _refuse_pairing(self, request: Request) -> Response:
        if not self._desk.refuse(AttemptId(request.path_params["id"])):
            return _problem(404, "no_such_pairing", "No device waits under that id.")
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
        wanted = request.path_params["id"]
        found = [known for known in await self._store.list_clients() if known.id.startswith(wanted)]
        if len(found) != 1:
            return _problem(404, "no_such_client", f"{len(found)} clients have an id like that.")
        await self._nvhttp.forget_client(ClientId(found[0].id))
        return Response(status_code=204)

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
            return _problem(404, "no_such_session", "There is no session of that id.")
        return Response(status_code=204)

    async def _list_backends(self, request: Request) -> Response:
        return JSONResponse(
            [
                {
                    "id": backend.id,
                    "kind": backend.kind,
                    "region": backend.region,
                    "healthy": backend.healthy,
                    "draining": backend.draining,
                    "sessions": backend.sessions,
                    "max_sessions": backend.max_sessions,
                    "rtt_ms": None if backend.rtt_s is None else round(backend.rtt_s * 1000, 1),
                    "apps": sorted(app.title for app in backend.apps),
                }
                for backend in self._fleet.backends()
            ]
        )

    async def _healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:
        if not self._play.accepting:
            return PlainTextResponse("draining\n", status_code=503)
        return PlainTextResponse("ready\n")

    async def _exposition(self, request: Request) -> Response:
        return Response(generate_latest(self._metrics), media_type=CONTENT_TYPE_LATEST)


async def _body(request: Request) -> bytes:
    body = b""
    try:
        with trio.fail_after(body_timeout_s):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > max_body_bytes:
                        raise Refused(413, "body_too_large", f"At most {max_body_bytes} bytes.")
    except trio.TooSlowError:
        raise Refused(408, "body_too_slow", f"The body took over {body_timeout_s:g} s.") from None
    except ClientDisconnect:
        raise Refused(400, "body_cut_short", "The body ended before its end.") from None
    return body


def _pairing(attempt: Attempt) -> dict[str, Any]:
    return {
        "id": attempt.id,
        "address": attempt.address,
        "device": attempt.device,
        "asked_at": attempt.asked_at.isoformat(),
    }


def _problem(status: int, reason: str, message: str) -> Response:
    """Return an error as RFC 9457 has it."""
    return JSONResponse(
        {"type": f"urn:moonhost:{reason}", "title": message, "status": status},
        status_code=status,
        media_type="application/problem+json",
    )
