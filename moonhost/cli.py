"""The command line: one command, ``moonhost``, for every process and every operator's task."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import cyclopts
import trio
from cyclopts import Parameter

from backends.errors import BackendError
from moonhost import logs, operate
from moonhost.cli_options import (
    AgentConfigPath,
    AsJson,
    ProxyConfigPath,
    default_agent_config,
    default_proxy_config,
    existing,
    max_bitrate_kbps,
    proxy_environment,
    proxy_settings,
)
from moonhost.doctor import doctor_app
from moonhost.errors import CommandFailed
from moonhost.tokens import token_app
from moonlight.serverinfo import default_http_port
from proxy.config import ProxyConfig
from proxy.edge import RunningEdge, run_edge
from proxy.errors import EdgeError
from settings import ConfigError, load_toml
from settings.reloading import Reloading

if TYPE_CHECKING:
    from agent.config import AgentConfig

_Settings = TypeVar("_Settings", ProxyConfig, "AgentConfig")

collector_thresholds: Final = (50_000, 20, 100)
max_load_sessions: Final = 300
max_load_seconds: Final = 3_600
_edge: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?"
)
_mode: Final = re.compile(r"[1-9][0-9]{2,3}x[1-9][0-9]{2,3}x[1-9][0-9]{0,2}")

app = cyclopts.App(
    name="moonhost",
    help="One public hostname in front of many Moonlight hosts, also behind NAT.",
    backend="trio",
    version_flags=["--version"],
)
app.command(token_app)
app.command(doctor_app)
for command in operate.commands:
    app.command(command)


_told_plainly: Final = (CommandFailed, ConfigError, EdgeError, BackendError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; exit with 1 and one message if it fails."""
    failures: list[BaseException] = []
    unheard = False
    try:
        app(sys.argv[1:] if arguments is None else arguments)
    except* _told_plainly as group:
        failures += _leaves(group)
    except* BrokenPipeError:
        # Whoever read this has seen enough, as `head`; nothing is left to be flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        unheard = True
    for failure in failures:
        print(f"moonhost: {failure}", file=sys.stderr)
    if failures or unheard:
        sys.exit(1)


@app.command
async def proxy(*, config: ProxyConfigPath = default_proxy_config) -> None:
    """Run an edge: what clients and agents reach."""
    settings = proxy_settings(config)
    log = logs.configure(settings.log_level, settings.log_format)
    start = partial(run_edge, settings, log_lines_suppressed=log.suppressed)
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        async with trio.open_nursery() as nursery:
            edge = await nursery.start(start)
            _calm_collector()
            async with trio.open_nursery() as beside:
                beside.start_soon(log.tell_floods)
                load = partial(load_toml, config, ProxyConfig, proxy_environment)
                beside.start_soon(_follow, edge.reloading, load, log, hangups)
                with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                    if await anext(signals) == signal.SIGTERM:
                        await _drain(edge, signals)
                beside.cancel_scope.cancel()
            edge.stop()


async def _follow(
    reloading: Reloading[_Settings],
    load: Callable[[], _Settings],
    log: logs.Logs,
    hangups: AsyncIterator[int],
) -> None:
    """Have the configuration read again at each SIGHUP, and the log go by it."""
    async for _ in hangups:
        await reloading.reload(load)
        log.apply(reloading.config.log_level, reloading.config.log_format)


def _calm_collector() -> None:
    """Have the garbage collector look rarely, and not at what stays for good.

    Nothing is relayed while it looks through everything: 60 ms in an edge that has just started,
    and more with each agent. There are few cycles to find.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*collector_thresholds)


async def _drain(edge: RunningEdge, signals: AsyncIterator[int]) -> None:
    """Wait until nobody plays; another signal ends the wait."""

    async def drain() -> None:
        await edge.drain(edge.reloading.config.sessions.drain_timeout_s)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await anext(signals)
        nursery.cancel_scope.cancel()


@app.command
async def agent(*, config: AgentConfigPath = default_agent_config) -> None:
    """Run an agent beside one or more hosts: it dials home to the edge."""
    from agent.config import load
    from agent.service import run_agent

    settings = load(existing(config, "agent.example.toml"))
    log = logs.configure(settings.log_level, settings.log_format)
    _calm_collector()

    async def follow(reloading: Reloading[AgentConfig]) -> None:
        await _follow(reloading, partial(load, config), log, hangups)

    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        await _until_signal(lambda: run_agent(settings, follow=follow))


@app.command(name="simulate-host")
async def simulate_host(
    *,
    name: str = "simulated",
    region: str = "here",
    address: str = "127.0.0.1",
    base_port: Annotated[int, Parameter(help="What ports that are not named follow from.")] = 47989,
    http_port: int | None = None,
    https_port: int | None = None,
    rtsp_port: int | None = None,
    video_port: int | None = None,
    audio_port: int | None = None,
    control_port: int | None = None,
    api_socket: Path | None = None,
    api_port: int | None = None,
    api_username: str = "sunshine",
    api_password_file: Path | None = None,
    state_folder: Annotated[Path | None, Parameter(name="--state-dir")] = None,
    behave_like: Annotated[
        str, Parameter(help="wolf-2026, wolf-2024, sunshine or ideal")
    ] = "wolf-2026",
    picture: Annotated[
        str, Parameter(help="card, or noise: bytes that cost nothing to make, for load tests")
    ] = "card",
    max_mbps: Annotated[
        float | None, Parameter(help="Mbit/s it sends to a client at most; else what is asked for")
    ] = None,
    slowdown: Annotated[float, Parameter(help="times that frames and sound are slower")] = 1.0,
    max_sessions: int = 4,
    log_level: str = "info",
) -> None:
    """Run a host without a GPU: a test card and a melody, for real Moonlight clients.

    API_SOCKET is where its Wolf-like API listens, for an agent's `wolf_socket`. With
    API_PASSWORD_FILE it has Sunshine's API, over HTTPS.
    """
    try:
        from moonhost.simulated_host import Wish, host_config
        from simulator.host import run_host
    except ImportError as error:
        raise CommandFailed(
            f"{error.name} is missing: install moonhost with its extra, 'moonhost[simulator]'."
        ) from error
    if log_level not in logs.levels:
        raise CommandFailed(f"--log-level is one of {', '.join(logs.levels)}.")
    host = host_config(
        Wish(
            name=name,
            region=region,
            address=address,
            behave_like=behave_like,
            base_port=base_port,
            ports={
                "http": http_port,
                "https": https_port,
                "rtsp": rtsp_port,
                "video": video_port,
                "audio": audio_port,
                "control": control_port,
                "api": api_port,
            },
            api_socket=api_socket,
            api_username=api_username,
            api_password_file=api_password_file,
            state_dir=state_folder,
            picture=picture,
            max_mbps=max_mbps,
            slowdown=slowdown,
            max_sessions=max_sessions,
        )
    )
    logs.configure(log_level)
    try:
        await _until_signal(lambda: run_host(host))
    except* OSError as errors:
        why = "; ".join(
            dict.fromkeys(
                getattr(error, "strerror", None) or str(error) for error in _leaves(errors)
            )
        )
        raise CommandFailed(
            f"The host cannot listen at {address}, or at its socket: {why}. An edge on this "
            "machine has the usual ports: try --base-port 57989."
        ) from None


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
    one_address: Annotated[
        bool, Parameter(negative="", help="A crowd: all come from one address, and at once.")
    ] = False,
    mbps: Annotated[
        float | None,
        Parameter(help="Mbit/s that each client asks for: 10, or 0.5 with --one-address."),
    ] = None,
    seconds: Annotated[float, Parameter(help="How long to measure once all play.")] = 10.0,
    as_json: AsJson = False,
    edge: Annotated[str | None, Parameter(help="HOST or HOST:HTTP_PORT of a running edge.")] = None,
    mode: Annotated[
        str | None,
        Parameter(help="WIDTHxHEIGHTxFPS: 1280x720x60, or 640x360x30 with --one-address."),
    ] = None,
    app_title: Annotated[
        str | None, Parameter(name="--app", help="Its title; else the first of the list.")
    ] = None,
    config: ProxyConfigPath = default_proxy_config,
) -> None:
    """Put whole sessions on an edge and measure them: pairing, launch, media and control.

    Without --edge everything is started here: an edge, a simulated host and its agent. With it,
    PINs are confirmed through the admin API of the edge that --config is of, and the clients are
    unpaired at the end. Exits with 0 if all sessions played and nothing was lost.

    With --one-address it asks whether an edge keeps clients apart that hosts cannot: every second
    one asks for 15 Mbit/s or more, from where on RTSP names its session, the others for less, and
    all have launched once before the first of them plays. It tells how many had only their own
    picture, sound and control, and exits with 0 if all played and none was mixed up. Two hosts are
    started then, which send each client MBPS at most, and 15 times slower than it asks.
    """
    from moonhost.load_arena import max_own_sessions
    from moonhost.load_options import (
        LoadOptions,
        crowd_mbps,
        crowd_mode,
        default_mbps,
        default_mode,
    )
    from moonhost.loadtest import run_loadtest

    if mbps is None:
        mbps = crowd_mbps if one_address else default_mbps
    if mode is None:
        mode = crowd_mode if one_address else default_mode
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
        config=None if edge is None else proxy_settings(config),
        one_address=one_address,
    )
    if not await run_loadtest(options):
        sys.exit(1)


def _host_and_port(text: str) -> tuple[str, int]:
    match = _edge.fullmatch(text)
    port = int((match and match["port"]) or default_http_port)
    if match is None or not 0 < port < 65_536:
        raise CommandFailed("--edge is HOST or HOST:HTTP_PORT, as in play.example.org:47989.")
    return match["v6"] or match["name"], port


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
