"""The clients' side of a measurement: a process of its own that pings, receives and takes time.

``python -m bench.player`` reads a `PlayerPlan` as JSON from standard input, says ``ready`` once
every flow has been pinged, measures from the line ``go`` on, stops at the next line, and ends with
one line of JSON: see `PlayerResult`. Ages and latencies are those of whole datagrams at the
socket, from the time at which their frame was made.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.traffic import FrameShape, read
from moonlight.enet import (
    ACKNOWLEDGE_FLAG,
    NO_CHANNEL,
    NO_PEER,
    CommandKind,
    Connect,
    EnetCommand,
    EnetPacket,
)
from moonlight.ping import build_ping
from moonlight.video_encryption import ENCRYPTION_OVERHEAD_BYTES, VideoOpener

ping_interval_ns: Final = 500_000_000
control_interval_ns: Final = 20_000_000
control_bytes: Final = 64
_socket_bytes: Final = 4 << 20
_read_bytes: Final = 65_535
_UDP_GRO: Final = 104
_ECHO: Final = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class PlayerSession:
    """Where one session's flows go in at the edge, and what proves them."""

    address: str
    video: tuple[str, int] | None
    """None: nothing is pinged, and `local_port` takes what comes."""
    video_payload: str = field(default="", repr=False)
    audio: tuple[str, int] | None = None
    audio_payload: str = field(default="", repr=False)
    control: tuple[str, int] | None = None
    control_data: int = field(default=0, repr=False)
    local_port: int = 0
    video_key: str = field(default="", repr=False)
    """Hexadecimal; empty where video comes in the clear."""


@dataclass(frozen=True, slots=True)
class PlayerPlan:
    """What to receive."""

    sessions: tuple[PlayerSession, ...]
    mbps: float
    fps: int
    datagram_bytes: int
    offload: bool = False
    """Read runs of datagrams with one call. Clients do not, so by default this does not."""

    def to_json(self) -> str:
        """Write it for the process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PlayerPlan:
        """Read it."""
        plan = json.loads(text)
        plan["sessions"] = tuple(
            PlayerSession(**{key: _address(value) for key, value in one.items()})
            for one in plan["sessions"]
        )
        return cls(**plan)


def _address(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class _Video:
    """What arrived of one stream, as columns that grow by doubling."""

    def __init__(self, opener: VideoOpener | None) -> None:
        self._columns = np.zeros((4, 1 << 14), np.int64)
        self._used = 0
        self._opener = opener
        self.overhead_bytes = 0 if opener is None else ENCRYPTION_OVERHEAD_BYTES

    def take(self, data: memoryview, plain_bytes: int) -> None:
        """Note datagrams that have just come and stand back to back, decrypted if need be."""
        now_ns = time.monotonic_ns()
        if self._opener is not None:
            step, opener = plain_bytes + self.overhead_bytes, self._opener
            starts = range(0, len(data), step)
            data = memoryview(b"".join(opener.open(data[at : at + step]) for at in starts))
        self.note(read(data, plain_bytes), now_ns)

    def note(self, headers: NDArray[np.void], now_ns: int) -> None:
        count = len(headers)
        if self._used + count > self._columns.shape[1]:
            self._columns = np.concatenate((self._columns, np.zeros_like(self._columns)), axis=1)
        into = self._columns[:, self._used : self._used + count]
        into[0] = headers["frame"]
        into[1] = headers["sequence"]
        into[2] = now_ns
        into[3] = headers["made_ns"]
        self._used += count

    @property
    def columns(self) -> NDArray[np.int64]:
        """Frame, sequence, arrival and making of each datagram, in order of arrival."""
        return self._columns[:, : self._used]


class _Receiver:
    """One run of a plan."""

    def __init__(self, plan: PlayerPlan) -> None:
        self._plan = plan
        self._epoll = select.epoll()
        self._video: dict[int, tuple[socket.socket, _Video]] = {}
        self._audio: dict[int, socket.socket] = {}
        self._control: dict[int, socket.socket] = {}
        self._pinged: list[tuple[socket.socket, str]] = []
        self._counter = 0
        self._control_number = 0
        self._buffer = bytearray(_read_bytes)
        self._view = memoryview(self._buffer)
        self.audio_datagrams = 0
        self.control_ms: list[tuple[float, float]] = []
        self.control_sent = 0
        for one in plan.sessions:
            video = self._open(one.address, one.video, one.local_port)
            opener = VideoOpener(bytes.fromhex(one.video_key)) if one.video_key else None
            self._video[video.fileno()] = (video, _Video(opener))
            if one.video is not None:
                self._pinged.append((video, one.video_payload))
            if one.audio is not None:
                audio = self._open(one.address, one.audio)
                self._audio[audio.fileno()] = audio
                self._pinged.append((audio, one.audio_payload))
            if one.control is not None:
                control = self._open(one.address, one.control)
                self._control[control.fileno()] = control
                control.send(_connect(one.control_data))

    def _open(self, address: str, to: tuple[str, int] | None, port: int = 0) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _socket_bytes)
        if self._plan.offload:
            opened.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        opened.bind((address, port))
        if to is not None:
            opened.connect(to)
        self._epoll.register(opened.fileno(), select.EPOLLIN)
        return opened

    def ping(self) -> None:
        """Send one ping on every flow that has them."""
        self._counter += 1
        for sock, payload in self._pinged:
            sock.send(build_ping(payload, self._counter))

    def run(self, stop_fd: int) -> None:
        """Receive until there is something to read at `stop_fd`."""
        self._epoll.register(stop_fd, select.EPOLLIN)
        next_ping = next_control = time.monotonic_ns()
        while True:
            now = time.monotonic_ns()
            if now >= next_ping:
                self.ping()
                next_ping = now + ping_interval_ns
            wait_s = (next_ping - now) / 1e9
            if self._control:
                if now >= next_control:
                    self._ask(now)
                    next_control = now + control_interval_ns
                wait_s = min(wait_s, (next_control - now) / 1e9)
            for descriptor, _ in self._epoll.poll(max(wait_s, 0.001)):
                if descriptor == stop_fd:
                    return
                self._read(descriptor)

    def _read(self, descriptor: int) -> None:
        if descriptor in self._video:
            self._read_video(*self._video[descriptor])
        elif descriptor in self._audio:
            self.audio_datagrams += self._drain(self._audio[descriptor])
        else:
            self._take_answers(self._control[descriptor])

    def _read_video(self, sock: socket.socket, video: _Video) -> None:
        # As long as datagrams are there, they go into one buffer and are looked at together.
        size, room = self._plan.datagram_bytes + video.overhead_bytes, len(self._buffer)
        used = 0
        try:
            while True:
                used += sock.recv_into(self._view[used:], room - used)
                if room - used < size or self._plan.offload:
                    video.take(self._view[:used], self._plan.datagram_bytes)
                    used = 0
        except (BlockingIOError, ConnectionRefusedError):
            if used:
                video.take(self._view[:used], self._plan.datagram_bytes)

    def _drain(self, sock: socket.socket) -> int:
        count = 0
        try:
            while True:
                sock.recv_into(self._view)
                count += 1
        except (BlockingIOError, ConnectionRefusedError):
            return count

    def _ask(self, now: int) -> None:
        self._control_number += 1
        question = _ECHO.pack(now, self._control_number).ljust(control_bytes, b"\0")
        # Not a datagram of ENet's: peer id 0 and command 0.
        for sock in self._control.values():
            self.control_sent += 1
            sock.send(b"\0\0\0\0" + question)

    def _take_answers(self, sock: socket.socket) -> None:
        try:
            while True:
                answer = sock.recv(_read_bytes)
                if len(answer) == control_bytes + 4:
                    sent_ns, _ = _ECHO.unpack_from(answer, 4)
                    now = time.monotonic_ns()
                    self.control_ms.append((sent_ns / 1e9, (now - sent_ns) / 1e6))
        except (BlockingIOError, ConnectionRefusedError):
            return

    def columns(self) -> list[NDArray[np.int64]]:
        """Return what arrived, a table a session; see `_Video.columns`."""
        return [video.columns for _, video in self._video.values()]


def _connect(data: int) -> bytes:
    """Return an ENet CONNECT: what proves a control flow."""
    body = Connect(0, 3, 3, 900, 65_536, 48, 0, 0, 5_000, 2, 2, 1, data)
    command = EnetCommand(CommandKind.CONNECT, ACKNOWLEDGE_FLAG, NO_CHANNEL, 1, body)
    return EnetPacket(NO_PEER, 0, None, (command,)).encode()


def percentile(values: Sequence[float] | NDArray[Any], share: float) -> float | None:
    """Return the value that `share` (0 to 1) of all do not exceed; None where there are none."""
    if not len(values):
        return None
    return float(np.quantile(np.asarray(values), share, method="higher"))


def latencies(tables: list[NDArray[np.int64]]) -> dict[str, Any]:
    """Sum up datagrams over all streams: how long they took, and what is missing by number."""
    took = np.concatenate([(table[2] - table[3]) / 1e6 for table in tables] or [np.zeros(0)])
    lost = 0
    for table in tables:
        if table.shape[1]:
            steps = np.diff(np.unwrap(table[1], period=1 << 16))
            lost += int((steps - 1).sum())
    return {
        "datagrams": len(took),
        "gaps": lost,
        "p50_ms": percentile(took, 0.5),
        "p99_ms": percentile(took, 0.99),
        "max_ms": float(took.max()) if len(took) else None,
    }


def frames(table: NDArray[np.int64], shape: FrameShape) -> list[dict[str, float | int]]:
    """Tell of each frame that anything arrived of: when it was made and could be decoded.

    `whole_s` is when as many shards had come as there are data shards, which is enough in each
    of the blocks of these streams only where nothing was lost unevenly: blocks are looked at one
    by one. Times are seconds of the machine's monotonic clock; `whole_s` is 0 for partial ones.
    """
    first = 0
    told: list[dict[str, float | int]] = []
    for number in np.unique(table[0]):
        rows = table[:, table[0] == number]
        # A frame's sequence numbers begin at a multiple of its length, counted from frame 1.
        first = (int(number) - 1) * shape.datagrams
        places = np.sort((rows[1] - first) & 0xFFFF)
        order = np.argsort((rows[1] - first) & 0xFFFF)
        arrived = rows[2][order]
        whole_ns, start = 0, 0
        for block in shape.blocks:
            length = block.data + block.parity
            inside = (places >= start) & (places < start + length)
            times = np.sort(arrived[inside])
            start += length
            if len(times) < block.data:
                whole_ns = 0
                break
            whole_ns = max(whole_ns, int(times[block.data - 1]))
        told.append(
            {
                "frame": int(number),
                "made_s": float(rows[3][0]) / 1e9,
                "first_s": float(rows[2].min()) / 1e9,
                "whole_s": whole_ns / 1e9,
                "datagrams": int(rows.shape[1]),
            }
        )
    return told


def main() -> None:
    """Run as the benchmarks expect."""
    line = sys.stdin.readline()
    plan = PlayerPlan.from_json(line)
    receiver = _Receiver(plan)
    receiver.ping()
    print("ready", flush=True)
    # The pipe holds only what is one line away: the loop watches its descriptor itself.
    os.set_blocking(sys.stdin.fileno(), True)
    receiver.run(sys.stdin.fileno())
    tables = receiver.columns()
    shape = FrameShape.of_rate(plan.mbps, plan.fps, plan.datagram_bytes)
    result: dict[str, Any] = latencies(tables)
    result["audio_datagrams"] = receiver.audio_datagrams
    result["control_ms"] = [[round(at, 4), round(ms, 3)] for at, ms in receiver.control_ms]
    result["control_sent"] = receiver.control_sent
    result["frames"] = frames(tables[0], shape) if len(tables) == 1 else []
    result["cpu_s"] = time.process_time()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
