"""A wide-area network on one machine: two network namespaces and an emulated link between them.

``async with emulated_wan(up, down) as wan:`` and then run commands in `wan.near` and `wan.far`;
`up` is what happens to packets from near to far, `down` what happens on the way back. The link
runs in a process of its own, before all others on the machine, so that it keeps its times while
they are busy. It needs root; `can_emulate` says why it cannot be had.

At the end, however it comes, both namespaces are removed and what still runs in them is killed:
by the link's process, which ends with its standard input, or else by the context manager.
``python -m bench.wan`` measures whether the link does what is asked of it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import trio

from bench import namespaces
from bench.link_model import LinkConfig
from bench.link_process import End, LinkReport, Plan

near_address: Final = "10.77.0.1"
far_address: Final = "10.77.0.2"
prefix_bits: Final = 24
start_timeout_s: Final = 20.0
answer_timeout_s: Final = 10.0
stop_timeout_s: Final = 10.0
default_max_seconds: Final = 1800.0
_stopped: Final = "the emulated link has stopped; it says why on standard error"
_root: Final = Path(__file__).parent.parent


class WanFailed(Exception):
    """The emulated WAN cannot be had, or its link has stopped; the message says why."""


def can_emulate() -> str | None:
    """Why there can be no emulated WAN here, as one sentence; None if there can."""
    return namespaces.obstacle()


@dataclass(frozen=True, slots=True)
class Namespace:
    """One end: the namespace's name, for `ip netns`, and its address on the link."""

    name: str
    address: str


class EmulatedWan:
    """Both ends of the link while it lasts; made by `emulated_wan`."""

    def __init__(self, near: str, far: str, link: LinkConversation) -> None:
        self.near = Namespace(near, near_address)
        self.far = Namespace(far, far_address)
        self._link = link

    @property
    def link_pid(self) -> int:
        """The id of the link's process."""
        return self._link.pid

    @staticmethod
    def command(namespace: Namespace, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` in one of the namespaces."""
        return namespaces.command_in(namespace.name, list(argv))

    async def start_clock(self) -> None:
        """Blackouts and rate steps count from now; only once. Raises `WanFailed`."""
        await self._link.ask(b"clock", answer_timeout_s)

    async def counts(self) -> LinkReport:
        """Tell what the link did until now. Raises `WanFailed`."""
        answer = await self._link.ask(b"counts", answer_timeout_s)
        return msgspec.json.decode(answer, type=LinkReport)


class LinkConversation:
    """Lines to the link's process, each of which it answers with one."""

    def __init__(self, process: trio.Process) -> None:
        if process.stdio is None:
            raise ValueError("the link is talked to through pipes")
        self._process = process
        self._pipes = process.stdio
        self._received = b""
        self._turn = trio.Lock()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    async def ask(self, line: bytes, timeout_s: float) -> bytes:
        """Write a line and return its answer. Raises `WanFailed`.

        Not cancellable, for the next one to ask would get this answer.
        """
        async with self._turn:
            try:
                with trio.fail_after(timeout_s) as scope:
                    scope.shield = True
                    await self._pipes.send_all(line + b"\n")
                    return await self._line()
            except trio.TooSlowError:
                raise WanFailed("the emulated link does not answer") from None
            except trio.BrokenResourceError:
                raise WanFailed(_stopped) from None

    async def end(self) -> None:
        """Let the process end by itself, as its input has; kill it if it does not."""
        await self._pipes.send_stream.aclose()
        with trio.move_on_after(stop_timeout_s):
            await self._process.wait()
        if self._process.poll() is None:
            self._process.kill()
            await self._process.wait()
        await self._pipes.receive_stream.aclose()

    async def _line(self) -> bytes:
        while b"\n" not in self._received:
            received = await self._pipes.receive_stream.receive_some()
            if not received:
                raise WanFailed(_stopped)
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line


@asynccontextmanager
async def emulated_wan(
    up: LinkConfig, down: LinkConfig, *, max_seconds: float = default_max_seconds
) -> AsyncIterator[EmulatedWan]:
    """Two namespaces with a link between them, for `max_seconds` at most.

    Raises `WanFailed` where it cannot be had, and at the end if the link stopped before.
    """
    reason = can_emulate()
    if reason is not None:
        raise WanFailed(reason)
    unique = f"wan-{os.getpid()}-{secrets.token_hex(3)}"
    near, far = f"{unique}-near", f"{unique}-far"
    plan = Plan(
        near=End(near, f"{near_address}/{prefix_bits}"),
        far=End(far, f"{far_address}/{prefix_bits}"),
        up=up,
        down=down,
        max_seconds=max_seconds,
    )
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "bench.link_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_root,
        # Ctrl-C is for whoever uses the link; it ends when they do.
        start_new_session=True,
    )
    link = LinkConversation(process)
    try:
        await link.ask(msgspec.json.encode(plan), start_timeout_s)
        yield EmulatedWan(near, far, link)
        if process.poll() is not None:
            raise WanFailed(_stopped)
    finally:
        with trio.CancelScope(shield=True):
            await link.end()
            # Where the link's process could not do it.
            await trio.to_thread.run_sync(namespaces.remove, near, far)


if __name__ == "__main__":
    from bench.wan_check import main

    main()
