"""The demo: an edge, three simulated hosts behind agents, and a real client, on one machine.

Everything runs as it would for real, each in a process of its own.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import trio

from moonhost.admin_client import AdminClient
from moonhost.local_deployment import LocalDeployment, LocalHost
from moonhost.processes import Processes, cancel_on_signal, run_python
from proxy.config import ProxyConfig

app_title: Final = "Test ball"
play_s: Final = 5.0
client_timeout_s: Final = 90.0
wanted_frames_share: Final = 0.95
standard_http_port: Final = 47989

_sessions_per_host: Final = 4
# What a host sends before the client has shown where it wants it was never on its way.
_before_the_picture: Final = {"client_not_bound", "client_refused"}

_hosts: Final = tuple(
    LocalHost(
        region=region,
        address=f"127.0.0.{number}",
        max_sessions=_sessions_per_host,
        latitude=latitude,
        longitude=longitude,
    )
    for number, (region, latitude, longitude) in enumerate(
        (
            ("frankfurt", 50.11, 8.68),
            ("new-york", 40.71, -74.01),
            ("tokyo", 35.68, 139.69),
        ),
        11,
    )
)


def _geography() -> str:
    """Return the regions for the edge's configuration, each with a loopback network of its own."""
    regions = (
        f"[regions.{host.region}]\n"
        f"latitude = {host.latitude}\nlongitude = {host.longitude}\n"
        f'networks = ["127.{number}.0.0/16"]\n'
        for number, host in enumerate(_hosts, 11)
    )
    return f'[geography]\nedge_region = "{_hosts[0].region}"\n' + "".join(regions)


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
                nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
                demo = Demo(Path(folder), options, Processes(Path(folder), nursery))
                config = await demo.run(result)
                told = demo.tell(result)
                if not options.check:
                    await demo.stay_up(config)
                nursery.cancel_scope.cancel()
    finally:
        if options.as_json and not told:
            print(json.dumps(asdict(result)), flush=True)
    return result.passed


class Demo:
    """One run of the demo, with all its files in one folder."""

    def __init__(self, folder: Path, options: DemoOptions, processes: Processes) -> None:
        self._folder = folder
        self._options = options
        self._deployment = LocalDeployment(folder, processes, self.say)

    def say(self, text: str) -> None:
        """Show progress; it does not mix with JSON on standard output."""
        print(text, file=sys.stderr if self._options.as_json else sys.stdout, flush=True)

    async def run(self, result: CheckResult) -> ProxyConfig:
        """Start everything and let the client play; `result` holds what was reached.

        Returns the edge's configuration.
        """
        for package, extra in (("av", "simulator"), ("moonlight_python", "client")):
            await self._deployment.require(package, extra)
        config = await self._deployment.start_edge(self._options.listen, _geography())
        for host in _hosts:
            await self._deployment.start_host(config, host)
        await self._deployment.wait_for_backends(config)
        self.say(f"All {len(_hosts)} agents have dialled home.")
        await self._play(config, result)
        return config

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
            (session,) = await edge.get_all("/api/v1/sessions")
        result.backend, result.region = session["backend"], session["region"]
        result.video_packets_lost = _lost(session["flows"]["video"], played)
        await self._client(config, "cancel")

    async def _confirm_pin(self, config: ProxyConfig, pin: str) -> None:
        async with AdminClient.of(config) as edge:

            async def pending() -> Any:
                return await edge.get_all("/api/v1/pairings")

            (attempt,) = await self._deployment.wait_for(
                pending, "the client did not ask to pair", "edge"
            )
            await edge.post(f"/api/v1/pairings/{attempt['id']}", {"pin": pin})

    async def _client(self, config: ProxyConfig, *action: str) -> Any:
        """Run the real client and return its result."""
        listen = self._options.listen
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen, listen)  # noqa: S104
        with trio.move_on_after(client_timeout_s) as deadline:
            done = await run_python(
                *("-m", "moonhost.real_client", "--address", address),
                *("--http-port", str(config.listen.http_port)),
                *("--state", str(self._folder / "client"), *action),
            )
        if deadline.cancelled_caught:
            raise self._deployment.failed(f"the client's {action[0]} did not end", "edge")
        lines = done.stdout.decode(errors="replace").splitlines()
        answer = json.loads(lines[-1]) if lines else {"error": done.stderr.decode()[-500:]}
        if "result" not in answer:
            raise self._deployment.failed(
                f"the client could not {action[0]}: {answer.get('error')}", "edge"
            )
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

    async def stay_up(self, edge: ProxyConfig) -> None:
        """Wait until cancelled, while one's own Moonlight and the console may be used."""
        listen, port = self._options.listen, edge.listen.http_port
        config = self._deployment.edge_config_path
        wish = {"kind": "api", "name": "demo", "scopes": ["admin"]}
        async with AdminClient.of(edge) as admin:
            token = (await admin.post("/api/v1/tokens", wish))["token"]
        host = f"[{listen}]" if ":" in listen else listen
        where = listen if port == standard_http_port else f"{host}:{port}"
        self.say(
            f"\nThe demo stays up. Point your own Moonlight at {where}; it shows a PIN. Then:\n"
            f"  {own_command()} pair PIN --config {config}\n"
            f"Or in the console, http://127.0.0.1:{edge.admin.port}/, with this token:\n"
            f"  {token}\n"
            "Players in 127.11.0.0/16, 127.12.0.0/16 and 127.13.0.0/16 have a region each. Where "
            f"one of them would play, and why, tells\n  {own_command()} backends explain "
            f"--client-ip 127.12.0.1 --app {app_title!r} --config {config}\n"
            f"Logs are in {self._folder}. Ctrl-C stops everything."
        )
        await trio.sleep_forever()


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
