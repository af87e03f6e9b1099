"""What talks through the emulated WAN to measure it, each role a plain process in a namespace.

``python -m bench.wan_peers ROLE ADDRESS [NUMBERS]`` prints one line of JSON when it is done,
`sink` and `echo` a line before that, once they listen. They end by themselves: `echo` with its
standard input, `sink` with its one connection, the others after their time.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Final

import msgspec

echo_port: Final = 7007
bulk_port: Final = 7008
probe_bytes: Final = 100
probes_in_s: Final = 500
straggler_s: Final = 1.0
"""How long answers are waited for after the last probe, beyond the longest seen round trip."""
chunk_bytes: Final = 16384
socket_timeout_s: Final = 30.0
_probe: Final = struct.Struct("!IQI")
_stdin: Final = 0


@dataclass(frozen=True, slots=True)
class Probed:
    """What the echo told: round trips in milliseconds, and probes that got there and back."""

    sent: int
    reached: int
    returned: int
    round_trips_ms: list[float]


@dataclass(frozen=True, slots=True)
class Carried:
    """What a bulk connection's reader got, from its first byte to its last."""

    received_bytes: int
    seconds: float
    congestion_control: str


def echo(address: str) -> None:
    """Send every probe back with how many have come so far, until standard input ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, echo_port))
        _tell({})
        reached = 0
        while True:
            ready, _, _ = select.select([sock.fileno(), _stdin], [], [])
            if _stdin in ready:
                return
            data, peer = sock.recvfrom(2048)
            reached += 1
            number, sent_ns, _ = _probe.unpack_from(data)
            answer = _probe.pack(number, sent_ns, reached)
            sock.sendto(answer.ljust(len(data), b"\0"), peer)


def probe(address: str, seconds: float) -> None:
    """Send probes at a steady rate and hear their echoes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((address, echo_port))
        round_trips_ms: list[float] = []
        sent = reached = 0
        count = round(seconds * probes_in_s)
        began_ns = time.monotonic_ns()
        end_ns: float = float("inf")
        while (now_ns := time.monotonic_ns()) < end_ns:
            next_ns = began_ns + sent * 1_000_000_000 // probes_in_s
            if sent < count and now_ns >= next_ns:
                sock.send(_probe.pack(sent, now_ns, 0).ljust(probe_bytes, b"\0"))
                sent += 1
                if sent == count:
                    longest_s = max(round_trips_ms, default=1000.0) / 1000
                    end_ns = now_ns + (straggler_s + longest_s) * 1e9
                continue
            wait_ns = min(next_ns, end_ns) if sent < count else end_ns
            if select.select([sock], [], [], max(0.0, wait_ns - now_ns) / 1e9)[0]:
                _, sent_ns, reached_then = _probe.unpack_from(sock.recv(2048))
                round_trips_ms.append((time.monotonic_ns() - sent_ns) / 1e6)
                reached = max(reached, reached_then)
    _tell(Probed(sent, reached, len(round_trips_ms), round_trips_ms))


def sink(address: str) -> None:
    """Read one connection to its end, and say how much it carried."""
    with socket.create_server((address, bulk_port)) as listener:
        listener.settimeout(socket_timeout_s)
        _tell({})
        connection, _ = listener.accept()
    with connection:
        connection.settimeout(socket_timeout_s)
        name = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        received_bytes = 0
        began_s = ended_s = time.monotonic()
        while data := connection.recv(2**18):
            ended_s = time.monotonic()
            if not received_bytes:
                began_s = ended_s
            received_bytes += len(data)
    _tell(Carried(received_bytes, ended_s - began_s, name.rstrip(b"\0").decode()))


def bulk(address: str, seconds: float, mbps: float) -> None:
    """Write to a sink for so long, so many Mbit/s or, where that is 0, as much as goes."""
    with socket.create_connection((address, bulk_port), socket_timeout_s) as sock:
        chunk = os.urandom(chunk_bytes)
        began_s = now_s = time.monotonic()
        sent_bytes = 0
        while now_s < began_s + seconds:
            ahead_s = sent_bytes * 8 / (mbps * 1e6) - (now_s - began_s) if mbps else 0.0
            if ahead_s > 0:
                time.sleep(ahead_s)
            sock.sendall(chunk)
            sent_bytes += chunk_bytes
            now_s = time.monotonic()
    _tell({})


def main(role: str, address: str, *numbers: str) -> None:
    """Take a role; which one, and its numbers, come from the command line."""
    match role, [float(number) for number in numbers]:
        case "echo", []:
            echo(address)
        case "sink", []:
            sink(address)
        case "probe", [seconds]:
            probe(address, seconds)
        case "bulk", [seconds, mbps]:
            bulk(address, seconds, mbps)
        case _:
            raise SystemExit(f"not a role with its numbers: {role} {numbers}")


def _tell(value: Probed | Carried | dict[str, str]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
