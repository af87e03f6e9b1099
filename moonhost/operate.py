"""The commands that ask a running edge: pairing, clients, sessions, backends, drains, events."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Final

import cyclopts
import trio
from cyclopts import Parameter

from backends.model import is_valid_name
from moonhost.admin_client import AdminClient
from moonhost.cli_options import AsJson, ProxyConfigPath, default_proxy_config, proxy_settings
from moonhost.errors import CommandFailed
from moonhost.words import event_line, explanation, plain, seconds_of

clients_app = cyclopts.App(name="clients", help="The clients that are paired with the edge.")
sessions_app = cyclopts.App(name="sessions", help="The sessions that run now.")
backends_app = cyclopts.App(name="backends", help="The hosts, and where a launch would go.")

reconnect_pause_s: Final = 1.0

_pin: Final = re.compile("[0-9]{4,16}")
_how_full: Final = ("sessions", "max_sessions", "gpu_memory_percent")
_pairing_failed: Final = {
    "wrong_pin": "That was not the PIN that the device shows. Start the pairing there again.",
    "wrong_signature": "The device did not prove its certificate. Start the pairing there again.",
}


async def pair(
    pin: Annotated[str | None, Parameter(help="The PIN that the device shows.")] = None,
    *,
    request: Annotated[
        str | None, Parameter(help="Which device, if several wait: an id from the list.")
    ] = None,
    user: Annotated[
        str | None, Parameter(help="Whose device it is: a user of the configuration.")
    ] = None,
    config: ProxyConfigPath = default_proxy_config,
    as_json: AsJson = False,
) -> None:
    """List the devices that wait to be paired, or pair one by the PIN that it shows."""
    if pin is not None and not _pin.fullmatch(pin):
        raise CommandFailed("A PIN has four digits or a few more; nothing was told to the device.")
    if user is not None and pin is None:
        raise CommandFailed("Tell the PIN, too: moonhost pair PIN --user NAME.")
    async with AdminClient.of(proxy_settings(config)) as edge:
        pending = await edge.get_all("/api/v1/pairings")
        if pin is None:
            show(pending, as_json, ("id", "address", "device", "asked_at"), "No device waits.")
            return
        attempt = request or _only(pending)
        result = await edge.post(f"/api/v1/pairings/{attempt}", {"pin": pin, "user": user})
    if as_json:
        print(json.dumps(result))
    if result["outcome"] != "paired":
        raise CommandFailed(_pairing_failed.get(result["outcome"], "The pairing failed."))
    if not as_json:
        print("Paired.")


@clients_app.default
async def clients(
    *, config: ProxyConfigPath = default_proxy_config, as_json: AsJson = False
) -> None:
    """List the paired clients."""
    columns = ("id", "name", "user", "paired_at", "app")
    await _list("clients", config, as_json, columns, "No client is paired.")


@clients_app.command
async def unpair(client: str, *, config: ProxyConfigPath = default_proxy_config) -> None:
    """Unpair a client, by its id or the beginning of it, and end its session."""
    async with AdminClient.of(proxy_settings(config)) as edge:
        await edge.delete(f"/api/v1/clients/{_path_part(client)}")
    print("Unpaired.")


@clients_app.command
async def assign(
    client: str,
    user: Annotated[str | None, Parameter(help="Nobody's, if left out.")] = None,
    *,
    config: ProxyConfigPath = default_proxy_config,
) -> None:
    """Say whose a client is, by its id or the beginning of it."""
    async with AdminClient.of(proxy_settings(config)) as edge:
        await edge.patch(f"/api/v1/clients/{_path_part(client)}", {"user": user})
    print("Nobody's now." if user is None else f"{user}'s now.")


@clients_app.command
async def rename(
    client: str,
    name: Annotated[str, Parameter(help="What it is called from now on.")],
    *,
    config: ProxyConfigPath = default_proxy_config,
) -> None:
    """Call a client something else, by its id or the beginning of it."""
    async with AdminClient.of(proxy_settings(config)) as edge:
        await edge.patch(f"/api/v1/clients/{_path_part(client)}", {"name": name})
    print("Renamed.")


@sessions_app.default
async def sessions(
    *, config: ProxyConfigPath = default_proxy_config, as_json: AsJson = False
) -> None:
    """List the sessions."""
    columns = ("id", "client_address", "backend", "region", "app", "mode", "state", "started_at")
    await _list("sessions", config, as_json, columns, "Nobody plays.")


@sessions_app.command
async def end(session: str, *, config: ProxyConfigPath = default_proxy_config) -> None:
    """End a session and the app that runs for it."""
    async with AdminClient.of(proxy_settings(config)) as edge:
        await edge.delete(f"/api/v1/sessions/{_path_part(session)}")
    print("Ended.")


@backends_app.default
async def backends(
    *, config: ProxyConfigPath = default_proxy_config, as_json: AsJson = False
) -> None:
    """List the hosts, and how they are; those of agents that went away lately included."""
    columns = ("id", "region", "state", "trouble", *_how_full, "rtt_ms")
    await _list("backends", config, as_json, columns, "No agent has connected.")


@backends_app.command
async def explain(
    *,
    client_ip: Annotated[str, Parameter(help="Where the player would come from.")],
    app_title: Annotated[str, Parameter(name="--app", help="The title of the app.")],
    client: Annotated[
        str | None, Parameter(help="As this client: the id, or the beginning of it.")
    ] = None,
    user: Annotated[str | None, Parameter(help="As a client of this user.")] = None,
    config: ProxyConfigPath = default_proxy_config,
    as_json: AsJson = False,
) -> None:
    """Tell which host a launch would get now and why, without launching."""
    asked = {"client_ip": client_ip, "app": app_title, "client": client, "user": user}
    async with AdminClient.of(proxy_settings(config)) as edge:
        told = await edge.get(
            "/api/v1/backends/explain",
            {name: value for name, value in asked.items() if value is not None},
        )
    if as_json:
        print(json.dumps(told))
        return
    for line in explanation(told):
        print(line)
    columns = ("id", "region", "distance_km", "excluded", *_how_full, "rtt_ms")
    show(told["backends"], as_json, columns, "No agent has connected.")


async def drain(
    target: Annotated[
        str | None, Parameter(help="AGENT/HOST, or AGENT for all of its hosts.")
    ] = None,
    *,
    deadline: Annotated[
        str | None, Parameter(help="End what still runs then: as in 90s, 30m, 2h or 1d.")
    ] = None,
    config: ProxyConfigPath = default_proxy_config,
    as_json: AsJson = False,
) -> None:
    """Start nothing new at a host until `moonhost undrain`; without a TARGET list the drains.

    Sessions go on and can be resumed. A drain outlives restarts of edge and agent. Said again, its
    deadline is the new one; without --deadline it has none.
    """
    async with AdminClient.of(proxy_settings(config)) as edge:
        if target is not None:
            asked = {} if deadline is None else {"deadline_s": seconds_of(deadline)}
            drains = [await edge.put(f"/api/v1/drains/{_target(target)}", asked)]
        elif deadline is None:
            drains = await edge.get_all("/api/v1/drains")
        else:
            raise CommandFailed("Say what to drain: moonhost drain AGENT/HOST --deadline ...")
    show(drains, as_json, ("target", "since", "deadline", "sessions"), "Nothing drains.")


async def undrain(target: str, *, config: ProxyConfigPath = default_proxy_config) -> None:
    """Let a host take new sessions again."""
    async with AdminClient.of(proxy_settings(config)) as edge:
        await edge.delete(f"/api/v1/drains/{_target(target)}")
    print("It takes sessions again.")


async def events(
    *,
    follow: Annotated[
        bool, Parameter(negative="", help="Go on with what happens from now on, until Ctrl-C.")
    ] = False,
    config: ProxyConfigPath = default_proxy_config,
    as_json: AsJson = False,
) -> None:
    """List what happened lately, the oldest first."""
    async with AdminClient.of(proxy_settings(config)) as edge:
        past = (await edge.get_all("/api/v1/events"))[::-1]
        if not follow and as_json:
            print(json.dumps(past))
            return
        if not follow and not past:
            print("Nothing has happened yet.")
            return
        for event in past:
            print(json.dumps(event) if as_json else event_line(event), flush=True)
        if follow:
            await _follow(edge, past[-1]["id"] if past else None, as_json=as_json)


async def _follow(edge: AdminClient, seen_id: int | None, *, as_json: bool) -> None:
    """Print events until the edge is gone; a stream that ends before that is asked for anew."""
    while True:
        async with aclosing(edge.events(seen_id)) as coming:
            async for event in coming:
                seen_id = event["id"]
                print(json.dumps(event) if as_json else event_line(event), flush=True)
        await trio.sleep(reconnect_pause_s)


def _only(pending: list[dict[str, Any]]) -> str:
    if not pending:
        raise CommandFailed("No device waits to be paired. Start the pairing in Moonlight first.")
    if len(pending) > 1:
        raise CommandFailed(
            "Several devices wait. Say which with --request ID; `moonhost pair` lists them."
        )
    return str(pending[0]["id"])


def _path_part(text: str) -> str:
    if not text.isalnum():
        raise CommandFailed("An id has letters and digits only; the list shows it.")
    return text


def _target(text: str) -> str:
    if not all(is_valid_name(part) for part in text.split("/")) or text.count("/") > 1:
        raise CommandFailed(
            "Say AGENT/HOST, or AGENT for all of its hosts; `moonhost backends` lists them."
        )
    return text


async def _list(
    what: str, config: Path, as_json: bool, columns: tuple[str, ...], nothing: str
) -> None:
    async with AdminClient.of(proxy_settings(config)) as edge:
        rows = await edge.get_all(f"/api/v1/{what}")
    show(rows, as_json, columns, nothing)


def show(rows: list[dict[str, Any]], as_json: bool, columns: tuple[str, ...], nothing: str) -> None:
    """Print rows as a table or as JSON, or that there is `nothing`."""
    if as_json:
        print(json.dumps(rows))
        return
    if not rows:
        print(nothing)
        return
    table = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    for line in table:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(_cell, value)) or "-"
    return plain(value)


commands: Final[tuple[cyclopts.App | Callable[..., Any], ...]] = (
    pair,
    clients_app,
    sessions_app,
    backends_app,
    drain,
    undrain,
    events,
)
