"""The agent's end of the tunnel: it dials the edge, stays connected, and comes back when it fails.

The agent may be behind any NAT: all connections are its own, outgoing, to the one address of the
edge. See `answering` for what happens while it is connected.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import structlog
import trio

from revdial.answering import AgentSide, Answering
from revdial.backlog import Classify
from revdial.backoff import Backoff, Outcome
from revdial.connector import Connector, NotConnected
from revdial.flow import DatagramChannel
from revdial.framing import Preamble
from revdial.limits import DialerLimits
from revdial.messages import Dial, Heartbeat, Hello, Json
from revdial.observer import Counters, TunnelObserver
from revdial.stream import WebSocketStream
from revdial.websocket import control_path

# What the edge says by closing, and that coming back at once does not change.
_OUTCOMES = {
    "replaced": (Outcome.REPLACED, "another agent with this id is connected"),
    "hello_mismatch": (Outcome.UNAUTHORISED, "the token is for another agent id"),
    "version_mismatch": (Outcome.UNAUTHORISED, "the edge speaks another version of the protocol"),
}


class TunnelDialer:
    """One agent's connection to one edge.

    `check` raises `DialRefused` for what this agent does not dial. `on_stream` and `on_flow` own
    what they are given until they return, and may raise `DialRefused` when the host cannot be
    reached; they are cancelled when the tunnel ends. `on_request` returns a result or raises
    `RequestFailed`. `classify` tells, by kind of flow, what a slow tunnel may drop first. Raises
    `ValueError` for a URL or token that cannot be one.
    """

    def __init__(
        self,
        url: str,
        token: str,
        ssl_context: ssl.SSLContext | None,
        *,
        hello: Callable[[], Hello],
        heartbeat: Callable[[], Awaitable[Heartbeat]],
        check: Callable[[Dial], Awaitable[None]],
        on_stream: Callable[[Dial, WebSocketStream], Awaitable[None]],
        on_flow: Callable[[Dial, DatagramChannel, Preamble], Awaitable[None]],
        on_request: Callable[[str, dict[str, Json]], Awaitable[dict[str, Json]]],
        classify: Mapping[str, Classify] = MappingProxyType({}),
        backoff: Backoff | None = None,
        observer: TunnelObserver | None = None,
        limits: DialerLimits | None = None,
    ) -> None:
        self._limits = limits or DialerLimits()
        self._connector = Connector(url, token, ssl_context, self._limits)
        self._agent = AgentSide(hello, heartbeat, check, on_stream, on_flow, on_request, classify)
        self._backoff = backoff or Backoff()
        self._observer = observer or Counters()
        self._log = structlog.get_logger().bind(
            edge=f"{self._connector.host}:{self._connector.port}"
        )
        self._connected_at: float | None = None
        self._started: Callable[[], None] | None = None
        self._again = trio.Event()

    def use(self, token: str, ssl_context: ssl.SSLContext | None) -> None:
        """Show this token, and verify the edge like this, from the next dial on.

        That is now where the dialer waits to try again: what it was refused for may be put right.
        """
        self._connector.use(token, ssl_context)
        self._again.set()
        self._again = trio.Event()

    @property
    def connected(self) -> bool:
        """Whether the edge has welcomed this agent, and the tunnel is up."""
        return self._connected_at is not None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be connected, for ever; `task_status` is told at the first welcome."""
        self._started = task_status.started
        last: str | None = None
        while True:
            began_at = trio.current_time()
            outcome, detail, lasted_s = await self._attempt()
            tried_s = trio.current_time() - began_at - lasted_s
            delay_s = self._backoff.next_delay(outcome, lasted_s, tried_s)
            # What keeps an agent away is worth a warning once, not at each of a thousand tries.
            again = detail == last and (lasted_s == 0 or outcome is Outcome.REPLACED)
            log = self._log.debug if again else self._log.warning
            log("tunnel_not_connected", why=detail, retry_in_s=round(delay_s, 1))
            last = detail
            with trio.move_on_after(delay_s):
                await self._again.wait()

    async def _attempt(self) -> tuple[Outcome, str, float]:
        """Connect and serve once: how that ended, in words too, and how long it was connected."""
        agent_id = ""

        def welcomed(hello: Hello) -> None:
            nonlocal agent_id
            agent_id = hello.agent_id
            self._connected_at = trio.current_time()
            self._log.info("tunnel_connected", agent=agent_id)
            self._observer.tunnel_up(agent_id)
            if self._started is not None:
                self._started()
                self._started = None

        reason = "stopped"
        try:
            async with self._connector.open(control_path) as websocket:
                answering = Answering(
                    websocket, self._connector, self._agent, self._limits, self._observer
                )
                reason = await answering.run(welcomed)
        except NotConnected as error:
            return error.outcome, error.message, 0.0
        finally:
            connected_at, self._connected_at = self._connected_at, None
            if connected_at is not None:
                self._observer.tunnel_down(agent_id, reason)
        default = Outcome.FAILED if connected_at is None else Outcome.LOST
        outcome, detail = _OUTCOMES.get(reason, (default, reason.replace("_", " ")))
        return outcome, detail, trio.current_time() - (connected_at or trio.current_time())
