"""What can be asked of an edge, declared once: it is served, checked and documented by this.

A handler's signature says what it takes and gives: ``async def end(self, asked: Asked[ById,
NoParameters, None]) -> None``. Its docstring is what the OpenAPI document says of it.
"""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Final, Generic, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from proxy.admin.gate import Caller
from proxy.admin.scopes import Scope

base_path: Final = "/api/v1"

_Path = TypeVar("_Path", bound=msgspec.Struct)
_Query = TypeVar("_Query", bound=msgspec.Struct)
_Body = TypeVar("_Body")


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a path or a query that has none."""


@dataclass(frozen=True, slots=True)
class Asked(Generic[_Path, _Query, _Body]):
    """A request that was admitted, and what it says, read and within its bounds."""

    path: _Path
    query: _Query
    body: _Body
    """None where the endpoint takes none."""
    caller: Caller
    request: Request
    answer_headers: dict[str, str]
    """What the handler adds to those of its answer."""


Handler = Callable[[Any], Awaitable[Any]]
"""Takes an `Asked` and gives a value that msgspec can write, a response, or None."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Something to ask of an edge."""

    method: str
    path: str
    """As Starlette writes it: parameters in braces."""
    handler: Handler
    scopes: frozenset[Scope]
    """Any one of them admits a caller; empty for what anybody may ask."""
    problems: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """By status, the reasons that only this endpoint has to refuse."""
    also: Mapping[int, str] = field(default_factory=dict)
    """Other statuses that its usual kind of answer may have, and what they say."""
    example: object = None
    """A body that it takes."""
    status: int = 200
    """Of an answer that is a value."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The types of what an endpoint takes and gives."""

    path: type[msgspec.Struct]
    query: type[msgspec.Struct]
    body: Any
    """None: there is none."""
    answer: Any
    """A kind of value or of `Response`; None: nothing, with status 204."""

    @classmethod
    def of(cls, endpoint: Endpoint) -> Shape:
        """Read it from the handler's signature.

        Raises:
            TypeError: the handler's one argument is no `Asked`.

        """
        hints = typing.get_type_hints(endpoint.handler, include_extras=True)
        answer = hints.pop("return")
        (asked,) = hints.values()
        if typing.get_origin(asked) is not Asked:
            raise TypeError(f"{endpoint.method} {endpoint.path}: its handler takes no Asked")
        path, query, body = typing.get_args(asked)
        return cls(path, query, _or_none(body), _or_none(answer))

    @property
    def is_response(self) -> bool:
        """Tell whether the handler makes its response itself."""
        return isinstance(self.answer, type) and issubclass(self.answer, Response)


def _or_none(kind: Any) -> Any:
    return None if kind is NoneType else kind
