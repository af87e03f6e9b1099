"""Serves endpoints over ASGI: admits who asks, reads what they say, answers, and tells problems."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.errors import StoreError
from moonlight.errors import ProtocolError, printable
from proxy.admin.endpoints import Asked, Endpoint, Shape
from proxy.admin.gate import Gate
from proxy.admin.http import as_data, problem, read_json, read_path, read_query, refusal, value
from proxy.errors import EdgeError, Refused

_log = structlog.get_logger()


def application(
    gate: Gate, endpoints: Iterable[Endpoint], others: Iterable[BaseRoute] = ()
) -> Starlette:
    """Return the application, for any ASGI server on trio.

    `others` are served as they are, to anybody, where no endpoint has the path.
    """
    by_path: dict[str, dict[str, _Served]] = {}
    for endpoint in endpoints:
        served = _Served(endpoint, Shape.of(endpoint), gate)
        by_path.setdefault(endpoint.path, {})[endpoint.method] = served
    made = Starlette(
        routes=[*(_route(path, methods) for path, methods in by_path.items()), *others],
        exception_handlers={HTTPException: _not_served, Exception: _unexpected},
    )
    made.router.redirect_slashes = False
    return made


def _route(path: str, methods: dict[str, _Served]) -> Route:
    async def serve(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await methods[method].answer(request)

    return Route(path, serve, methods=list(methods))


@dataclass(frozen=True, slots=True)
class _Served:
    endpoint: Endpoint
    shape: Shape
    gate: Gate

    async def answer(self, request: Request) -> Response:
        try:
            return as_data(await self._answer(request))
        except Refused as error:
            return refusal(error)
        except ProtocolError as error:
            return problem(400, error.reason, str(error))
        except (EdgeError, StoreError) as error:
            _log.error("admin_request_failed", path=printable(request.url.path), why=str(error))
            return problem(503, error.reason, str(error))

    async def _answer(self, request: Request) -> Response:
        endpoint, shape = self.endpoint, self.shape
        caller = await self.gate.admit(request, endpoint.scopes)
        asked = Asked(
            path=read_path(request.path_params, shape.path),
            query=read_query(request.query_params, shape.query),
            body=shape.body and await read_json(request, shape.body, endpoint.example),
            caller=caller,
            request=request,
            answer_headers={},
        )
        answer = await endpoint.handler(asked)
        if isinstance(answer, Response):
            return answer
        if shape.answer is None:
            return Response(status_code=204, headers=asked.answer_headers)
        return value(answer, endpoint.status, asked.answer_headers)


async def _not_served(request: Request, error: Exception) -> Response:
    found = cast("HTTPException", error)
    if found.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        told = "The path is right, the method is not: see Allow."
        return problem(found.status_code, "method_not_allowed", told, found.headers)
    told = "There is nothing here; /api/v1/openapi.json tells what there is."
    return problem(found.status_code, "not_found", told, found.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("admin_request_broke", path=printable(request.url.path), exc_info=error)
    told = "That should not have happened; the edge's log has more of it."
    return problem(500, "internal_error", told)
