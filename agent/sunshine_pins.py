"""PINs for Sunshine, over its API: HTTPS with a name and a password.

There is no list of pairings that wait: a PIN goes to whichever Sunshine finds first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import msgspec
import trio

from agent.errors import HostApiError
from agent.host_http import HostRequest, Place, ask
from moonlight.http import HttpResponse
from revdial.errors import printable

max_name_characters: Final = 80
poll_interval_s: Final = 0.25
refusal_pause_s: Final = 30.0
"""For so long Sunshine is left alone with a password that it has refused."""
_PIN: Final = re.compile(r"[0-9]{4}")


class _Outcome(msgspec.Struct):
    # A text in versions before 2025.
    status: bool | str

    @property
    def taken(self) -> bool:
        return self.status in (True, "true", "1")


class PinApi:
    """What can be done with PINs at one Sunshine; `authorization` is the value of HTTP's header."""

    def __init__(self, place: Place, authorization: str, timeout_s: float) -> None:
        self._place = place
        self._authorization = authorization
        self._timeout_s = timeout_s
        self._spared_until = -float("inf")
        self.turn = trio.Lock()
        """Held during a pairing of ours: with two at once, either may get the other's PIN."""

    async def confirm(
        self, pin: str, name: str, *, is_under_way: Callable[[], bool], timeout_s: float
    ) -> None:
        """Tell the PIN of a pairing once that is under way, until Sunshine takes it.

        Told too early, it may go to an attempt that somebody else has left behind. Sunshine lists
        the new client under `name`. Raises `HostApiError`.
        """
        if not _PIN.fullmatch(pin):
            raise HostApiError("bad_pin", "a PIN for Sunshine is 4 digits")
        try:
            with trio.fail_after(timeout_s):
                async with self.turn:
                    await self.tell(pin, name, is_under_way)
        except trio.TooSlowError:
            raise HostApiError(
                "no_pending_pairing", f"no pairing was waiting at Sunshine within {timeout_s:g} s"
            ) from None

    async def tell(self, pin: str, name: str, is_under_way: Callable[[], bool]) -> None:
        """Do the same without end, for somebody who has the turn."""
        content = {"pin": pin, "name": printable(f"moonhost {name}", max_name_characters)}
        while not (is_under_way() and await self._post(msgspec.json.encode(content))):  # noqa: ASYNC110
            await trio.sleep(poll_interval_s)

    async def _post(self, content: bytes) -> bool:
        """Send a PIN; False where no pairing waits for one."""
        if trio.current_time() < self._spared_until:
            raise _refusal(HTTPStatus.UNAUTHORIZED)
        headers = (("Authorization", self._authorization), ("Content-Type", "application/json"))
        request = HostRequest("POST", "/api/pin", headers, content)
        response = await ask(self._place, request, timeout_s=self._timeout_s)
        if response.status == HTTPStatus.UNAUTHORIZED:
            self._spared_until = trio.current_time() + refusal_pause_s
        if response.status != HTTPStatus.OK:
            raise _refusal(response.status)
        return _outcome(response).taken


def _outcome(response: HttpResponse) -> _Outcome:
    try:
        return msgspec.json.decode(response.body, type=_Outcome)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # The library's text may quote the answer.
        raise HostApiError(
            "host_api_nonsense", "Sunshine's API answered /api/pin with something else"
        ) from None


def _refusal(status: int) -> HostApiError:
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return HostApiError(
                "host_api_unauthorized",
                "Sunshine refused the name or the password: check api_username and "
                "api_password_file",
            )
        case HTTPStatus.FORBIDDEN:
            return HostApiError(
                "host_api_forbidden",
                "Sunshine's API is closed to the address of this machine: set "
                "origin_web_ui_allowed in Sunshine's configuration",
            )
        case HTTPStatus.TEMPORARY_REDIRECT:
            return HostApiError(
                "host_api_without_password",
                "Sunshine has no user yet: open its web page once and set a name and a password",
            )
    return HostApiError("host_api_refused", f"Sunshine's API answered /api/pin with {status}")
