"""The command line: one command, ``moonhost``, for every process and every operator's task."""

from __future__ import annotations

import gc
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import cyclopts
import trio
from cyclopts import Parameter

from backends.errors import BackendError
from backends.model import is_valid_name
from backends.tokens import new_agent_token, token_hash
from moonhost import logs
from moonhost.admin_client import AdminClient
from moonhost.errors import CommandFailed
from moonhost.words import explanation, seconds_of
from moonlight.serverinfo import default_http_port
from proxy import state_dir
from proxy.config import ProxyConfig
from proxy.edge import RunningEdge, run_edge
from proxy.errors import EdgeError
from proxy.stores import open_store
from settings import ConfigError, load_toml

default_proxy_config: Final = Path("/etc/moonhost/proxy.toml")
default_agent_config: Final = Path("/etc/moonhost/agent.toml")
proxy_environment: Final = "MOONHOST_PROXY"
collector_thresholds: Final = (50_000, 20, 100)
max_bitrate_kbps: Final = 150_000
max_load_sessions: Final = 300
max_load_seconds: Final = 3_600
_edge: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?"
)
_mode: Final = re.compile(r"[1-9][0-9]{2,3}x[1-9][0-9]{2,3}x[1-9][0-9]{0,2}")

ProxyConfigPath = Annotated[
    Path,
    Parameter(name=["--config", "-c"], help="The edge's TOML file.", env_var="MOONHOST_CONFIG"),
]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]

app = cyclopts.App(
    name="moonhost",
    help="One public hostname in front of many Moonlight hosts, also behind NAT.",
    backend="trio",
    version_flags=["--version"],
)
token_app = cyclopts.App(name="token", help="Make tokens.")
clients_app = cyclopts.App(name="clients", help="The clients that are paired with the edge.")
sessions_app = cyclopts.App(name="sessions", help="The sessions that run now.")
backends_app = cyclopts.App(name="backends", help="The hosts behind connected agents.")
app.command(token_app)
app.command(clients_app)
app.command(sessions_app)
app.command(backends_app)


_told_plainly: Final = (CommandFailed, ConfigError, EdgeError, BackendError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; exit with 1 and one message if it fails."""
    failures: list[BaseException] = []
    try:
        app(sys.argv[1:] if arguments is None else arguments)
    except* _told_plainly as group:
        failures += _leaves(group)
    for failure in failures:
        print(f"moonhost: {failure}", file=sys.stderr)
    if failures:
        sys.exit(1)


@app.command
async def proxy(*, config: ProxyConfigPath = default_proxy_config) -> None:
    """Run an edge: what clients and agents reach."""
    settings = _proxy_settings(config)
    logs.configure(settings.log_level)
    async with trio.open_nursery() as nursery:
        edge = await nursery.start(run_edge, settings)
        _calm_collector()
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            if await anext(signals) == signal.SIGTERM:
                await _drain(edge, settings.sessions.drain_timeout_s, signals)
        edge.stop()


def _calm_collector() -> None:
    """Have the garbage collector look rarely, and not at what stays for good.

    Nothing is relayed while it looks through everything: 60 ms in an edge that has just started,
    and more with each agent. There are few cycles to find.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*collector_thresholds)


async def _drain(edge: RunningEdge, timeout_s: float, signals: AsyncIterator[int]) -> None:
    """Wait until nobody plays; another signal ends the wait."""

    async def drain() -> None:
        await edge.drain(timeout_s)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await anext(signals)
        nursery.cancel_scope.cancel()


@app.command
async def agent(
    *,
    config: Annotated[
        Path, Parameter(name=["--config", "-c"], help="The agent's TOML file.")
    ] = default_agent_config,
) -> None:
    """Run an agent beside one or more hosts: it dials home to the edge."""
    from agent.config import load
    from agent.service import run_agent

    settings = load(_existing(config, "agent.example.toml"))
    logs.configure(settings.log_level)
    _calm_collector()
    await _until_signal(lambda: run_agent(settings))


@app.command
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
    async with AdminClient.of(_proxy_settings(config)) as edge:
        pending = await edge.get("/api/v1/pairings")
        if pin is None:
            _show(pending, as_json, ("id", "address", "device", "asked_at"), "No device waits.")
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
    async with AdminClient.of(_proxy_settings(config)) as edge:
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
    async with AdminClient.of(_proxy_settings(config)) as edge:
        await edge.patch(f"/api/v1/clients/{_path_part(client)}", {"user": user})
    print("Nobody's now." if user is None else f"{user}'s now.")


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
    async with AdminClient.of(_proxy_settings(config)) as edge:
        await edge.delete(f"/api/v1/sessions/{_path_part(session)}")
    print("Ended.")


@backends_app.default
async def backends(
    *, config: ProxyConfigPath = default_proxy_config, as_json: AsJson = False
) -> None:
    """List the hosts whose agents are connected."""
    columns = ("id", "region", "state", "trouble", *_how_full, "rtt_ms")
    await _list("backends", config, as_json, columns, "No agent is connected.")


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
    async with AdminClient.of(_proxy_settings(config)) as edge:
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
    _show(told["backends"], as_json, columns, "No agent is connected.")


@app.command
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

    Sessions go on and can be resumed. A drain outlives restarts of edge and agent.
    """
    async with AdminClient.of(_proxy_settings(config)) as edge:
        if target is not None:
            asked = {} if deadline is None else {"deadline_s": seconds_of(deadline)}
            drains = [await edge.put(f"/api/v1/drains/{_target(target)}", asked)]
        elif deadline is None:
            drains = await edge.get("/api/v1/drains")
        else:
            raise CommandFailed("Say what to drain: moonhost drain AGENT/HOST --deadline ...")
    _show(drains, as_json, ("target", "since", "deadline", "sessions"), "Nothing drains.")


@app.command
async def undrain(target: str, *, config: ProxyConfigPath = default_proxy_config) -> None:
    """Let a host take new sessions again."""
    async with AdminClient.of(_proxy_settings(config)) as edge:
        await edge.delete(f"/api/v1/drains/{_target(target)}")
    print("It takes sessions again.")


@token_app.command(name="agent")
async def token_agent(name: str, *, config: ProxyConfigPath = default_proxy_config) -> None:
    """Make a token for an agent and print it, once: only a hash of it is kept.

    NAME is the agent's id in its configuration. The edge need not be running, nor be restarted.
    """
    if not is_valid_name(name):
        raise CommandFailed(
            "An agent's name has 1 to 64 letters, digits, dots, dashes or underscores."
        )
    settings = _proxy_settings(config)
    state_dir.prepare(settings.state_dir)
    token = new_agent_token()
    async with open_store(settings) as store:
        await store.put_agent_token(name, token_hash(token), datetime.now(UTC))
    print(token)


@app.command(name="simulate-host")
async def simulate_host(
    *,
    name: str = "simulated",
    region: str = "here",
    address: str = "127.0.0.1",
    http_port: int = 47989,
    https_port: int = 47984,
    rtsp_port: int = 48010,
    video_port: int = 48100,
    audio_port: int = 48200,
    control_port: int = 47999,
    api_socket: Path | None = None,
    state_folder: Annotated[Path | None, Parameter(name="--state-dir")] = None,
    behave_like: Annotated[str, Parameter(help="wolf-2026, wolf-2024 or ideal")] = "wolf-2026",
    picture: Annotated[
        str, Parameter(help="card, or noise: bytes that cost nothing to make, for load tests")
    ] = "card",
    max_sessions: int = 4,
    log_level: str = "info",
) -> None:
    """Run a host without a GPU: a test card and a melody, for real Moonlight clients.

    API_SOCKET is where its Wolf-like API listens, for an agent's `wolf_socket`.
    """
    try:
        from simulator.config import HostConfig, Traps
        from simulator.host import run_host
        from simulator.picture import PictureKind
    except ImportError as error:
        raise CommandFailed(
            f"{error.name} is missing: install moonhost with its extra, 'moonhost[simulator]'."
        ) from error
    worlds = {"wolf-2026": Traps.wolf_2026, "wolf-2024": Traps.wolf_2024, "ideal": Traps.none}
    if behave_like not in worlds:
        raise CommandFailed(f"--behave-like is one of {', '.join(worlds)}.")
    pictures: dict[str, PictureKind] = {"card": "card", "noise": "noise"}
    if picture not in pictures:
        raise CommandFailed(f"--picture is one of {', '.join(pictures)}.")
    if log_level not in logs.levels:
        raise CommandFailed(f"--log-level is one of {', '.join(logs.levels)}.")
    logs.configure(log_level)
    host = HostConfig(
        name=name,
        region=region,
        address=address,
        http_port=http_port,
        https_port=https_port,
        rtsp_port=rtsp_port,
        video_port=video_port,
        audio_port=audio_port,
        control_port=control_port,
        api_socket=api_socket,
        state_dir=state_folder,
        traps=worlds[behave_like](),
        picture=pictures[picture],
        max_sessions=max_sessions,
    )
    try:
        await _until_signal(lambda: run_host(host))
    except* OSError as errors:
        first = errors.exceptions[0]
        raise CommandFailed(f"The host cannot listen at {address}: {first}") from None


@app.command
async def demo(
    *,
    check: Annotated[
        bool,
        Parameter(negative="", help="Exit when the client has played; status 0 if all is well."),
    ] = False,
    as_json: AsJson = False,
    mode: Annotated[str, Parameter(help="WIDTHxHEIGHTxFPS")] = "1280x720x30",
    bitrate: Annotated[int, Parameter(help="kbit/s")] = 10_000,
    listen: Annotated[str, Parameter(help="The address the edge listens at.")] = "127.0.0.1",
) -> None:
    """Run everything on this machine: an edge, three hosts behind agents, and a real client.

    The hosts are simulated and need no GPU. A real Moonlight client pairs, lists, launches and
    shows what it decoded; then the demo stays up for your own Moonlight until Ctrl-C.
    """
    from moonhost.demo import DemoOptions, run_demo

    if not _mode.fullmatch(mode):
        raise CommandFailed("--mode is WIDTHxHEIGHTxFPS, as in 1920x1080x60.")
    if not 0 < bitrate <= max_bitrate_kbps:
        raise CommandFailed(f"--bitrate is in kbit/s, up to {max_bitrate_kbps}.")
    if not await run_demo(DemoOptions(check, as_json, mode, bitrate, listen)):
        sys.exit(1)


@app.command
async def loadtest(
    *,
    sessions: Annotated[int, Parameter(help="How many clients play at once.")] = 4,
    mbps: Annotated[float, Parameter(help="Mbit/s that each client asks for.")] = 10.0,
    seconds: Annotated[float, Parameter(help="How long to measure once all play.")] = 10.0,
    as_json: AsJson = False,
    edge: Annotated[str | None, Parameter(help="HOST or HOST:HTTP_PORT of a running edge.")] = None,
    mode: Annotated[str, Parameter(help="WIDTHxHEIGHTxFPS")] = "1280x720x60",
    app_title: Annotated[
        str | None, Parameter(name="--app", help="Its title; else the first of the list.")
    ] = None,
    config: ProxyConfigPath = default_proxy_config,
) -> None:
    """Put whole sessions on an edge and measure them: pairing, launch, media and control.

    Without --edge everything is started here: an edge, a simulated host and its agent. With it,
    PINs are confirmed through the admin API of the edge that --config is of, and the clients are
    unpaired at the end. Exits with 0 if all sessions played and nothing was lost.
    """
    from moonhost.loadtest import LoadOptions, max_own_sessions, run_loadtest

    most = max_own_sessions if edge is None else max_load_sessions
    if not 1 <= sessions <= most:
        raise CommandFailed(f"--sessions is from 1 to {most}.")
    if not 0.1 <= mbps <= max_bitrate_kbps / 1000:
        raise CommandFailed(f"--mbps is from 0.1 to {max_bitrate_kbps // 1000}.")
    if not 1 <= seconds <= max_load_seconds:
        raise CommandFailed(f"--seconds is from 1 to {max_load_seconds}.")
    if not _mode.fullmatch(mode):
        raise CommandFailed("--mode is WIDTHxHEIGHTxFPS, as in 1920x1080x60.")
    options = LoadOptions(
        sessions=sessions,
        mbps=mbps,
        seconds=seconds,
        as_json=as_json,
        mode=mode,
        app=app_title,
        edge=None if edge is None else _host_and_port(edge),
        config=None if edge is None else _proxy_settings(config),
    )
    if not await run_loadtest(options):
        sys.exit(1)


_how_full: Final = ("sessions", "max_sessions", "gpu_memory_percent")
_pairing_failed: Final = {
    "wrong_pin": "That was not the PIN that the device shows. Start the pairing there again.",
    "wrong_signature": "The device did not prove its certificate. Start the pairing there again.",
}


def _proxy_settings(path: Path) -> ProxyConfig:
    return load_toml(_existing(path, "config.example.toml"), ProxyConfig, proxy_environment)


def _existing(path: Path, example: str) -> Path:
    if not path.exists():
        raise CommandFailed(
            f"{path} does not exist. Name your configuration with --config; "
            f"{example} shows what to put in it."
        )
    return path


def _host_and_port(text: str) -> tuple[str, int]:
    match = _edge.fullmatch(text)
    port = int((match and match["port"]) or default_http_port)
    if match is None or not 0 < port < 65_536:
        raise CommandFailed("--edge is HOST or HOST:HTTP_PORT, as in play.example.org:47989.")
    return match["v6"] or match["name"], port


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
    async with AdminClient.of(_proxy_settings(config)) as edge:
        rows = await edge.get(f"/api/v1/{what}")
    _show(rows, as_json, columns, nothing)


def _show(
    rows: list[dict[str, Any]], as_json: bool, columns: tuple[str, ...], nothing: str
) -> None:
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
    return str(value)


async def _until_signal(run: Callable[[], Awaitable[None]]) -> None:
    """Run something until SIGTERM or SIGINT."""

    async def wait() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await anext(signals)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await run()
        nursery.cancel_scope.cancel()


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    main()
