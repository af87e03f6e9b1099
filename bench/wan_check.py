"""Measures whether the emulated WAN does what is asked of it: ``python -m bench.wan``.

Each phase has a link of its own, alike both ways: echoes alone, then one bulk connection from near
to far with the kernel's default congestion control, then, with ``--load-mbps``, echoes beside
connections that carry so much each way. Losses, round trips and throughput are measured at the
ends, without asking the link; its lateness and its CPU it tells itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import trio

from bench.link_model import LinkConfig
from bench.link_process import LinkReport
from bench.wan import EmulatedWan, Namespace, WanFailed, can_emulate, emulated_wan
from bench.wan_peers import Carried, Probed, probe_bytes

phase_grace_s: Final = 60.0
"""How much longer than its seconds a phase may take."""
ip_udp_header_bytes: Final = 28
ip_tcp_header_share: Final = 1448 / 1500
_root: Final = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Echoes:
    """Of one phase with echoes; the error is a round trip less what was asked for it."""

    probes: int
    asked_rtt_ms: float
    rtt_min_ms: float
    rtt_p50_ms: float
    rtt_p99_ms: float
    error_p50_ms: float
    error_p99_ms: float
    asked_loss: float
    loss_up: float
    loss_down: float
    link_cpu: float
    """Of one core, 0 to 1."""
    link: LinkReport


@dataclass(frozen=True, slots=True)
class Bulk:
    """Of the phase with one bulk connection; rates are of what the application got."""

    asked_mbps: float | None
    """The most that the link's rate leaves for the application."""
    mbps: float
    congestion_control: str
    link_cpu: float
    link: LinkReport


@dataclass(frozen=True, slots=True)
class Check:
    """All that was measured, beside what was asked."""

    asked: LinkConfig
    seconds: float
    echoes: Echoes
    bulk: Bulk
    load_mbps: float
    echoes_under_load: Echoes | None


async def check(config: LinkConfig, seconds: float, load_mbps: float) -> Check:
    """Run all phases. Raises `WanFailed`, `trio.TooSlowError`, `subprocess.CalledProcessError`."""
    with trio.fail_after(3 * (seconds + phase_grace_s)):
        return Check(
            asked=config,
            seconds=seconds,
            echoes=await measure_echoes(config, seconds, 0.0),
            bulk=await measure_bulk(config, seconds),
            load_mbps=load_mbps,
            echoes_under_load=(
                await measure_echoes(config, seconds, load_mbps) if load_mbps else None
            ),
        )


async def measure_echoes(config: LinkConfig, seconds: float, load_mbps: float) -> Echoes:
    """Echo probes from far, beside connections that carry `load_mbps` each way if that is not 0."""
    async with (
        emulated_wan(config, replace(config, seed=config.seed + 1)) as wan,
        trio.open_nursery() as nursery,
    ):
        if load_mbps:
            nursery.start_soon(_carry, wan, wan.near, wan.far, seconds, load_mbps)
            nursery.start_soon(_carry, wan, wan.far, wan.near, seconds, load_mbps)
        async with _listening(wan, wan.far, "echo"):
            probe = await _run(wan, wan.near, "probe", wan.far.address, str(seconds))
        link = await wan.counts()
    probed = msgspec.json.decode(probe, type=Probed)
    asked_rtt_ms = 2 * config.delay_ms
    if config.rate_mbps is not None:
        asked_rtt_ms += 2 * (probe_bytes + ip_udp_header_bytes) * 8 / (config.rate_mbps * 1000)
    trips_ms = sorted(probed.round_trips_ms) or [float("nan")]
    p50_ms, p99_ms = (trips_ms[int(share * (len(trips_ms) - 1))] for share in (0.5, 0.99))
    return Echoes(
        probes=probed.sent,
        asked_rtt_ms=asked_rtt_ms,
        rtt_min_ms=trips_ms[0],
        rtt_p50_ms=p50_ms,
        rtt_p99_ms=p99_ms,
        error_p50_ms=p50_ms - asked_rtt_ms,
        error_p99_ms=p99_ms - asked_rtt_ms,
        asked_loss=config.loss,
        loss_up=1 - probed.reached / probed.sent,
        loss_down=1 - probed.returned / max(1, probed.reached),
        link_cpu=link.cpu_s / link.wall_s,
        link=link,
    )


async def measure_bulk(config: LinkConfig, seconds: float) -> Bulk:
    """Write one connection full from near to far."""
    async with emulated_wan(config, replace(config, seed=config.seed + 1)) as wan:
        carried = await _carry(wan, wan.near, wan.far, seconds, 0.0)
        link = await wan.counts()
    return Bulk(
        asked_mbps=config.rate_mbps and config.rate_mbps * ip_tcp_header_share,
        mbps=carried.received_bytes * 8 / carried.seconds / 1e6,
        congestion_control=carried.congestion_control,
        link_cpu=link.cpu_s / link.wall_s,
        link=link,
    )


async def _carry(
    wan: EmulatedWan, source: Namespace, sink: Namespace, seconds: float, mbps: float
) -> Carried:
    async with _listening(wan, sink, "sink") as ending:
        await _run(wan, source, "bulk", sink.address, str(seconds), str(mbps))
        return msgspec.json.decode(await ending(), type=Carried)


def _command(wan: EmulatedWan, namespace: Namespace, *words: str) -> list[str]:
    return wan.command(namespace, [sys.executable, "-m", "bench.wan_peers", *words])


async def _run(wan: EmulatedWan, namespace: Namespace, *words: str) -> bytes:
    """Run a role to its end; what it said."""
    done = await trio.run_process(
        _command(wan, namespace, *words), capture_stdout=True, cwd=str(_root)
    )
    return done.stdout


@asynccontextmanager
async def _listening(
    wan: EmulatedWan, namespace: Namespace, role: str
) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Run a role that listens; gives what waits for its end and returns what it said last."""
    process = await trio.lowlevel.open_process(
        _command(wan, namespace, role, namespace.address),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=str(_root),
    )
    pipes = process.stdio
    if pipes is None:
        raise WanFailed(f"{role} has no pipes")

    async def ending() -> bytes:
        return b"".join([data async for data in pipes.receive_stream])

    try:
        if not (await pipes.receive_stream.receive_some()).endswith(b"\n"):
            raise WanFailed(f"{role} does not listen; it says why on standard error")
        yield ending
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await pipes.aclose()


def report(measured: Check) -> str:
    """Tell what was asked beside what was measured, a line for each thing."""
    rows = [("", "asked", "measured")]
    rows += _echo_rows("echo", measured.echoes)
    bulk = measured.bulk
    most = "no limit" if bulk.asked_mbps is None else f"<= {bulk.asked_mbps:.2f} Mbit/s"
    name = f"bulk, one connection, {bulk.congestion_control}"
    rows += [(name, most, f"{bulk.mbps:.2f} Mbit/s")]
    rows += _link_rows("bulk", bulk.link, bulk.link_cpu)
    if measured.echoes_under_load is not None:
        name = f"echo beside {measured.load_mbps:g} Mbit/s each way"
        rows += _echo_rows(name, measured.echoes_under_load)
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "".join(
        f"{what:<{widths[0]}}  {asked:<{widths[1]}}  {got}\n" for what, asked, got in rows
    )


def _echo_rows(phase: str, echoes: Echoes) -> list[tuple[str, str, str]]:
    asked, loss = f"{echoes.asked_rtt_ms:.3f} ms", f"{echoes.asked_loss:.2%}"
    return [
        (f"{phase}: round trip min", asked, f"{echoes.rtt_min_ms:.3f} ms"),
        (f"{phase}: round trip p50", asked, _with_error(echoes.rtt_p50_ms, echoes.error_p50_ms)),
        (f"{phase}: round trip p99", asked, _with_error(echoes.rtt_p99_ms, echoes.error_p99_ms)),
        (f"{phase}: loss near to far", loss, f"{echoes.loss_up:.2%} of {echoes.probes}"),
        (f"{phase}: loss far to near", loss, f"{echoes.loss_down:.2%}"),
        *_link_rows(phase, echoes.link, echoes.link_cpu),
    ]


def _link_rows(phase: str, link: LinkReport, cpu: float) -> list[tuple[str, str, str]]:
    late = f"{link.late_p50_us:.0f}, {link.late_p99_us:.0f}, {link.late_max_us:.0f} us"
    faults = f"{link.overflowed}, {link.refused}"
    packets = f"{link.up.delivered}, {link.down.delivered}"
    lost = f"{link.up.lost_random + link.down.lost_random}, "
    lost += f"{link.up.lost_queue + link.down.lost_queue}"
    largest = max(link.up.largest_packet_bytes, link.down.largest_packet_bytes)
    return [
        (f"{phase}: link late p50, p99, max", "0", late),
        (f"{phase}: link's CPU", "", f"{cpu:.1%} of a core"),
        (f"{phase}: packets up, down", "", packets),
        (f"{phase}: packets lost at random, in the queue", "", lost),
        (f"{phase}: packets overflowed, refused by the kernel", "0, 0", faults),
        (f"{phase}: largest packet", "<= 1500 bytes", f"{largest} bytes"),
    ]


def _with_error(value_ms: float, error_ms: float) -> str:
    return f"{value_ms:.3f} ms ({error_ms:+.3f})"


def main() -> None:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.wan", description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="each way")
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="at most, on top of the delay")
    parser.add_argument("--loss", type=float, default=0.0, help="probability, each way")
    parser.add_argument("--reorder", type=float, default=0.0, help="probability to overtake")
    parser.add_argument("--rate-mbps", type=float, help="of whole packets, each way")
    parser.add_argument("--queue-ms", type=float, default=100.0, help="bound of the bottleneck")
    parser.add_argument("--load-mbps", type=float, default=0.0, help="for echoes beside a load")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each phase")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if reason := can_emulate():
        raise SystemExit(reason)
    try:
        config = LinkConfig(
            delay_ms=options.delay_ms,
            jitter_ms=options.jitter_ms,
            loss=options.loss,
            reorder=options.reorder,
            rate_mbps=options.rate_mbps,
            queue_ms=options.queue_ms,
        )
    except ValueError as error:
        parser.error(str(error))
    measured = trio.run(check, config, options.seconds, options.load_mbps)
    if options.json:
        sys.stdout.buffer.write(msgspec.json.encode(measured) + b"\n")
    else:
        sys.stdout.write(report(measured))
