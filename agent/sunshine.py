"""What the agent asks a Sunshine: its apps, whether one runs, and to take PINs.

Sunshine's API lists apps without the ids that clients launch them by: those are made of a title
and of the bytes of its picture, and told to paired clients alone. So the agent is one.

What Sunshine answers is untrusted: bounded, decoded into types, and cleaned where it is text.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Final

import structlog
import trio

from agent.config import HostConfig
from agent.host_http import Place, ask_xml, nonsense
from agent.sunshine_access import Access, read_access
from agent.sunshine_pairing import OwnPairing
from agent.sunshine_pins import PinApi
from moonlight.applist import parse_applist
from moonlight.errors import ProtocolError
from moonlight.serverinfo import ServerInfo
from moonlight.xml import Answer
from revdial.errors import printable
from revdial.messages import AppOffer

max_apps: Final = 512
max_title_characters: Final = 128

_log = structlog.get_logger()


class SunshineApi:
    """One Sunshine; made by ``await SunshineApi.open(host)``. Everything raises `HostApiError`."""

    def __init__(self, host: HostConfig, access: Access, timeout_s: float) -> None:
        api = Place(str(host.address), host.api_port, "Sunshine's API", access.fingerprint)
        self._host = host.name
        self._timeout_s = timeout_s
        self._plain = Place(api.address, host.http_port, "Sunshine")
        self._paired = replace(
            api, port=host.https_port, called="Sunshine", identity=access.identity
        )
        self.pins = PinApi(api, access.authorization, timeout_s)
        self._own: OwnPairing | None = None
        if access.identity is not None:
            self._own = OwnPairing(self._plain, self._paired, access.identity, self.pins)

    @classmethod
    async def open(cls, host: HostConfig, *, timeout_s: float = 3.0) -> SunshineApi:
        """Read what gives access; `ConfigError` if that cannot be used. Asks nothing yet."""
        access = await trio.to_thread.run_sync(read_access, host)
        return cls(host, access, timeout_s)

    async def apps(self) -> tuple[AppOffer, ...]:
        """Give the apps; pairs the agent if Sunshine does not know it. Only with an identity."""
        assert self._own is not None  # noqa: S101 - the configuration lists the apps otherwise
        answer = await self._applist()
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            await self._own.pair()
            _log.info("agent_paired_with_host", host=self._host)
            answer = await self._applist()
        try:
            apps = parse_applist(answer)
        except ProtocolError as error:
            raise nonsense(self._paired, "/applist", error) from None
        offers = (
            AppOffer(printable(app.title, max_title_characters).strip(), app.id, app.hdr)
            for app in apps[:max_apps]
        )
        return tuple(offer for offer in offers if offer.title)

    async def session_count(self) -> int:
        """Tell whether an app runs, for whomever: 1 or 0. Sunshine tells that to everybody."""
        answer = await ask_xml(self._plain, "/serverinfo", timeout_s=self._timeout_s)
        try:
            return int(ServerInfo.parse(answer).current_game > 0)
        except ProtocolError as error:
            raise nonsense(self._plain, "/serverinfo", error) from None

    async def _applist(self) -> Answer:
        return await ask_xml(self._paired, "/applist", timeout_s=self._timeout_s)
