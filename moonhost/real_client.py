"""A real Moonlight client, run by the demo and the tests as a process of its own.

``python -m moonhost.real_client`` drives moonlight-python, which carries Moonlight's own C
library. That package is GPL and one stream is all a process can hold, so nothing imports this
module: it is started, told what to do by its arguments, and answers with one JSON object a line:
``{"event": …}`` for progress, and last ``{"result": …}`` or ``{"error": …, "status": …}``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

first_picture_timeout_s: Final = 15.0
idr_interval_s: Final = 0.5
pair_timeout_s: Final = 120
poll_interval_s: Final = 0.05


def tell(**values: Any) -> None:
    """Write one line of the answer at once."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


@dataclass
class Counts:
    """What arrived of a stream; written by its threads, each field by one of them."""

    first_picture_at: float | None = None
    frame_numbers: list[int] = field(default_factory=list)
    frame_times: list[float] = field(default_factory=list)
    mean_luma: float = 0.0
    size: tuple[int, int] = (0, 0)
    audio_packets: int = 0
    audio_samples: int = 0


class Client:
    """One Moonlight installation: an identity in a folder, pointed at one address."""

    def __init__(self, state: Path, address: str, http_port: int) -> None:
        from moonlight_python.http_client import NvHTTP
        from moonlight_python.identity import Identity

        self.identity = Identity(state)
        self._pinned = state / "server.pem"
        pinned = self._pinned.read_bytes() if self._pinned.exists() else b""
        self.address = address
        # It goes into URLs as it is.
        host = f"[{address}]" if ":" in address else address
        self.http = NvHTTP(host, self.identity, http_port, server_cert_pem=pinned)
        self.info = self.http.parse_server_info(self.http.get_server_info())
        self.http.https_port = self.info.https_port

    def serverinfo(self) -> dict[str, Any]:
        """Ask as Moonlight's host list does: HTTPS first, plain HTTP on 401."""
        info = self.http.parse_server_info(self.http.get_server_info(use_https=True))
        return {
            "hostname": info.hostname,
            "paired": info.paired,
            "current_game": info.current_game,
            "unique_id": info.unique_id,
        }

    def pair(self, pin: str) -> None:
        """Pair, while somebody confirms the PIN on the other side."""
        from moonlight_python.pairing import pair

        tell(event="pairing", pin=pin)
        certificate = pair(self.http, self.identity, pin, self.info, timeout=pair_timeout_s)
        self._pinned.write_bytes(certificate)

    def apps(self) -> list[dict[str, Any]]:
        """Read the list of apps."""
        return [{"id": app.id, "title": app.name} for app in self.http.get_app_list()]

    def cancel(self) -> None:
        """End the running app."""
        self.http.quit_app()


def stream(client: Client, options: argparse.Namespace) -> dict[str, Any]:
    """Launch or resume, play for a while, and count what was decoded."""
    from moonlight_python.config import StreamConfig
    from moonlight_python.decoder import Decoder
    from moonlight_python.stream import StreamingSession

    width, height, fps = (int(part) for part in options.mode.split("x"))
    config = StreamConfig(width=width, height=height, fps=fps, bitrate_kbps=options.bitrate)
    key, key_id = os.urandom(16), os.urandom(4) + bytes(12)
    session = StreamingSession()
    asked_at = time.monotonic()
    url = _session_url(client, options, config, session, key, key_id)
    tell(event="launched", url_port=int(url.rsplit(":", 1)[1]))
    session.start(
        client.address,
        client.info.app_version,
        client.info.gfe_version,
        client.info.server_codec_mode_support,
        url,
        config,
        key,
        key_id,
        capture_audio=True,
    )
    counts = Counts()
    threads = [
        threading.Thread(target=_count_pictures, args=(session, Decoder("h264"), counts)),
        threading.Thread(target=_count_audio, args=(session, counts)),
    ]
    for thread in threads:
        thread.start()
    try:
        first = _wait_for_picture(session, counts)
        tell(event="picture", first_frame_ms=round((first - asked_at) * 1000), size=counts.size)
        _wait(lambda: session.is_terminated, options.seconds)
        drops = _kernel_drops()
        terminated = session.is_terminated
    finally:
        session._connection_terminated.set()  # noqa: SLF001 - ends the frame loop, as stop() does not
        session.wake()
        session.wake_audio()
        for thread in threads:
            thread.join(5)
        if options.leave != "silently":
            session.stop()
    if options.leave == "silently":
        tell(event="left")
    return _report(counts, fps, options.seconds, first, asked_at, drops, terminated)


def _session_url(
    client: Client, options: argparse.Namespace, config: Any, session: Any, key: bytes, iv: bytes
) -> str:
    extra = session.get_launch_query_params()
    if options.resume:
        url = client.http.resume_app(key, iv, config.surroundaudioinfo, extra)
    else:
        apps = {app["title"]: app["id"] for app in client.apps()}
        app_id = options.app_id or apps[options.app]
        url = client.http.launch_app(
            app_id,
            config.width,
            config.height,
            config.fps,
            config.bitrate_kbps,
            config.supported_video_formats,
            key,
            iv,
            config.surroundaudioinfo,
            launch_query_params=extra,
        )
    if not url:
        raise RuntimeError("the answer has no sessionUrl0")
    return str(url)


def _count_pictures(session: Any, decoder: Any, counts: Counts) -> None:
    while session.is_connected:
        raw = session.pull_frame()
        if raw is None:
            continue
        for picture in decoder.decode(raw.annex_b_data):
            now = time.monotonic()
            if counts.first_picture_at is None:
                counts.mean_luma = float(picture.mean())
                counts.size = (picture.shape[1], picture.shape[0])
                counts.first_picture_at = now
            counts.frame_numbers.append(raw.frame_number)
            counts.frame_times.append(now)


def _count_audio(session: Any, counts: Counts) -> None:
    from moonlight_python.audio_decoder import AudioDecoder

    opus = session.wait_for_opus_config(5.0)
    decoder = AudioDecoder(channels=opus.channel_count)
    while session.is_connected:
        packet = session.pull_audio_packet(0.5)
        if packet is not None:
            counts.audio_packets += 1
            counts.audio_samples += sum(len(pcm) for pcm in decoder.decode(packet.opus_data))


def _wait_for_picture(session: Any, counts: Counts) -> float:
    deadline = time.monotonic() + first_picture_timeout_s
    next_request = time.monotonic() + idr_interval_s
    while counts.first_picture_at is None:
        if session.is_terminated:
            raise RuntimeError(f"the host ended the stream (error {session.termination_error})")
        if time.monotonic() > deadline:
            raise RuntimeError(f"no picture within {first_picture_timeout_s:g} s")
        if time.monotonic() > next_request:
            session.request_idr()
            next_request += idr_interval_s
        time.sleep(poll_interval_s / 5)
    return counts.first_picture_at


def _wait(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(min(poll_interval_s, max(0.0, deadline - time.monotonic())))


def _kernel_drops() -> int:
    """Return how many datagrams the kernel dropped at this process's UDP sockets."""
    links = {_link(entry) for entry in Path("/proc/self/fd").iterdir()}
    drops = 0
    for table in ("/proc/self/net/udp", "/proc/self/net/udp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if f"socket:[{columns[9]}]" in links:
                drops += int(columns[12])
    return drops


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""


def _report(
    counts: Counts,
    fps: int,
    seconds: float,
    first: float,
    asked_at: float,
    drops: int,
    terminated: bool,
) -> dict[str, Any]:
    until = first + seconds
    within = [
        number
        for number, when in zip(counts.frame_numbers, counts.frame_times, strict=True)
        if first < when <= until
    ]
    span = within[-1] - within[0] + 1 if within else 0
    return {
        "first_frame_ms": round((first - asked_at) * 1000),
        "seconds": seconds,
        "frames_expected": round(fps * seconds),
        "frames_decoded": len(within),
        "frames_missing": span - len(set(within)),
        "audio_packets": counts.audio_packets,
        "audio_samples": counts.audio_samples,
        "socket_drops": drops,
        "mean_luma": round(counts.mean_luma, 1),
        "size": list(counts.size),
        "terminated": terminated,
    }


@contextmanager
def _errors_told() -> Iterator[None]:
    """Turn whatever moonlight-python raises into the last line of the answer."""
    import requests
    from moonlight_python.exceptions import HttpResponseError, MoonlightError

    try:
        yield
    except HttpResponseError as error:
        tell(error=error.status_message, status=error.status_code)
    except requests.HTTPError as error:
        response = error.response
        tell(
            error="" if response is None else response.text,
            status=getattr(response, "status_code", None),
        )
    except (MoonlightError, requests.RequestException, RuntimeError, KeyError) as error:
        tell(error=f"{type(error).__name__}: {error}", status=None)
    else:
        return
    sys.stdout.flush()
    os._exit(1)


def main() -> None:
    """Do one thing, as the arguments say, and tell about it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--http-port", type=int, default=47989)
    parser.add_argument("--state", type=Path, required=True, help="folder of this client")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("serverinfo")
    actions.add_parser("pair").add_argument("--pin", required=True)
    actions.add_parser("apps")
    actions.add_parser("cancel")
    play = actions.add_parser("stream")
    play.add_argument("--app", default="Desktop")
    play.add_argument("--app-id", type=int)
    play.add_argument("--resume", action="store_true")
    play.add_argument("--mode", default="1280x720x30")
    play.add_argument("--bitrate", type=int, default=10_000, help="kbit/s")
    play.add_argument("--seconds", type=float, default=5.0)
    play.add_argument("--leave", choices=("properly", "silently"), default="properly")
    options = parser.parse_args()
    with _errors_told():
        client = Client(options.state, options.address, options.http_port)
        tell(result=_act(client, options))
    sys.stdout.flush()
    os._exit(0)  # the C library's threads do not always end


def _act(client: Client, options: argparse.Namespace) -> Any:
    if options.action == "serverinfo":
        return client.serverinfo()
    if options.action == "pair":
        client.pair(options.pin)
        return client.serverinfo()
    if options.action == "apps":
        return client.apps()
    if options.action == "cancel":
        client.cancel()
        return client.serverinfo()
    return stream(client, options)


if __name__ == "__main__":
    main()
