"""What the agent can ask any kind of host that it has access to, and where each kind is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from agent.config import HostConfig, LimitsConfig
from agent.sunshine import SunshineApi
from agent.wolf import WolfApi, confirm_pin_from
from revdial.messages import AppOffer


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A PIN for a pairing that the edge is about to begin, or has begun.

    Kinds of hosts know the pairing by different things: by the `address` it comes from, or by
    nothing, so that the PIN may only be told once the pairing `is_under_way`.
    """

    pin: str = field(repr=False)
    origin: str
    address: IPv4Address | IPv6Address
    is_under_way: Callable[[], bool]
    timeout_s: float


class HostApi(Protocol):
    """A host's own API; everything raises `HostApiError`."""

    async def apps(self) -> tuple[AppOffer, ...]:
        """Give the host's apps, with its own ids for them."""

    async def session_count(self) -> int:
        """Tell how many players' places are taken at the host, paused ones included."""

    async def confirm(self, confirmation: Confirmation) -> None:
        """Wait for the pairing, and tell the host its PIN."""


class _Wolf:
    """Wolf's API, as any host's."""

    def __init__(self, api: WolfApi) -> None:
        self._api = api
        self.apps = api.apps
        self.session_count = api.session_count

    async def confirm(self, confirmation: Confirmation) -> None:
        await confirm_pin_from(
            self._api, confirmation.address, confirmation.pin, timeout_s=confirmation.timeout_s
        )


class _Sunshine:
    """Sunshine's API, as any host's."""

    def __init__(self, api: SunshineApi) -> None:
        self._api = api
        self.apps = api.apps
        self.session_count = api.session_count

    async def confirm(self, confirmation: Confirmation) -> None:
        await self._api.pins.confirm(
            confirmation.pin,
            confirmation.origin,
            is_under_way=confirmation.is_under_way,
            timeout_s=confirmation.timeout_s,
        )


@asynccontextmanager
async def open_api(host: HostConfig, limits: LimitsConfig) -> AsyncIterator[HostApi | None]:
    """Give the API of a host, or None where none is configured; nothing is asked yet.

    Raises `settings.ConfigError` where files that the configuration names cannot be used.
    """
    if host.wolf_socket is not None:
        timeout_s = limits.host_api_timeout_s
        async with WolfApi.open(host.wolf_socket, timeout_s=timeout_s) as wolf:
            yield _Wolf(wolf)
    elif host.has_api_settings:
        yield _Sunshine(await SunshineApi.open(host, timeout_s=limits.host_api_timeout_s))
    else:
        yield None
