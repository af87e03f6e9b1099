"""The OpenAPI document, made from the endpoints and the types of what they take and give."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from proxy.admin.denials import Denial, reasons_of
from proxy.admin.endpoints import Endpoint, Shape, base_path
from proxy.admin.http import Problem, json_type, problem_type

_parameter: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
_reference: Final = "#/components/schemas/"
_about: Final = """What people and programs see and do at a running moonhost edge.

Errors are problems as RFC 9457 has them; `type` is for programs, `detail` says what to do. Lists
come in pages: `next` is the `cursor` of the next one, null at the end."""


def document(endpoints: Iterable[Endpoint], version: str, cookie: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document; `cookie` is the name of the console's login."""
    shapes = [(endpoint, Shape.of(endpoint)) for endpoint in endpoints]
    schemas = _Schemas([shape for _, shape in shapes])
    paths: dict[str, dict[str, Any]] = {}
    for endpoint, shape in shapes:
        path = _parameter.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, shape, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "moonhost admin API", "version": version, "description": _about},
        "tags": [{"name": tag} for tag in sorted({_tag(endpoint) for endpoint, _ in shapes})],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": cookie},
            },
        },
    }


class _Schemas:
    """The schemas of all types, under the names that references have."""

    def __init__(self, shapes: Iterable[Shape]) -> None:
        kinds: list[Any] = [Problem]
        for shape in shapes:
            kinds += [shape.path, shape.query]
            kinds += [] if shape.body is None else [shape.body]
            kinds += [] if shape.answer is None or shape.is_response else [shape.answer]
        kinds = [kind for index, kind in enumerate(kinds) if kind not in kinds[:index]]
        made, components = msgspec.json.schema_components(kinds, ref_template=_reference + "{name}")
        self._kinds, self._made = kinds, made
        self._all = components
        parameters = {shape.path.__name__ for shape in shapes} | {
            shape.query.__name__ for shape in shapes
        }
        self.components = {
            name: schema for name, schema in components.items() if name not in parameters
        }

    def of(self, kind: Any) -> dict[str, Any]:
        """Return a type's schema, which may be a reference."""
        return self._made[self._kinds.index(kind)]

    def parameters(self, kind: type[msgspec.Struct], where: str) -> list[dict[str, Any]]:
        """Return what a path or a query may hold."""
        shape = self._all[kind.__name__]
        return [
            {
                "name": name,
                "in": where,
                "required": name in shape["required"],
                "description": schema.get("description", ""),
                "schema": {key: told for key, told in schema.items() if key != "description"},
            }
            for name, schema in shape["properties"].items()
        ]


def _operation(endpoint: Endpoint, shape: Shape, schemas: _Schemas) -> dict[str, Any]:
    summary, _, more = (inspect.getdoc(endpoint.handler) or "").partition("\n")
    scopes = ", ".join(f"`{scope}`" for scope in sorted(endpoint.scopes))
    told = f"For tokens of any of these scopes: {scopes}." if scopes else "For anybody."
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": summary.removesuffix("."),
        "description": f"{more.strip()}\n\n{told}".strip(),
        "tags": [_tag(endpoint)],
        "parameters": [
            *schemas.parameters(shape.path, "path"),
            *schemas.parameters(shape.query, "query"),
        ],
        "security": [{"bearer": []}, {"cookie": []}] if endpoint.scopes else [],
        "responses": {
            **_answer(endpoint, shape, schemas),
            **{
                str(status): _problem(status, reasons, schemas)
                for status, reasons in sorted(_problems(endpoint, shape).items())
            },
        },
    }
    if shape.body is not None:
        content = {"schema": schemas.of(shape.body), "example": endpoint.example}
        operation["requestBody"] = {"required": True, "content": {json_type: content}}
    return operation


def _answer(endpoint: Endpoint, shape: Shape, schemas: _Schemas) -> dict[str, Any]:
    if shape.answer is None:
        return {"204": {"description": "Done."}}
    if shape.is_response:
        kind = shape.answer.media_type.partition(";")[0]
        content = {kind: {"schema": {"type": "string"}}}
    else:
        content = {json_type: {"schema": schemas.of(shape.answer)}}
    told = {endpoint.status: "The answer.", **endpoint.also}
    return {str(status): {"description": text, "content": content} for status, text in told.items()}


def _problems(endpoint: Endpoint, shape: Shape) -> dict[int, Sequence[str]]:
    """Return why it may refuse, by status: what all have in common, and what is its own."""
    common: dict[int, tuple[str, ...]] = {400: ("bad_query",), 500: ("internal_error",)}
    if msgspec.structs.fields(shape.path):
        common[400] += ("bad_path",)
        common[404] = ("not_found",)
    if "cursor" in shape.query.__struct_fields__:
        common[400] += ("bad_cursor",)
    if shape.body is not None:
        common[400] += ("bad_body", "body_cut_short")
        common |= {408: ("body_too_slow",), 413: ("body_too_large",), 415: ("not_json",)}
    common[403] = (Denial.FOREIGN_ORIGIN,)
    if endpoint.scopes:
        common |= {401: reasons_of(401), 403: reasons_of(403)}
        common[503] = ("unavailable", *reasons_of(503))
    own = endpoint.problems
    return {status: (*common.get(status, ()), *own.get(status, ())) for status in {*common, *own}}


def _problem(status: int, reasons: Sequence[str], schemas: _Schemas) -> dict[str, Any]:
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(reasons)}",
        "content": {problem_type: {"schema": schemas.of(Problem)}},
    }


def _tag(endpoint: Endpoint) -> str:
    below = endpoint.path.removeprefix(base_path)
    return below.split("/")[1] if below != endpoint.path and below != "/" else "edge"
