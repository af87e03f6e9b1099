"""The load test: whole sessions by light clients against an edge, for sizing machines.

Clients come a few at a time. When all play, counting begins; after the agreed time all leave at
once. Without a running edge to go to, an edge, a host and its agent are started for it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

import trio

from moonhost.admin_client import AdminClient, AdminError
from moonhost.cpu import CpuWatch
from moonhost.errors import CommandFailed
from moonhost.load_report import LoadReport
from moonhost.local_deployment import LocalDeployment, LocalHost
from moonhost.processes import Processes, cancel_on_signal
from moonlight.applist import App
from moonlight.identity import ClientId
from proxy.config import ProxyConfig
from simulator.light_client import LightClient, Playing, StreamWish, parse_mode
from simulator.light_errors import ClientFailed
from simulator.light_figures import SessionFigures
from simulator.light_http import Target

max_own_sessions: Final = 128
"""With an edge of its own: one host, one agent, and what one process may have open."""
starters: Final = 4
poll_s: Final = 0.05
unpair_timeout_s: Final = 30.0

_host: Final = "load"
_loopback: Final = "127."


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the command line says."""

    sessions: int
    mbps: float
    seconds: float
    as_json: bool
    mode: str
    app: str | None
    edge: tuple[str, int] | None
    """Name or address and HTTP port of a running edge; None: start one."""
    config: ProxyConfig | None
    """Of the running edge."""


@dataclass(frozen=True, slots=True)
class Arena:
    """An edge to be put under load."""

    address: str
    http_port: int
    config: ProxyConfig
    pids: dict[str, int] = field(default_factory=dict)
    """Processes on this machine that are part of it."""
    outlives_us: bool = False

    def target(self, number: int) -> Target:
        """Return where client `number` goes, on loopback from an address of its own."""
        source = None
        if self.address.startswith(_loopback):
            source = f"127.64.{number // 250}.{number % 250 + 1}"
        return Target(self.address, self.http_port, source)


async def run_loadtest(options: LoadOptions) -> bool:
    """Run a load test until it is through, or until SIGINT or SIGTERM; tell what it found.

    Returns whether all sessions played and nothing was lost.

    Raises:
        CommandFailed: there is no edge to be tested, or the test was interrupted.

    """
    report: LoadReport | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
        async with _arena(options) as arena, AdminClient.of(arena.config) as admin:
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


@asynccontextmanager
async def _arena(options: LoadOptions) -> AsyncIterator[Arena]:
    if options.edge is not None and options.config is not None:
        yield await _running_edge(*options.edge, options.config)
        return
    with tempfile.TemporaryDirectory(prefix="moonhost-loadtest-") as folder:
        async with trio.open_nursery() as nursery:
            deployment = LocalDeployment(Path(folder), Processes(Path(folder), nursery), say)
            await deployment.require("av", "simulator")
            config = await deployment.start_edge()
            host = LocalHost(
                region=_host,
                address="127.0.0.11",
                max_sessions=options.sessions,
                picture="noise",
            )
            await deployment.start_host(config, host)
            await deployment.wait_for_backends(config)
            yield Arena(
                config.listen.addresses[0], config.listen.http_port, config, deployment.pids
            )
            nursery.cancel_scope.cancel()


async def _running_edge(name: str, http_port: int, config: ProxyConfig) -> Arena:
    try:
        async with AdminClient.of(config) as admin:
            await admin.get("/api/v1/pairings")
    except AdminError as error:
        raise CommandFailed(
            f"The load test confirms its clients' PINs through the edge's admin API, "
            f"which cannot be used: {error}"
        ) from error
    try:
        found = await trio.socket.getaddrinfo(name, http_port, type=trio.socket.SOCK_STREAM)
    except OSError as error:
        raise CommandFailed(f"--edge: {name} cannot be found ({error.strerror}).") from error
    return Arena(str(found[0][4][0]), http_port, config, outlives_us=True)


class LoadTest:
    """One run against one edge."""

    def __init__(self, options: LoadOptions, arena: Arena, admin: AdminClient) -> None:
        self._options = options
        self._arena = arena
        self._admin = admin
        self._fps = parse_mode(options.mode)[2]
        self._starters = trio.CapacityLimiter(starters)
        self._pairing = trio.Lock()
        self._introduced: list[ClientId] = []
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
            async with trio.open_nursery() as nursery:
                for number in range(self._options.sessions):
                    nursery.start_soon(self._session, number)
                await self._all_settled.wait()
                if self._playing:
                    await self._measure()
                self._over.set()
        finally:
            if self._arena.outlives_us:
                await self._unpair()
        return self._report()

    async def _session(self, number: int) -> None:
        settled = False
        try:
            async with AsyncExitStack() as stack:
                async with self._starters:
                    client = await self._new_client(number)
                    wish = await self._wish(client)
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

    async def _new_client(self, number: int) -> LightClient:
        target = self._arena.target(number)
        client = await LightClient.new(target)
        self._introduced.append(client.identity.certificate.id)
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
            attempts: list[dict[str, str]] = await self._admin.get("/api/v1/pairings")
        except AdminError as error:
            raise ClientFailed("admin_unreachable", str(error)) from error
        return attempts

    async def _wish(self, client: LightClient) -> StreamWish:
        app = self._choose(await client.apps())
        options = self._options
        return StreamWish(app_id=app.id, mode=options.mode, bitrate_kbps=round(options.mbps * 1000))

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
        options = self._options
        return LoadReport.of(
            self._figures,
            sessions=options.sessions,
            mbps=options.mbps,
            seconds=options.seconds,
            mode=options.mode,
            fps=self._fps,
            failed=self._failed,
            cores=self._cores,
        )

    async def _unpair(self) -> None:
        """Leave nothing behind at an edge that runs on."""
        with trio.move_on_after(unpair_timeout_s, shield=True) as deadline:
            for client in self._introduced:
                try:
                    await self._admin.delete(f"/api/v1/clients/{client}")
                except AdminError as error:
                    if error.status != HTTPStatus.NOT_FOUND:  # it was never paired
                        say(f"A client stays paired with the edge: {error}")
        if deadline.cancelled_caught:
            say("Some clients stay paired with the edge; `moonhost clients` lists them.")
