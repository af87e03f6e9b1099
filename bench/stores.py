"""How fast the stores are when they are full: ``python -m bench.stores``.

Each holds ten thousand sticky entries of as many clients, a thousand drains, tokens and sessions,
and five hundred titles; then every operation is timed from its call to its answer, one at a time.
SQLite writes to a file in the temporary folder. Redis is a server of its own, on a Unix socket and
without a disk; it is left out where there is no redis-server.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import trio

from backends.model import BackendId
from backends.records import ClientRecord, SessionRecord, StickyRecord
from backends.redis import RedisStore
from backends.sqlite import SqliteStore
from backends.store import Store
from bench import machine
from bench.deployment import Process

clients: Final = 10_000
backends: Final = 1_000
titles: Final = 500
default_repeats: Final = 2_000
quick_repeats: Final = 200
long_share: Final = 20
"""An operation that reads a whole list is repeated this many times less often."""
at_once: Final = 64
certificate_bytes: Final = 800
details_bytes: Final = 1_500
start_timeout_s: Final = 10.0
_key: Final = bytes(32)
_now: Final = datetime.now(UTC)

Operation = Callable[[int], Awaitable[object]]


def client_id(number: int) -> str:
    """Return the id of one of the clients, as long as real ones are."""
    return f"{number % clients:064x}"


def backend_id(number: int) -> BackendId:
    """Return the id of one of the backends."""
    return BackendId(f"agent{number % backends}/host")


def sticky(number: int) -> StickyRecord:
    """Return a client's sticky entry."""
    return StickyRecord(client_id(number), backend_id(number), _now + timedelta(days=7))


async def fill(store: Store) -> None:
    """Write what the store holds while it is measured."""

    async def client(number: int) -> None:
        certificate = os.urandom(certificate_bytes)
        await store.put_client(ClientRecord(client_id(number), "Device", certificate, _now))
        await store.put_sticky(sticky(number))

    async def backend(number: int) -> None:
        await store.put_drain(backend_id(number), _now)
        await store.put_agent_token(f"agent{number}", number.to_bytes(32, "big"), _now)
        session = f"session{number}"
        await store.add_session(
            SessionRecord(
                *(session, client_id(number), backend_id(number), "Desktop", "streaming"),
                *(_now, _now, os.urandom(details_bytes)),
            )
        )

    for job, count in ((client, clients), (backend, backends)):
        numbers = iter(range(count))

        async def work(job: Callable[[int], Awaitable[None]] = job, numbers: Any = numbers) -> None:
            for number in numbers:
                await job(number)

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(work)
    await store.app_ids_for(map("Title {}".format, range(titles)))


def operations(store: Store) -> dict[str, tuple[Operation, int]]:
    """Return what is timed, by name, and how many times less often it is done."""
    all_titles = [f"Title {number}" for number in range(titles)]
    token = (7).to_bytes(32, "big")
    return {
        "put_sticky": (lambda number: store.put_sticky(sticky(number)), 1),
        "get_sticky": (lambda number: store.get_sticky(client_id(number)), 1),
        "agent_for_token_hash": (lambda _: store.agent_for_token_hash(token), 1),
        "list_drains": (lambda _: store.list_drains(), long_share),
        "list_agents": (lambda _: store.list_agents(), long_share),
        "app_ids_for": (lambda _: store.app_ids_for(all_titles), long_share),
        "list_sessions": (lambda _: store.list_sessions(), long_share),
    }


async def timed(operation: Operation, repeats: int) -> dict[str, float]:
    """Return how long an operation takes, in milliseconds."""
    took_ms = []
    for number in range(repeats):
        start_s = time.perf_counter()
        await operation(number * 7_919)
        took_ms.append((time.perf_counter() - start_s) * 1e3)
    percentiles = statistics.quantiles(took_ms, n=100, method="inclusive")
    return {"p50_ms": round(percentiles[49], 3), "p99_ms": round(percentiles[98], 3)}


async def measure(store: Store, repeats: int) -> dict[str, Any]:
    """Fill a store and return its figures."""
    start_s = time.perf_counter()
    await fill(store)
    found: dict[str, Any] = {"fill_s": round(time.perf_counter() - start_s, 2)}
    for name, (operation, share) in operations(store).items():
        found[name] = await timed(operation, max(10, repeats // share))
    return found


@asynccontextmanager
async def redis_server(program: str, folder: Path) -> AsyncIterator[str]:
    """Run a server and give its URL."""
    path = folder / "redis.sock"
    command = [
        *(program, "--port", "0", "--unixsocket", str(path), "--dir", str(folder)),
        *("--save", "", "--appendonly", "no"),
    ]
    async with Process.start("redis-server", command) as server:
        while "eady to accept" not in await server.line(start_timeout_s):
            pass
        yield f"unix://{path}"


async def measure_all(repeats: int) -> dict[str, Any]:
    """Return the figures of each store that can be had here."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="moonhost-bench-") as name:
        folder = Path(name)
        async with SqliteStore.open(folder / "edge.sqlite", _key) as file:
            found["sqlite"] = await measure(file, repeats)
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            print("no redis-server here: Redis is left out", file=sys.stderr)
            return found
        async with redis_server(program, folder) as url, RedisStore.open(url, _key) as server:
            found["redis"] = await measure(server, repeats)
    return found


def table(found: dict[str, Any]) -> str:
    """Return the figures as text for people."""
    lines = [f"{'ms':22}" + "".join(f"{name + ' p50':>14}{'p99':>10}" for name in found)]
    names = [name for name in next(iter(found.values())) if name != "fill_s"]
    for name in names:
        cells = [figures[name] for figures in found.values()]
        lines.append(
            f"{name:22}"
            + "".join(f"{cell['p50_ms']:14.3f}{cell['p99_ms']:10.3f}" for cell in cells)
        )
    return "\n".join(lines)


async def run(options: argparse.Namespace) -> None:
    """Run what the options say, and print it."""
    about = machine.describe()
    print(machine.heading(), file=sys.stderr)
    found = await measure_all(quick_repeats if options.quick else default_repeats)
    about["load_after"] = round(os.getloadavg()[0], 2)
    if options.json:
        held = {"clients": clients, "backends": backends, "titles": titles}
        print(json.dumps({"machine": about, **held, **found}))
    else:
        print(f"{clients} sticky entries, {backends} drains, tokens and sessions\n{table(found)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.stores", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--json", action="store_true")
    trio.run(run, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
