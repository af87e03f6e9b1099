"""What clients ask over HTTP and HTTPS, and what they are answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from backends.errors import StoreError
from backends.records import ClientRecord
from backends.store import Store
from moonlight.applist import App, applist
from moonlight.errors import ProtocolError, printable
from moonlight.http import HttpRequest, Query
from moonlight.identity import ClientId, client_id, short_id
from moonlight.pairing import PairingOutcome, Phase, pair_accepted, pair_refused, phase_of
from moonlight.serverinfo import (
    DisplayMode,
    ServerInfo,
    hevc_max_luma_pixels,
    local_ip_for,
    unknown_mac,
)
from moonlight.xml import Answer, text_element
from proxy.assets import Assets
from proxy.config import ProxyConfig
from proxy.errors import Refused
from proxy.events import EventKind
from proxy.fleet import Fleet
from proxy.host_pairing import HostPairing
from proxy.pairing_desk import Attempt, PairingDesk
from proxy.play import Play
from proxy.session_keeper import SessionKeeper

_log = structlog.get_logger()

xml: Final = "application/xml"
ok: Final = 200
unauthorized: Final = 401
not_found: Final = 404

# H.264, HEVC, HEVC Main10, AV1 Main8 and Main10: which of them a session really gets is settled
# in its DESCRIBE, by the host that was chosen for it.
all_codecs: Final = 0x1 | 0x100 | 0x200 | 0x10000 | 0x20000

_resolutions: Final = (
    (1280, 720), (1280, 800), (1366, 768), (1600, 900), (1920, 1080), (1920, 1200),
    (2340, 1080), (2400, 1080), (2560, 1080), (2560, 1440), (2560, 1600), (3440, 1440),
    (3840, 1600), (3840, 2160), (5120, 2160),
)  # fmt: skip
_refresh_rates: Final = (30, 60, 90, 120, 144)
_display_modes: Final = tuple(
    DisplayMode(width, height, rate) for width, height in _resolutions for rate in _refresh_rates
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: by which address, over what, and with which certificate."""

    address: str
    local_address: str
    certificate: bytes | None
    """DER of the client's certificate; None over plain HTTP, or if it showed none."""
    secure: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back: an HTTP status, and XML or a picture."""

    body: bytes
    status: int = ok
    content_type: str = xml


Route = Callable[[Caller, ClientRecord, Query], Awaitable[Reply]]


class NvHttp:
    """Answers requests; knows nothing of sockets.

    Errors are ``200 OK`` in HTTP with the true status in the XML: Moonlight shows its user the
    XML's sentence only then, and a bare "Bad Gateway" else. Two statuses are HTTP's own as well:
    401 for an unknown certificate and 404 for what does not exist.
    """

    def __init__(
        self,
        config: ProxyConfig,
        unique_id: str,
        store: Store,
        fleet: Fleet,
        desk: PairingDesk,
        keeper: SessionKeeper,
        play: Play,
        pairing: HostPairing,
        assets: Assets,
        *,
        wake_mac: str | None = None,
    ) -> None:
        self._config = config
        self._wake_mac = wake_mac
        self.access = config.access_rules()
        """What each user may use: the same object, whatever its rules become."""
        self._unique_id = unique_id
        self._store = store
        self._fleet = fleet
        self._desk = desk
        self._keeper = keeper
        self._play = play
        self._pairing = pairing
        self._assets = assets
        self._paired_routes: dict[str, Route] = {
            "/serverinfo": self._paired_serverinfo,
            "/unpair": self._unpair,
            "/applist": self._applist,
            "/appasset": self._appasset,
            "/launch": self._launch,
            "/resume": self._resume,
            "/cancel": self._cancel,
        }

    def apply(self, config: ProxyConfig) -> None:
        """Go by another configuration; what runs already is not taken from anybody."""
        self._config = config
        self.access.become(config.access_rules())

    async def answer(self, request: HttpRequest, caller: Caller) -> Reply:
        """Answer one request; whatever goes wrong is logged once and answered."""
        try:
            return await self._route(request, caller)
        except Refused as error:
            cause = error.__cause__
            _log.warning(
                "request_refused",
                path=printable(request.path),
                client_address=caller.address,
                client=_client_of(caller),
                status=error.status,
                reason=error.reason,
                why=str(error if cause is None else cause),
            )
            return Reply(Answer.error(error.status, str(error), request.path).encode())
        except ProtocolError as error:
            _log.warning(
                "request_refused",
                path=printable(request.path),
                client_address=caller.address,
                client=_client_of(caller),
                reason=error.reason,
                why=str(error),
            )
            return Reply(Answer.error(400, str(error), request.path).encode())
        except StoreError as error:
            _log.error("store_failed", path=printable(request.path), why=str(error))
            message = "This server cannot reach its database right now. Please try again later."
            return Reply(Answer.error(503, message, request.path).encode())

    async def _route(self, request: HttpRequest, caller: Caller) -> Reply:
        path, query = request.path, request.query
        if request.method not in {"GET", "HEAD"}:
            raise Refused(405, "method_not_allowed", "Only GET is understood here.")
        if path == "/pair":
            return await self._pair(caller, query)
        if not caller.secure:
            if path == "/serverinfo":
                return self._serverinfo(caller, None)
            if path == "/unpair":
                self._desk.give_up(caller.address, query)
                return Reply(Answer.ok().encode())
            return _nothing_there(path)
        client = await self._paired_client(caller)
        route = self._paired_routes.get(path)
        if client is None:
            return _not_authorized(path)
        if route is None:
            return _nothing_there(path)
        return await route(caller, client, query)

    async def _paired_client(self, caller: Caller) -> ClientRecord | None:
        if caller.certificate is None:
            return None
        return await self._store.get_client(client_id(caller.certificate))

    async def _pair(self, caller: Caller, query: Query) -> Reply:
        try:
            answer = await self._pair_step(caller, query)
        except ProtocolError as error:
            _log.warning(
                "pairing_broken_off",
                client_address=caller.address,
                reason=error.reason,
                why=str(error),
            )
            answer = pair_refused(str(error))
        except Refused as error:
            _log.warning(
                "pairing_refused",
                client_address=caller.address,
                reason=error.reason,
                why=str(error),
            )
            refusal = Answer.error(error.status, str(error), "/pair")
            answer = Answer(refusal.attributes, (text_element("paired", 0),))
        return Reply(answer.encode())

    async def _pair_step(self, caller: Caller, query: Query) -> Answer:
        phase = phase_of(query)
        if phase is Phase.PAIR_CHALLENGE:
            if await self._paired_client(caller) is None:
                return pair_refused("This device is not paired.")
            return pair_accepted()
        if phase is Phase.GET_SERVER_CERT:
            return await self._desk.introduce(caller.address, query)
        answer, attempt = self._desk.go_on(caller.address, query)
        if attempt.machine.outcome is None:
            return answer
        try:
            if attempt.machine.outcome is PairingOutcome.PAIRED:
                await self._remember(attempt.machine.client.der, attempt)
        except BaseException:
            attempt.machine.outcome = PairingOutcome.BROKEN_OFF
            raise
        finally:
            self._desk.finish(attempt)
        return answer

    async def _remember(self, der: bytes, attempt: Attempt) -> None:
        identifier = client_id(der)
        known = await self._store.get_client(identifier)
        # A device that pairs anew stays its user's, and is called what it was.
        user = attempt.user or (None if known is None else known.user)
        name = (None if known is None else known.name) or attempt.device
        await self._store.put_client(ClientRecord(identifier, name, der, datetime.now(UTC), user))
        self._fleet.events.keep(
            EventKind.CLIENT_PAIRED, short_id(identifier), device=attempt.device
        )
        _log.info("client_paired", client=short_id(identifier), request=attempt.id)

    def _serverinfo(self, caller: Caller, client: ClientId | None) -> Reply:
        current = 0 if client is None else self._keeper.table.current_app(client)
        info = ServerInfo(
            hostname=self._config.name,
            unique_id=self._unique_id,
            max_luma_pixels_hevc=hevc_max_luma_pixels,
            codec_mode_support=all_codecs,
            https_port=self._config.listen.https_port,
            http_port=self._config.listen.http_port,
            mac=(None if client is None else self._wake_mac) or unknown_mac,
            local_ip=local_ip_for(caller.local_address),
            display_modes=_display_modes,
            paired=client is not None,
            current_game=current,
            busy=current != 0,
        )
        return Reply(info.to_answer().encode())

    async def _paired_serverinfo(self, caller: Caller, client: ClientRecord, query: Query) -> Reply:
        return self._serverinfo(caller, ClientId(client.id))

    async def _unpair(self, caller: Caller, client: ClientRecord, query: Query) -> Reply:
        await self.forget_client(ClientId(client.id))
        return Reply(Answer.ok().encode())

    async def forget_client(self, client: ClientId) -> bool:
        """Unpair a client and end its session; False if it is not paired."""
        session = self._keeper.table.of_client(client)
        if session is not None:
            # Now, since once its identity is deleted nobody could end its app at the host.
            await self._play.end_at_host(session.id)
        forgotten = await self._store.delete_client(client)
        self._pairing.forget_client(client)
        if (launched := self._keeper.table.of_client(client)) is not None:
            await self._keeper.end(launched, "client_unpaired")
        if forgotten:
            self._fleet.events.keep(EventKind.CLIENT_UNPAIRED, short_id(client))
            _log.info("client_unpaired", client=short_id(client))
        return forgotten

    async def _applist(self, caller: Caller, client: ClientRecord, query: Query) -> Reply:
        catalogue = await self._fleet.catalogue(self.access.of(client.user))
        apps = [App(app.title, app.id, app.hdr) for app in catalogue.apps]
        return Reply(applist(apps).encode())

    async def _appasset(self, caller: Caller, client: ClientRecord, query: Query) -> Reply:
        number = query.get("appid") or ""
        catalogue = await self._fleet.catalogue(self.access.of(client.user))
        app = catalogue.by_id(int(number)) if number.isdecimal() and len(number) < 11 else None
        picture = None if app is None else await self._assets.picture(ClientId(client.id), app)
        if picture is None:
            return _nothing_there("/appasset")
        return Reply(picture, content_type="image/png")

    async def _launch(self, caller: Caller, client: ClientRecord, query: Query) -> Reply:
        answer = await self._play.launch(
            ClientId(client.id), caller.address, query, self.access.of(client.user)
        )
        return Reply(answer.encode())

    async def _resume(self, caller: Caller, client: ClientRecord, query: Query) -> Reply:
        answer = await self._play.resume(ClientId(client.id), caller.address, query)
        return Reply(answer.encode())

    async def _cancel(self, caller: Caller, client: ClientRecord, query: Query) -> Reply:
        return Reply((await self._play.cancel(ClientId(client.id), query)).encode())


def _not_authorized(path: str) -> Reply:
    message = "The client is not authorized. Certificate verification failed."
    return Reply(Answer.error(unauthorized, message, path).encode(), unauthorized)


def _nothing_there(path: str) -> Reply:
    return Reply(Answer.error(not_found, "There is nothing here.", path).encode(), not_found)


def _client_of(caller: Caller) -> str | None:
    return None if caller.certificate is None else short_id(client_id(caller.certificate))
