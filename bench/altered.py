"""Moonhost with its short queues taken away, or another congestion control: for benches.

``python -m bench.altered agent --config FILE`` is ``python -m moonhost agent …`` but for what
the environment asks for; an edge likewise. It shows what those queues are worth, beside the
product as it is.
"""

from __future__ import annotations

import os
import runpy
import socket
from contextlib import ExitStack
from functools import partial
from typing import Final
from unittest import mock

from agent import service
from proxy import client_flow
from revdial import answering, connector
from revdial.backlog import BacklogLimits
from revdial.limits import DialerLimits
from revdial.websocket import tune

module: Final = "bench.altered"
unbounded_variable: Final = "MOONHOST_BENCH_UNBOUNDED"
"""Where it is set, nothing is ever too old, and the kernel takes whatever its buffers hold."""
congestion_variable: Final = "MOONHOST_BENCH_CONGESTION"
"""The congestion control to ask the kernel for, instead of the product's."""

endless_bytes: Final = 2**30
endless_unsent_bytes: Final = 2**31 - 1


def unlimited(_: str) -> BacklogLimits:
    """Let everything of any flow wait for ever."""
    return BacklogLimits(limit_ms=None, max_bytes=endless_bytes)


def tune_as(
    congestion: str, sock: socket.socket, *, user_timeout_ms: int, unsent_limit_bytes: int
) -> None:
    """Do what the product does, but for the congestion control. Raises `OSError` where unknown."""
    tune(sock, user_timeout_ms=user_timeout_ms, unsent_limit_bytes=unsent_limit_bytes)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())


def main() -> None:
    """Run moonhost's command line, altered."""
    with ExitStack() as altered:
        if os.environ.get(unbounded_variable):
            limits = partial(DialerLimits, tcp_unsent_limit_bytes=endless_unsent_bytes)
            altered.enter_context(mock.patch.object(answering, "limits_of", unlimited))
            altered.enter_context(mock.patch.object(service, "DialerLimits", limits))
            altered.enter_context(mock.patch.object(client_flow, "max_lateness_ms", None))
        if congestion := os.environ.get(congestion_variable):
            tuned = partial(tune_as, congestion)
            altered.enter_context(mock.patch.object(connector, "tune", tuned))
        runpy.run_module("moonhost", run_name="__main__")


if __name__ == "__main__":
    main()
