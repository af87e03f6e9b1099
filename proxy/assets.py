"""Box art: fetched from a backend that has the app, kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import structlog
import trio

from backends.catalogue import CatalogueApp
from backends.errors import StoreError
from backends.model import State
from moonlight.http import Query
from moonlight.identity import ClientId
from proxy.errors import EdgeError
from proxy.fleet import Fleet
from proxy.host_pairing import HostPairing, host_unique_id
from proxy.hosts import HostRequest, ask, max_asset_bytes

_log = structlog.get_logger()

picture_timeout_s: Final = 10.0
max_cached_bytes: Final = 64 << 20
png_signature: Final = b"\x89PNG\r\n\x1a\n"


class Assets:
    """Pictures by app id, the least recently used ones forgotten first."""

    def __init__(self, fleet: Fleet, pairing: HostPairing) -> None:
        self._fleet = fleet
        self._pairing = pairing
        self._pictures: OrderedDict[int, bytes] = OrderedDict()
        self._cached_bytes = 0

    async def picture(self, client: ClientId, app: CatalogueApp) -> bytes | None:
        """Return an app's PNG, asking its backends in turn as this client; None if none has it.

        None also where it takes longer than clients wait for it.
        """
        with trio.move_on_after(picture_timeout_s):
            return await self._picture(client, app)
        return None

    async def _picture(self, client: ClientId, app: CatalogueApp) -> bytes | None:
        if (known := self._pictures.get(app.id)) is not None:
            self._pictures.move_to_end(app.id)
            return known
        healthy = {
            backend.id for backend in self._fleet.backends() if backend.state is not State.UNHEALTHY
        }
        for backend, native_id in sorted(app.offers.items()):
            if backend not in healthy:
                continue
            query = Query.of(
                ("uniqueid", host_unique_id),
                ("appid", str(native_id)),
                ("AssetType", "2"),
                ("AssetIdx", "0"),
            )
            request = HostRequest("/appasset", query, "assets", max_bytes=max_asset_bytes)
            try:
                context = await self._pairing.context_for(client, backend)
                response = await ask(self._fleet, backend, request, context)
            except (EdgeError, StoreError) as error:
                _log.info("no_picture_from_host", backend=backend, app=app.title, why=str(error))
                continue
            if response.status == 200 and response.body.startswith(png_signature):
                self._keep(app.id, response.body)
                return response.body
        return None

    def _keep(self, app_id: int, picture: bytes) -> None:
        self._cached_bytes += len(picture) - len(self._pictures.get(app_id, b""))
        self._pictures[app_id] = picture
        while self._cached_bytes > max_cached_bytes:
            _, dropped = self._pictures.popitem(last=False)
            self._cached_bytes -= len(dropped)
