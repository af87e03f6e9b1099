"""The agent's own pairing with a Sunshine: it tells the PIN to the API itself."""

from __future__ import annotations

import secrets
from typing import Final

import trio

from agent.errors import HostApiError
from agent.host_http import Place, ask_xml
from agent.sunshine_pins import PinApi
from moonlight.errors import ProtocolError
from moonlight.identity import Identity
from moonlight.pairing import PairingClient
from moonlight.xml import Answer

attempt_timeout_s: Final = 5.0
attempts: Final = 2
"""An attempt that somebody else left behind spoils the next, and is gone after that."""
failure_pause_s: Final = 30.0
"""For so long no other pairing is tried after one that failed."""


class OwnPairing:
    """Pairs one identity with one Sunshine: `plain` is its HTTP port, `paired` its HTTPS port."""

    def __init__(self, plain: Place, paired: Place, identity: Identity, pins: PinApi) -> None:
        self._plain = plain
        self._paired = paired
        self._identity = identity
        self._pins = pins
        self._failure: HostApiError | None = None
        self._failed_at = 0.0

    async def pair(self) -> None:
        """Pair, unless that has just failed. Raises `HostApiError`."""
        if self._failure and trio.current_time() < self._failed_at + failure_pause_s:
            raise HostApiError(self._failure.reason, str(self._failure))
        if self._pins.turn.locked():
            raise HostApiError("host_pairing_busy", "Sunshine is pairing with a player just now")
        async with self._pins.turn:
            try:
                await self._with_patience()
            except HostApiError as error:
                self._failure, self._failed_at = error, trio.current_time()
                raise

    async def _with_patience(self) -> None:
        for attempt in range(1, attempts + 1):
            try:
                with trio.fail_after(attempt_timeout_s):
                    return await self._once()
            except trio.TooSlowError:
                why = f"it took longer than {attempt_timeout_s:g} s"
            except ProtocolError as error:
                why = str(error)
            if attempt == attempts:
                raise HostApiError(
                    "host_pairing_failed",
                    f"the agent could not be paired with Sunshine to read its apps: {why}",
                )
        raise AssertionError("the last attempt returns or raises")

    async def _once(self) -> None:
        pin = f"{secrets.randbelow(10_000):04}"
        machine = PairingClient(self._identity, pin)
        machine.receive(await self._introduction(machine, pin))
        while not machine.finished:
            machine.receive(await self._step(machine))

    async def _introduction(self, machine: PairingClient, pin: str) -> Answer:
        """Take the first step, whose answer comes once the PIN has been told."""
        answer: Answer | None = None
        failure: HostApiError | None = None

        async def tell() -> None:
            nonlocal failure
            try:
                await self._pins.tell(pin, "agent", lambda: True)
            except HostApiError as error:
                failure = error
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            try:
                answer = await self._step(machine)
            except HostApiError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if answer is None:
            assert failure is not None  # noqa: S101 - one of the two tasks has ended
            raise failure
        return answer

    async def _step(self, machine: PairingClient) -> Answer:
        place = self._paired if machine.over_https else self._plain
        return await ask_xml(place, "/pair", machine.next_query(), timeout_s=attempt_timeout_s)
