"""The load test: whole sessions by light clients against an edge, for sizing machines.

Clients come a few at a time. When all play, counting begins; after the agreed time all leave at
once. In a crowd, all have launched once and gone no further before the first of them plays: hosts
then know everybody, and what follows overlaps as it does where many sit behind one address.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from moonhost.admin_client import AdminClient
from moonhost.cpu import CpuWatch
from moonhost.errors import AdminError, CommandFailed
from moonhost.load_arena import Arena, arena_of
from moonhost.load_options import LoadOptions
from moonhost.load_report import LoadReport
from moonhost.processes import cancel_on_signal
from moonlight.applist import App
from moonlight.identity import ClientId, Identity
from simulator.light_client import COMMON_NAME, LightClient, Playing, StreamWish
from simulator.light_errors import ClientFailed
from simulator.light_figures import SessionFigures

starters: Final = 4
crowd_starters: Final = 16
"""Launches of a crowd that are under way at a time, from the request to the first picture."""
poll_s: Final = 0.05
unpair_timeout_s: Final = 30.0


async def run_loadtest(options: LoadOptions) -> bool:
    """Run a load test until it is through, or until SIGINT or SIGTERM; tell what it found.

    Returns whether all is as it should be: see `LoadReport.passed`.

    Raises:
        CommandFailed: there is no edge to be tested, or the test was interrupted.

    """
    report: LoadReport | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
        async with arena_of(options, say) as arena, AdminClient.of(arena.config) as admin:
            report = await LoadTest(options, arena, admin).run()
        nursery.cancel_scope.cancel()
    if report is None:
        raise CommandFailed("The load test was interrupted; everything it began has ended.")
    print(report.table(), file=sys.stderr if options.as_json else sys.stdout)
    for sentence in (*report.objections(), *report.warnings()):
        say(sentence)
    if options.as_json:
        print(json.dumps(report.json()), flush=True)
    return report.passed


def say(text: str) -> None:
    """Show progress, apart from the results on standard output."""
    print(text, file=sys.stderr, flush=True)


class LoadTest:
    """One run against one edge."""

    def __init__(self, options: LoadOptions, arena: Arena, admin: AdminClient) -> None:
        self._options = options
        self._arena = arena
        self._admin = admin
        self._starters = trio.CapacityLimiter(starters)
        self._crowd_starters = trio.CapacityLimiter(crowd_starters)
        self._arrived = 0
        self._crowd_is_here = trio.Event()
        self._pairing = trio.Lock()
        self._clients: list[LightClient] = []
        self._playing: dict[int, Playing] = {}
        self._figures: list[SessionFigures] = []
        self._cores: dict[str, float | None] = {}
        self._failed: Counter[str] = Counter()
        self._settled = 0
        self._all_settled = trio.Event()
        self._over = trio.Event()

    async def run(self) -> LoadReport:
        """Play all sessions, and report."""
        try:
            key = (await trio.to_thread.run_sync(_new_identity)).key
            async with trio.open_nursery() as nursery:
                for number in range(self._options.sessions):
                    nursery.start_soon(self._session, number, key)
                await self._all_settled.wait()
                if self._playing:
                    await self._measure()
                self._over.set()
        finally:
            if self._arena.outlives_us:
                await self._unpair()
        return self._report()

    async def _session(self, number: int, key: RSAPrivateKey) -> None:
        settled = False
        try:
            async with AsyncExitStack() as stack:
                client, wish = await self._arrive(number, key)
                limiter = self._crowd_starters if self._options.one_address else self._starters
                async with limiter:
                    playing = await stack.enter_async_context(client.playing(wish))
                self._playing[number] = playing
                settled = True
                self._settle()
                await self._over.wait()
        except ClientFailed as failure:
            self._note(failure)
            self._playing.pop(number, None)
            if not settled:
                self._settle()

    async def _arrive(self, number: int, key: RSAPrivateKey) -> tuple[LightClient, StreamWish]:
        """Come so far that nothing is left but to play; in a crowd wait until all have."""
        try:
            async with self._starters:
                client = await self._new_client(number, key)
                wish = self._options.wish(number, self._choose(await client.apps()).id)
                if self._options.one_address:
                    await client.abandon(wish)
        finally:
            self._arrived += 1
            if self._arrived == self._options.sessions or not self._options.one_address:
                self._crowd_is_here.set()
        await self._crowd_is_here.wait()
        return client, wish

    async def _new_client(self, number: int, key: RSAPrivateKey) -> LightClient:
        target = self._arena.target(number, one_address=self._options.one_address)
        client = LightClient(target, _new_identity(key))
        self._clients.append(client)
        # One after the other: nothing but its time tells whose attempt it is.
        async with self._pairing:
            before = {attempt["id"] for attempt in await self._attempts()}

            async def confirm(pin: str) -> None:
                await self._confirm(pin, before, target.source)

            await client.pair(confirm)
        return client

    async def _confirm(self, pin: str, before: set[str], source: str | None) -> None:
        """Tell the edge the PIN of the attempt that was not there before."""
        while True:
            attempt = next(
                (
                    attempt["id"]
                    for attempt in await self._attempts()
                    if attempt["id"] not in before and source in (None, attempt["address"])
                ),
                None,
            )
            if attempt is not None:
                break
            await trio.sleep(poll_s)
        try:
            await self._admin.post(f"/api/v1/pairings/{attempt}", {"pin": pin})
        except AdminError as error:
            raise ClientFailed("pin_not_confirmed", f"The PIN was not taken: {error}") from error

    async def _attempts(self) -> list[dict[str, str]]:
        try:
            attempts: list[dict[str, str]] = await self._admin.get_all("/api/v1/pairings")
        except AdminError as error:
            raise ClientFailed("admin_unreachable", str(error)) from error
        return attempts

    def _choose(self, apps: tuple[App, ...]) -> App:
        for app in apps:
            if self._options.app in (None, app.title):
                return app
        known = ", ".join(app.title for app in apps) or "none"
        raise ClientFailed("no_such_app", f"The edge lists no such app; it has: {known}.")

    def _note(self, failure: ClientFailed) -> None:
        if failure.reason not in self._failed:
            say(f"A session failed ({failure.reason}): {failure}")
        self._failed[failure.reason] += 1

    def _settle(self) -> None:
        self._settled += 1
        say(f"{len(self._playing)} of {self._options.sessions} sessions play.")
        if self._settled == self._options.sessions:
            self._all_settled.set()

    async def _measure(self) -> None:
        """Count for the agreed time; sessions that fail in it do not count as played."""
        say(f"Measuring for {self._options.seconds:g} s ...")
        for playing in self._playing.values():
            playing.begin()
        watch = CpuWatch(self._arena.pids)
        await trio.sleep(self._options.seconds)
        self._cores = {name: watch.cores(name) for name in ("edge", "agent", "host")}
        self._cores["client"] = watch.own_cores()
        self._figures = [playing.figures() for playing in self._playing.values()]

    def _report(self) -> LoadReport:
        return LoadReport.of(
            self._figures,
            self._options,
            mixed_up=sum(
                client.latest is not None and client.latest.figures().ownership.mixed_up
                for client in self._clients
            ),
            failed=self._failed,
            cores=self._cores,
        )

    def _client_ids(self) -> list[ClientId]:
        return [client.identity.certificate.id for client in self._clients]

    async def _unpair(self) -> None:
        """Leave nothing behind at an edge that runs on."""
        with trio.move_on_after(unpair_timeout_s, shield=True) as deadline:
            for client in self._client_ids():
                try:
                    await self._admin.delete(f"/api/v1/clients/{client}")
                except AdminError as error:
                    if error.status != HTTPStatus.NOT_FOUND:  # it was never paired
                        say(f"A client stays paired with the edge: {error}")
        if deadline.cancelled_caught:
            say("Some clients stay paired with the edge; `moonhost clients` lists them.")


def _new_identity(key: RSAPrivateKey | None = None) -> Identity:
    """Make an identity; all clients of one test share a key, which takes long to make."""
    return Identity.generate(COMMON_NAME, now=datetime.now(UTC), key=key)
