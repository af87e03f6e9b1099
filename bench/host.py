"""The host's side of a measurement: a process of its own that sends frames to whoever pings it.

``python -m bench.host`` reads a `HostPlan` as JSON from standard input, says ``ready`` once every
flow knows where to send, begins at the line ``go``, and ends with one line of JSON. It sends a
frame with one call (segmentation offload, as Sunshine does) or a datagram a call, and answers
whatever it gets on a control flow at once.
"""

from __future__ import annotations

import heapq
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.traffic import FrameShape, FrameWriter, audio_datagram
from moonlight.ping import parse_ping

ping_timeout_s: Final = 30.0
audio_period_ns: Final = 5_000_000
audio_block: Final = 4
max_segments: Final = 60
max_send_bytes: Final = 65_000
max_late_ns: Final = 100_000_000
"""A frame that is later than this is not sent: a slow generator must not make bursts."""
_socket_bytes: Final = 4 << 20
_UDP_SEGMENT: Final = 103


@dataclass(frozen=True, slots=True)
class HostSession:
    """Where one session's flows are on the host; a port of 0 leaves that flow out."""

    address: str
    video_port: int
    audio_port: int = 0
    control_port: int = 0
    to: tuple[str, int] | None = None
    """Where video goes without waiting for a ping."""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What to send."""

    sessions: tuple[HostSession, ...]
    mbps: float
    fps: int
    datagram_bytes: int
    seconds: float
    offload: bool = True

    def to_json(self) -> str:
        """Write it for the process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> HostPlan:
        """Read it."""
        plan = json.loads(text)
        plan["sessions"] = tuple(
            HostSession(**{**one, "to": tuple(one["to"]) if one["to"] else None})
            for one in plan["sessions"]
        )
        return cls(**plan)


class _Flow:
    def __init__(self, address: str, port: int, to: tuple[str, int] | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _socket_bytes)
        self.socket.bind((address, port))
        self.to = to
        if to is not None:
            self.socket.connect(to)

    def take_pings(self) -> None:
        """Read what the client sent; the first ping says where to send."""
        while True:
            try:
                datagram, sender = self.socket.recvfrom(2048)
            except (BlockingIOError, ConnectionRefusedError):
                return
            if self.to is None and parse_ping(datagram) is not None:
                self.to = sender
                self.socket.connect(sender)


class _Sender:
    """One run of a plan."""

    def __init__(self, plan: HostPlan) -> None:
        self._plan = plan
        self._shape = FrameShape.of_rate(plan.mbps, plan.fps, plan.datagram_bytes)
        self._video = [_Flow(one.address, one.video_port, one.to) for one in plan.sessions]
        self._audio = [
            _Flow(one.address, one.audio_port) for one in plan.sessions if one.audio_port
        ]
        self._control = [
            _Flow(one.address, one.control_port) for one in plan.sessions if one.control_port
        ]
        self._writers = [FrameWriter(self._shape) for _ in self._video]
        self._audio_numbers = [[0, 0] for _ in self._audio]
        segments = min(max_segments, max_send_bytes // plan.datagram_bytes)
        self._step = segments * plan.datagram_bytes
        self._segment = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", plan.datagram_bytes))]
        self.counts = {
            "frames": 0,
            "frames_skipped": 0,
            "datagrams": 0,
            "audio_datagrams": 0,
            "not_sent": 0,
            "echoes": 0,
        }

    def wait_for_clients(self) -> None:
        """Wait until all flows have been pinged."""
        deadline = time.monotonic() + ping_timeout_s
        unknown = [flow for flow in (*self._video, *self._audio) if flow.to is None]
        while unknown:
            if time.monotonic() > deadline:
                raise SystemExit(f"{len(unknown)} flows were never pinged")
            ready, _, _ = select.select([flow.socket for flow in unknown], [], [], 0.2)
            for flow in unknown:
                if flow.socket in ready:
                    flow.take_pings()
            unknown = [flow for flow in unknown if flow.to is None]

    def run(self) -> None:
        """Send for as long as the plan says."""
        start = time.monotonic_ns()
        end = start + int(self._plan.seconds * 1e9)
        period = int(1e9 / self._plan.fps)
        # Spread over the period, as hosts are that know nothing of each other.
        due = [(start + at, 0, index) for index, at in _spread(period, len(self._video))]
        due += [(start + at, 1, index) for index, at in _spread(audio_period_ns, len(self._audio))]
        heapq.heapify(due)
        next_pings = start
        while due[0][0] < end:
            at, kind, index = due[0]
            self._wait_until(at)
            if kind == 0:
                self._send_frame(index, at)
                heapq.heapreplace(due, (at + period, 0, index))
            else:
                self._send_audio(index)
                heapq.heapreplace(due, (at + audio_period_ns, 1, index))
            if at > next_pings:
                next_pings = at + 500_000_000
                for flow in (*self._video, *self._audio):
                    flow.take_pings()
        # Answer control a little longer: what was asked at the end deserves its answer.
        self._wait_until(end + 500_000_000)

    def _wait_until(self, due_ns: int) -> None:
        while True:
            left = (due_ns - time.monotonic_ns()) / 1e9
            if left <= 0:
                return
            if not self._control:
                time.sleep(left)
                continue
            ready, _, _ = select.select([flow.socket for flow in self._control], [], [], left)
            for answered in ready:
                self._echo(answered)

    def _echo(self, control: socket.socket) -> None:
        try:
            while True:
                datagram, sender = control.recvfrom(2048)
                control.sendto(datagram, sender)
                self.counts["echoes"] += 1
        except (BlockingIOError, ConnectionRefusedError):
            return

    def _send_frame(self, index: int, due_ns: int) -> None:
        now = time.monotonic_ns()
        if now - due_ns > max_late_ns:
            self.counts["frames_skipped"] += 1
            return
        frame = self._writers[index].next(now)
        sock = self._video[index].socket
        size = self._plan.datagram_bytes
        self.counts["frames"] += 1
        self.counts["datagrams"] += self._shape.datagrams
        step = self._step if self._plan.offload else size
        for at in range(0, len(frame), step):
            piece = frame[at : at + step]
            try:
                if self._plan.offload and len(piece) > size:
                    sock.sendmsg([piece], self._segment)
                else:
                    sock.send(piece)
            except OSError:
                self.counts["not_sent"] += len(piece) // size

    def _send_audio(self, index: int) -> None:
        numbers = self._audio_numbers[index]
        now = time.monotonic_ns()
        datagrams = [audio_datagram(numbers[0], now, parity=False)]
        numbers[0] += 1
        if numbers[0] % audio_block == 0:
            for _ in range(2):
                datagrams.append(audio_datagram(numbers[1], now, parity=True))
                numbers[1] += 1
        for datagram in datagrams:
            self.counts["audio_datagrams"] += 1
            try:
                self._audio[index].socket.send(datagram)
            except OSError:
                self.counts["not_sent"] += 1


def _spread(period_ns: int, count: int) -> Iterator[tuple[int, int]]:
    return ((index, period_ns * index // count) for index in range(count))


def main() -> None:
    """Run as `bench.player` and the benchmarks expect."""
    sender = _Sender(HostPlan.from_json(sys.stdin.readline()))
    sender.wait_for_clients()
    print("ready", flush=True)
    sys.stdin.readline()
    sender.run()
    result: dict[str, Any] = dict(sender.counts)
    result["cpu_s"] = time.process_time()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
