"""The demo: an edge, three simulated hosts behind agents, and a real client, on one machine.

Everything runs as it would for real: each is a process of its own, started by the commands that
an operator uses, with configuration files written for the occasion.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import trio

from moonhost.admin_client import AdminClient, AdminError
from moonhost.errors import CommandFailed
from moonhost.ports import NoRoom, find_shift
from proxy.config import ProxyConfig
from settings import load_toml

app_title: Final = "Test ball"
play_s: Final = 5.0
start_timeout_s: Final = 60.0
client_timeout_s: Final = 90.0
stop_timeout_s: Final = 10.0
poll_s: Final = 0.1
wanted_frames_share: Final = 0.95
log_tail_lines: Final = 12

_edge_tcp: Final = (47980, 47981, 47984, 47989, *range(48010, 48018))
_edge_udp: Final = (47998, 47999, 48000)
_host_tcp: Final = (47984, 47989, 48010)
_host_udp: Final = (47999, *range(48100, 48104), *range(48200, 48204))
# Hosts begin here, so that the edge may listen on all addresses with the standard ports.
_hosts_start: Final = 4_000


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


class DemoFailed(CommandFailed):
    """The demo could not go on; ``str()`` says where and shows the end of the log in question."""


@dataclass(slots=True)
class CheckResult:
    """What ``--check --json`` prints."""

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
    """Run the demo; return whether the client played as it should.

    Raises:
        DemoFailed: something did not start or did not answer.

    """
    with tempfile.TemporaryDirectory(prefix="moonhost-demo-") as folder:
        demo = Demo(Path(folder), options)
        async with trio.open_nursery() as nursery:
            try:
                async with demo.deployment(nursery) as config:
                    result = await demo.play(config)
                    demo.conclude(result)
                    if not options.check:
                        await demo.stay_up(config)
            finally:
                nursery.cancel_scope.cancel()
    return result.passed


class Demo:
    """One run of the demo, with all its files in one folder."""

    def __init__(self, folder: Path, options: DemoOptions) -> None:
        self._folder = folder
        self._options = options

    def say(self, text: str) -> None:
        """Show progress; it does not mix with JSON on standard output."""
        print(text, file=sys.stderr if self._options.as_json else sys.stdout, flush=True)

    @asynccontextmanager
    async def deployment(self, nursery: trio.Nursery) -> AsyncIterator[ProxyConfig]:
        """Start the edge, the hosts and the agents; stop them in the end."""
        self._require_packages()
        config_path = self._write_edge_config()
        config = load_toml(config_path, ProxyConfig, "MOONHOST_DEMO")
        self.say("Starting an edge ...")
        await self._start(nursery, "edge", "proxy", "--config", str(config_path))
        await self._wait_until_ready(config)
        host_shift = _hosts_start
        for number, place in enumerate(_places, 1):
            self.say(f"Starting a host in {place.region}, behind its agent ...")
            host_shift = await self._start_host(nursery, config, number, place, host_shift)
        await self._wait_for_backends(config)
        self.say(f"All {len(_places)} agents have dialled home.")
        yield config

    async def _start_host(
        self, nursery: trio.Nursery, config: ProxyConfig, number: int, place: Place, start: int
    ) -> int:
        address = f"127.0.0.{10 + number}"
        shift = _shift(address, _host_tcp, _host_udp, start=start)
        socket_path = self._folder / f"host{number}.sock"
        ports = {name: port + shift for name, port in _host_ports.items()}
        await self._start(
            nursery,
            f"host-{place.region}",
            *("simulate-host", "--name", place.region, "--region", place.region),
            *("--address", address, "--api-socket", str(socket_path)),
            *(part for name, port in ports.items() for part in (f"--{name}", str(port))),
        )
        token = await self._make_token(place.region)
        path = self._write_agent_config(config, address, place, ports, socket_path, token)
        await self._wait_for_file(socket_path, f"host-{place.region}")
        await self._start(nursery, f"agent-{place.region}", "agent", "--config", str(path))
        return shift

    async def play(self, config: ProxyConfig) -> CheckResult:
        """Let the real client pair, list, launch and play."""
        result = CheckResult()
        pin = f"{secrets.randbelow(10_000):04}"
        self.say("A real Moonlight client pairs ...")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._confirm_pin, config, pin)
            answer = await self._client(config, "pair", "--pin", pin)
        result.paired = bool(answer["paired"])
        apps = await self._client(config, "apps")
        result.apps = tuple(app["title"] for app in apps)
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
            session = (await edge.get("/api/v1/sessions"))[0]
        result.backend, result.region = session["backend"], session["region"]
        result.video_packets_lost = _lost(session["flows"]["video"], played)
        await self._client(config, "cancel")
        return result

    def conclude(self, result: CheckResult) -> None:
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

    async def stay_up(self, config: ProxyConfig) -> None:
        """Wait for Ctrl-C while one's own Moonlight may be used."""
        address, port = self._options.listen, config.listen.http_port
        where = address if port == 47989 else f"{address}:{port}"
        self.say(
            f"\nThe demo stays up. Point your own Moonlight at {where} and pair it:\n"
            f"  {Path(sys.argv[0]).name} pair PIN --config {self._folder / 'edge.toml'}\n"
            f"Logs are in {self._folder}. Ctrl-C stops everything."
        )
        await trio.sleep_forever()

    def _require_packages(self) -> None:
        for package, extra in (("av", "simulator"), ("moonlight_python", "client")):
            probe = [sys.executable, "-c", f"import {package}"]
            if subprocess.run(probe, capture_output=True, check=False).returncode:  # noqa: S603
                raise DemoFailed(
                    f"the package {package} is missing: install 'moonhost[{extra}]', "
                    "or use `make demo`, which does."
                )

    def _write_edge_config(self) -> Path:
        shift = _shift(self._options.listen, _edge_tcp, _edge_udp)
        rtsp = [port + shift for port in _edge_tcp if port >= 48010]
        path = self._folder / "edge.toml"
        path.write_text(
            f"""
name = "moonhost demo"
hostname = "127.0.0.1"
state_dir = {json.dumps(str(self._folder / "edge"))}

[listen]
addresses = [{json.dumps(self._options.listen)}]
http_port = {47989 + shift}
https_port = {47984 + shift}
rtsp_ports = "{rtsp[0]}-{rtsp[-1]}"
video_port = {47998 + shift}
control_port = {47999 + shift}
audio_port = {48000 + shift}

[agents]
address = "127.0.0.1"
port = {47981 + shift}

[admin]
port = {47980 + shift}
"""
        )
        return path

    def _write_agent_config(
        self,
        config: ProxyConfig,
        address: str,
        place: Place,
        ports: dict[str, int],
        socket_path: Path,
        token: str,
    ) -> Path:
        token_path = self._folder / f"{place.region}.token"
        token_path.touch(mode=0o600)
        token_path.write_text(token)
        path = self._folder / f"agent-{place.region}.toml"
        udp = f"{ports['control-port']},{ports['video-port']}-{ports['audio-port'] + 3}"
        path.write_text(
            f"""
[edge]
url = "wss://127.0.0.1:{config.agents.port}"
token_file = {json.dumps(str(token_path))}
ca_file = {json.dumps(str(config.state_dir / "agents.pem"))}

[agent]
id = "{place.region}"
region = "{place.region}"
latitude = {place.latitude}
longitude = {place.longitude}

[[hosts]]
name = "host"
kind = "wolf"
address = "{address}"
http_port = {ports["http-port"]}
https_port = {ports["https-port"]}
rtsp_port = {ports["rtsp-port"]}
udp_ports = "{udp}"
wolf_socket = {json.dumps(str(socket_path))}
"""
        )
        return path

    async def _start(self, nursery: trio.Nursery, name: str, *arguments: str) -> None:
        log = self._log(name).open("wb")
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "moonhost", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for the demo, which stops the others itself.
            start_new_session=True,
        )
        log.close()
        nursery.start_soon(self._watch, name, process)

    async def _watch(self, name: str, process: trio.Process) -> None:
        """Fail the demo if a process ends by itself; end the process if the demo does."""
        try:
            await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
        raise DemoFailed(f"{name} has stopped by itself. {self._tail(name)}")

    async def _make_token(self, name: str) -> str:
        done = await trio.run_process(
            [
                *(sys.executable, "-m", "moonhost", "token", "agent", name),
                *("--config", str(self._folder / "edge.toml")),
            ],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        if done.returncode:
            raise DemoFailed(f"no token could be made: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode().strip()

    async def _wait_until_ready(self, config: ProxyConfig) -> None:
        async def answers() -> bool:
            try:
                async with AdminClient.of(config) as edge:
                    await edge.get("/api/v1/backends")
            except AdminError:
                return False
            return True

        await self._wait_for(answers, "the edge did not start in time", "edge")

    async def _wait_for_backends(self, config: ProxyConfig) -> None:
        async with AdminClient.of(config) as edge:

            async def all_healthy() -> bool:
                backends = await edge.get("/api/v1/backends")
                healthy = [backend for backend in backends if backend["healthy"]]
                return len(healthy) == len(_places)

            agents = [f"agent-{place.region}" for place in _places]
            await self._wait_for(all_healthy, "not all agents dialled home in time", *agents)

    async def _wait_for_file(self, path: Path, name: str) -> None:
        await self._wait_for(trio.Path(path).exists, f"{name} did not start in time", name)

    async def _confirm_pin(self, config: ProxyConfig, pin: str) -> None:
        async with AdminClient.of(config) as edge:

            async def pending() -> Any:
                return await edge.get("/api/v1/pairings")

            attempt = (await self._wait_for(pending, "the client did not ask", "edge"))[0]
            await edge.post(f"/api/v1/pairings/{attempt['id']}", {"pin": pin})

    async def _wait_for(self, check: Callable[[], Awaitable[Any]], failure: str, *logs: str) -> Any:
        """Ask until the answer is true, and return it; fail with the ends of these logs."""
        with trio.move_on_after(start_timeout_s):
            while not (found := await check()):  # noqa: ASYNC110 - other processes: only asking tells
                await trio.sleep(poll_s)
            return found
        raise DemoFailed("\n".join([failure, *map(self._tail, logs)]))

    async def _client(self, config: ProxyConfig, *action: str) -> Any:
        """Run the real client and return its result."""
        listen = self._options.listen
        address = "127.0.0.1" if listen == "0.0.0.0" else listen  # noqa: S104
        with trio.move_on_after(client_timeout_s) as deadline:
            done = await trio.run_process(
                [
                    *(sys.executable, "-m", "moonhost.real_client", "--address", address),
                    *("--http-port", str(config.listen.http_port)),
                    *("--state", str(self._folder / "client"), *action),
                ],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        if deadline.cancelled_caught:
            raise DemoFailed(f"the client's {action[0]} did not end. {self._tail('edge')}")
        lines = done.stdout.decode(errors="replace").splitlines()
        answer = json.loads(lines[-1]) if lines else {"error": done.stderr.decode()[-500:]}
        if "result" not in answer:
            raise DemoFailed(
                f"the client could not {action[0]}: {answer.get('error')}. {self._tail('edge')}"
            )
        return answer["result"]

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _tail(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()[-log_tail_lines:]
        return "\n".join([f"Its log ends ({name}):", *lines])


_host_ports: Final = {
    "http-port": 47989,
    "https-port": 47984,
    "rtsp-port": 48010,
    "video-port": 48100,
    "audio-port": 48200,
    "control-port": 47999,
}


def _shift(address: str, tcp: tuple[int, ...], udp: tuple[int, ...], *, start: int = 0) -> int:
    try:
        return find_shift(address, tcp, udp, start=start)
    except NoRoom as error:
        raise DemoFailed(str(error)) from error


def _lost(video: dict[str, Any], played: dict[str, Any]) -> int:
    """Count the video packets that were lost anywhere between the host and the decoder.

    Before the edge the gaps in their numbers tell; then what the edge could not send, and what
    the kernel dropped at the client's socket.
    """
    dropped = sum(
        count for reason, count in video["dropped"].items() if reason not in _before_the_picture
    )
    return int(video["rtp_missing"] + dropped + played["socket_drops"])


# What a host sends before the client has shown where it wants it was never on its way.
_before_the_picture: Final = {"client_not_bound", "client_refused"}


async def _end(process: trio.Process) -> None:
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(stop_timeout_s):
            await process.wait()
    if process.poll() is None:
        process.kill()
        await process.wait()
