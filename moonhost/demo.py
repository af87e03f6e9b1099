"""The demo: an edge, three simulated hosts behind agents, and a real client, on one machine.

Everything runs as it would for real: each is a process of its own, started by the commands that
an operator uses, with configuration files written for the occasion.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import trio

from moonhost.admin_client import AdminClient, AdminError
from moonhost.errors import CommandFailed
from moonhost.ports import NoRoom, find_shift
from moonhost.processes import Processes, run_python
from moonhost.sample_configs import SampleHost, write_agent_config, write_edge_config
from proxy.config import ProxyConfig
from settings import load_toml

app_title: Final = "Test ball"
play_s: Final = 5.0
start_timeout_s: Final = 60.0
client_timeout_s: Final = 90.0
poll_s: Final = 0.1
wanted_frames_share: Final = 0.95
standard_http_port: Final = 47989

_host_ports: Final = {
    "http-port": 47989,
    "https-port": 47984,
    "rtsp-port": 48010,
    "video-port": 48100,
    "audio-port": 48200,
    "control-port": 47999,
}
_host_tcp: Final = (47984, 47989, 48010)
_sessions_per_host: Final = 4
_host_udp: Final = (
    47999,
    *range(48100, 48100 + _sessions_per_host),
    *range(48200, 48200 + _sessions_per_host),
)
# Hosts begin here, so that the edge may listen on all addresses with the standard ports.
_hosts_start: Final = 4_000
# What a host sends before the client has shown where it wants it was never on its way.
_before_the_picture: Final = {"client_not_bound", "client_refused"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of the demo's hosts pretends to be."""

    region: str
    latitude: float
    longitude: float


_places: Final = (
    Place("frankfurt", 50.11, 8.68),
    Place("new-york", 40.71, -74.01),
    Place("tokyo", 35.68, 139.69),
)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line says."""

    check: bool
    as_json: bool
    mode: str
    bitrate_kbps: int
    listen: str


@dataclass(slots=True)
class CheckResult:
    """What ``--check --json`` prints; what was not reached keeps its first value."""

    paired: bool = False
    apps: tuple[str, ...] = ()
    backend: str | None = None
    region: str | None = None
    first_frame_ms: int | None = None
    seconds: float = play_s
    frames_expected: int = 0
    frames_decoded: int = 0
    audio_packets: int = 0
    video_packets_lost: int | None = None

    @property
    def passed(self) -> bool:
        """Whether the client played as it should."""
        return (
            self.paired
            and self.frames_expected > 0
            and self.frames_decoded >= wanted_frames_share * self.frames_expected
            and self.audio_packets > 0
            and self.video_packets_lost == 0
        )


async def run_demo(options: DemoOptions) -> bool:
    """Run the demo until it has checked what it should, or until SIGINT or SIGTERM.

    Returns whether the client played as it should.

    Raises:
        CommandFailed: something did not start or did not answer; shows the end of its log.

    """
    result = CheckResult()
    told = False
    try:
        with tempfile.TemporaryDirectory(prefix="moonhost-demo-") as folder:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_on_signal, nursery.cancel_scope)
                demo = Demo(Path(folder), options, Processes(Path(folder), nursery))
                await demo.run(result)
                told = demo.tell(result)
                if not options.check:
                    await demo.stay_up()
                nursery.cancel_scope.cancel()
    finally:
        if options.as_json and not told:
            print(json.dumps(asdict(result)), flush=True)
    return result.passed


async def _cancel_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
    scope.cancel()


class Demo:
    """One run of the demo, with all its files in one folder."""

    def __init__(self, folder: Path, options: DemoOptions, processes: Processes) -> None:
        self._folder = folder
        self._options = options
        self._processes = processes
        self._http_port = standard_http_port

    def say(self, text: str) -> None:
        """Show progress; it does not mix with JSON on standard output."""
        print(text, file=sys.stderr if self._options.as_json else sys.stdout, flush=True)

    async def run(self, result: CheckResult) -> None:
        """Start everything and let the client play; `result` holds what was reached."""
        await self._require_packages()
        config = await self._start_edge()
        self._http_port = config.listen.http_port
        shift = _hosts_start
        for number, place in enumerate(_places):
            shift = await self._start_host(config, f"127.0.0.{11 + number}", place, shift)
        await self._wait_for_backends(config)
        self.say(f"All {len(_places)} agents have dialled home.")
        await self._play(config, result)

    async def _require_packages(self) -> None:
        for package, extra in (("av", "simulator"), ("moonlight_python", "client")):
            if (await run_python("-c", f"import {package}")).returncode:
                raise CommandFailed(
                    f"the package {package} is missing: install 'moonhost[{extra}]', "
                    "or use `make demo`, which does."
                )

    async def _start_edge(self) -> ProxyConfig:
        self.say("Starting an edge ...")
        try:
            path = write_edge_config(self._folder, self._options.listen)
        except NoRoom as error:
            raise CommandFailed(str(error)) from error
        config = load_toml(path, ProxyConfig, "MOONHOST_DEMO")
        await self._processes.start("edge", "proxy", "--config", str(path))

        async def answers() -> bool:
            try:
                async with AdminClient.of(config) as edge:
                    await edge.get("/api/v1/backends")
            except AdminError:
                return False
            return True

        await self._wait_for(answers, "the edge did not start in time", "edge")
        return config

    async def _start_host(self, config: ProxyConfig, address: str, place: Place, shift: int) -> int:
        """Start a host and its agent on free ports from `shift` on; return their shift."""
        region = place.region
        self.say(f"Starting a host in {region}, behind its agent ...")
        try:
            shift = find_shift(address, _host_tcp, _host_udp, start=shift)
        except NoRoom as error:
            raise CommandFailed(str(error)) from error
        ports = {name: port + shift for name, port in _host_ports.items()}
        socket_path = self._folder / f"{region}.sock"
        await self._processes.start(
            f"host-{region}",
            *("simulate-host", "--name", region, "--region", region, "--address", address),
            *("--api-socket", str(socket_path), "--max-sessions", str(_sessions_per_host)),
            *(part for name, port in ports.items() for part in (f"--{name}", str(port))),
        )
        last_audio_port = ports["audio-port"] + _sessions_per_host - 1
        host = SampleHost(
            name=region,
            region=region,
            address=address,
            http_port=ports["http-port"],
            https_port=ports["https-port"],
            rtsp_port=ports["rtsp-port"],
            udp_ports=f"{ports['control-port']},{ports['video-port']}-{last_audio_port}",
            wolf_socket=socket_path,
            max_sessions=_sessions_per_host,
            latitude=place.latitude,
            longitude=place.longitude,
        )
        path = write_agent_config(self._folder, config, host, await self._make_token(region))
        late = f"the host in {region} did not start in time"
        await self._wait_for(trio.Path(socket_path).exists, late, f"host-{region}")
        await self._processes.start(f"agent-{region}", "agent", "--config", str(path))
        return shift

    async def _make_token(self, name: str) -> str:
        config = str(self._folder / "edge.toml")
        done = await run_python("-m", "moonhost", "token", "agent", name, "--config", config)
        if done.returncode:
            raise CommandFailed(f"no token could be made: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode().strip()

    async def _wait_for_backends(self, config: ProxyConfig) -> None:
        async with AdminClient.of(config) as edge:

            async def all_healthy() -> bool:
                backends = await edge.get("/api/v1/backends")
                return len([known for known in backends if known["healthy"]]) == len(_places)

            agents = [f"agent-{place.region}" for place in _places]
            await self._wait_for(all_healthy, "not all agents dialled home in time", *agents)

    async def _play(self, config: ProxyConfig, result: CheckResult) -> None:
        """Let the real client pair, list, launch and play."""
        self.say("A real Moonlight client pairs ...")
        pin = f"{secrets.randbelow(10_000):04}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._confirm_pin, config, pin)
            result.paired = bool((await self._client(config, "pair", "--pin", pin))["paired"])
        result.apps = tuple(app["title"] for app in await self._client(config, "apps"))
        self.say(f"It is paired and sees {', '.join(result.apps)}.")
        self.say(
            f"It launches {app_title!r} at {self._options.mode}, "
            f"{self._options.bitrate_kbps / 1000:g} Mbit/s, for {play_s:g} s ..."
        )
        played = await self._client(
            config,
            *("stream", "--app", app_title, "--seconds", str(play_s)),
            *("--mode", self._options.mode, "--bitrate", str(self._options.bitrate_kbps)),
        )
        for name in ("first_frame_ms", "frames_expected", "frames_decoded", "audio_packets"):
            setattr(result, name, played[name])
        async with AdminClient.of(config) as edge:
            (session,) = await edge.get("/api/v1/sessions")
        result.backend, result.region = session["backend"], session["region"]
        result.video_packets_lost = _lost(session["flows"]["video"], played)
        await self._client(config, "cancel")

    async def _confirm_pin(self, config: ProxyConfig, pin: str) -> None:
        async with AdminClient.of(config) as edge:

            async def pending() -> Any:
                return await edge.get("/api/v1/pairings")

            (attempt,) = await self._wait_for(pending, "the client did not ask to pair", "edge")
            await edge.post(f"/api/v1/pairings/{attempt['id']}", {"pin": pin})

    async def _client(self, config: ProxyConfig, *action: str) -> Any:
        """Run the real client and return its result."""
        listen = self._options.listen
        address = "127.0.0.1" if listen == "0.0.0.0" else listen  # noqa: S104
        with trio.move_on_after(client_timeout_s) as deadline:
            done = await run_python(
                *("-m", "moonhost.real_client", "--address", address),
                *("--http-port", str(config.listen.http_port)),
                *("--state", str(self._folder / "client"), *action),
            )
        if deadline.cancelled_caught:
            raise self._failed(f"the client's {action[0]} did not end", "edge")
        lines = done.stdout.decode(errors="replace").splitlines()
        answer = json.loads(lines[-1]) if lines else {"error": done.stderr.decode()[-500:]}
        if "result" not in answer:
            raise self._failed(f"the client could not {action[0]}: {answer.get('error')}", "edge")
        return answer["result"]

    def tell(self, result: CheckResult) -> bool:
        """Show what the client decoded."""
        if self._options.as_json:
            print(json.dumps(asdict(result)), flush=True)
        self.say(
            f"It played on {result.backend} in {result.region}: first picture after "
            f"{result.first_frame_ms} ms, {result.frames_decoded} of {result.frames_expected} "
            f"pictures in {result.seconds:g} s, {result.audio_packets} packets of sound, "
            f"{result.video_packets_lost} packets of video lost."
        )
        if not result.passed:
            self.say("That is not as it should be.")
        return True

    async def stay_up(self) -> None:
        """Wait until cancelled, while one's own Moonlight may be used."""
        listen, port = self._options.listen, self._http_port
        where = listen if port == standard_http_port else f"{listen}:{port}"
        self.say(
            f"\nThe demo stays up. Point your own Moonlight at {where}; it shows a PIN. Then:\n"
            f"  {own_command()} pair PIN --config {self._folder / 'edge.toml'}\n"
            f"Logs are in {self._folder}. Ctrl-C stops everything."
        )
        await trio.sleep_forever()

    async def _wait_for(self, check: Callable[[], Awaitable[Any]], failure: str, *logs: str) -> Any:
        """Ask until the answer is true, and return it; fail with the ends of these logs."""
        with trio.move_on_after(start_timeout_s):
            while not (found := await check()):  # noqa: ASYNC110 - other processes: only asking tells
                await trio.sleep(poll_s)
            return found
        raise self._failed(failure, *logs)

    def _failed(self, failure: str, *logs: str) -> CommandFailed:
        return CommandFailed("\n".join([f"{failure}.", *map(self._processes.tail, logs)]))


def own_command() -> str:
    """Return what somebody has to type to run this very installation's command."""
    beside = Path(sys.executable).parent / "moonhost"
    if not beside.exists():
        return f"{sys.executable} -m moonhost"
    on_path = shutil.which("moonhost")
    return "moonhost" if on_path and Path(on_path).samefile(beside) else str(beside)


def _lost(video: dict[str, Any], played: dict[str, Any]) -> int:
    """Count the video packets that were lost anywhere between the host and the decoder.

    Before the edge the gaps in their numbers tell; then what the edge could not send, and what
    the kernel dropped at the client's socket.
    """
    dropped = sum(
        count for reason, count in video["dropped"].items() if reason not in _before_the_picture
    )
    return int(video["rtp_missing"] + dropped + played["socket_drops"])
