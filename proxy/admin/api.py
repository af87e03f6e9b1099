"""The admin API: what the commands of ``moonhost`` and the console ask a running edge.

It has a port of its own, off the data path, and on loopback unless configured otherwise. All that
can be asked is a list of endpoints, each from the module of what it is about;
`proxy.admin.serving` serves them and `proxy.admin.openapi` tells what they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from proxy.admin.credentials import cookie_name
from proxy.admin.endpoints import Asked, Endpoint, NoParameters, base_path
from proxy.admin.gate import Gate
from proxy.admin.openapi import document
from proxy.admin.scopes import ANYBODY
from proxy.admin.serving import application
from proxy.version import version

document_path: Final = f"{base_path}/openapi.json"


class Index(msgspec.Struct, frozen=True):
    """Where to read on."""

    openapi: str


class AdminApi:
    """Builds the ASGI application.

    Args:
        gate: admits callers.
        endpoints: all that can be asked, but what this class tells of them.
        others: routes that are no part of the API, for anybody.

    """

    def __init__(
        self, gate: Gate, endpoints: Iterable[Endpoint], others: Iterable[BaseRoute] = ()
    ) -> None:
        self._gate = gate
        self._others = tuple(others)
        self.endpoints = (
            *endpoints,
            Endpoint("GET", f"{base_path}/", self.show_index, ANYBODY),
            Endpoint("GET", document_path, self.show_document, ANYBODY),
        )
        self._document = document(self.endpoints, version(), cookie_name)

    def application(self) -> Starlette:
        """Return the application, for any ASGI server on trio."""
        return application(self._gate, self.endpoints, self._others)

    async def show_index(self, asked: Asked[NoParameters, NoParameters, None]) -> Index:
        """Tell where the API's document is."""
        return Index(document_path)

    async def show_document(self, asked: Asked[NoParameters, NoParameters, None]) -> dict[str, Any]:
        """Give the API's OpenAPI document."""
        return self._document
