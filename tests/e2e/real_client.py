"""Starts the real Moonlight client as a process of its own and reads what it tells."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

client_timeout_s = 60.0


class ClientFailed(Exception):
    """The client was refused; `status` and the message are what its user would see."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class RealClient:
    """One Moonlight installation."""

    state: Path
    http_port: int
    address: str = "127.0.0.1"
    """Of the edge."""
    within: tuple[str, ...] = ()
    """The beginning of a command that runs another one where the client is."""

    async def run(
        self, *action: str, on_event: Callable[[dict[str, Any]], None] | None = None
    ) -> Any:
        """Do something and return its result; `on_event` gets the progress as it comes."""
        answer: dict[str, Any] = {}
        errors = b""
        with trio.fail_after(client_timeout_s):
            async with trio.open_nursery() as nursery:
                process: trio.Process = await nursery.start(self._start, action)
                assert process.stdout is not None
                buffer = b""
                async for chunk in process.stdout:
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        answer = json.loads(line)
                        if on_event is not None and "event" in answer:
                            on_event(answer)
                assert process.stderr is not None
                async for chunk in process.stderr:
                    errors += chunk
        if "result" in answer:
            return answer["result"]
        raise ClientFailed(
            answer.get("error", errors.decode(errors="replace")), answer.get("status")
        )

    async def outcome(self, *action: str) -> Any:
        """As `run`, but return a refusal in place of raising it."""
        try:
            return await self.run(*action)
        except ClientFailed as error:
            return error

    async def stream(self, *options: str, seconds: float = 1.0) -> Any:
        """Launch (or resume) and play."""
        return await self.run("stream", "--app", "Test ball", "--seconds", str(seconds), *options)

    async def _start(
        self, action: tuple[str, ...], *, task_status: trio.TaskStatus[trio.Process]
    ) -> None:
        await trio.run_process(
            [
                *(*self.within, sys.executable, "-m", "moonhost.real_client"),
                *("--address", self.address),
                *("--http-port", str(self.http_port), "--state", str(self.state), *action),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            task_status=task_status,
        )
