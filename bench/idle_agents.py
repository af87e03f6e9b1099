"""Many idle agents in one process, each as it really dials: for `bench.idle`.

Told a plan on its first line, it dials with every agent at once and prints a line once all are
connected: `Welcomes`. Told `again_own` or `again_shared`, it prints ``noted``, forgets who is
connected, and prints the next such line once all have connected anew; from then on they dial from
an address each, or all from one. Everything an agent does by itself is the product's.
"""

from __future__ import annotations

import json
import logging
import socket
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, NoReturn

import structlog
import trio

from revdial.dialer import TunnelDialer
from revdial.messages import AppOffer, Dial, Heartbeat, Hello, HostOffer, HostReport, Json
from revdial.observer import Counters

again_own: Final = "again_own"
again_shared: Final = "again_shared"
noted: Final = "noted"
shared_source: Final = "127.0.0.1"
_sources_per_block: Final = 250
_first_block: Final = 16

# Python 3.11 does not name it: the kernel chooses the port when it knows both ends.
_IP_BIND_ADDRESS_NO_PORT: Final = 24


@dataclass(frozen=True, slots=True)
class IdleAgent:
    """Who one agent is."""

    id: str
    token: str
    source: str
    """The address it dials from."""


@dataclass(frozen=True, slots=True)
class IdlePlan:
    """What one process of agents does."""

    url: str
    ca_file: str
    agents: tuple[IdleAgent, ...]

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> IdlePlan:
        """Return what `to_json` made a line of."""
        plan = json.loads(line)
        plan["agents"] = tuple(IdleAgent(**agent) for agent in plan["agents"])
        return cls(**plan)


def source_of(index: int) -> str:
    """Return the loopback address of the agent with that number; each has its own."""
    block, last = divmod(index, _sources_per_block)
    second, third = divmod(block, _sources_per_block)
    return f"127.{_first_block + second}.{third}.{1 + last}"


class Welcomes(Counters):
    """When each agent was welcomed, as long as it stays connected; in seconds of `clock`."""

    def __init__(self, agents: int, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._agents = agents
        # Not the monotonic clock: the edge's log, which this is compared with, has the wall's.
        self._clock = clock
        self._at: dict[str, float] = {}
        self._complete = trio.Event()

    def tunnel_up(self, agent_id: str) -> None:
        """See `TunnelObserver`."""
        self._at[agent_id] = self._clock()
        if len(self._at) == self._agents:
            self._complete.set()

    def tunnel_down(self, agent_id: str, reason: str) -> None:
        """See `TunnelObserver`."""
        self._at.pop(agent_id, None)

    def forget(self) -> None:
        """Count from here on only who is welcomed anew."""
        self._at.clear()
        self._complete = trio.Event()

    async def all(self) -> list[float]:
        """Return when each was welcomed, once all are connected."""
        await self._complete.wait()
        return sorted(self._at.values())


class _Sockets(trio.abc.SocketFactory):
    """Sockets whose other end sees the address of the agent that made them."""

    def __init__(self) -> None:
        self.own: ContextVar[str] = ContextVar("source")
        self.shared = False

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,  # noqa: A002 - trio's name for it
        proto: int = 0,
    ) -> trio.socket.SocketType:
        made = socket.socket(family, type, proto)
        made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        made.bind((shared_source if self.shared else self.own.get(), 0))
        return trio.socket.from_stdlib_socket(made)


async def run(plan: IdlePlan) -> None:
    """Be those agents until standard input ends."""
    sockets = _Sockets()
    trio.socket.set_custom_socket_factory(sockets)
    tls = ssl.create_default_context(cafile=plan.ca_file)
    welcomes = Welcomes(len(plan.agents))

    async def serve(agent: IdleAgent) -> None:
        sockets.own.set(agent.source)
        await _dialer(plan.url, agent, tls, welcomes).run()

    async with trio.open_nursery() as nursery:
        for agent in plan.agents:
            nursery.start_soon(serve, agent)
        _tell(await welcomes.all())
        async for line in trio.wrap_file(sys.stdin):
            sockets.shared = line.strip() == again_shared
            welcomes.forget()
            _tell(noted)
            _tell(await welcomes.all())
        nursery.cancel_scope.cancel()


def _dialer(url: str, agent: IdleAgent, tls: ssl.SSLContext, welcomes: Welcomes) -> TunnelDialer:
    return TunnelDialer(
        url,
        agent.token,
        tls,
        hello=partial(hello_of, agent.id),
        heartbeat=_heartbeat,
        check=_not_asked,
        on_stream=_not_asked,
        on_flow=_not_asked,
        on_request=_no_request,
        observer=welcomes,
    )


def hello_of(agent_id: str) -> Hello:
    """Return what an agent with one host and one app says first."""
    host = HostOffer(name="host", apps=(AppOffer("Steam", 1),))
    return Hello(agent_id=agent_id, region="here", software="moonhost", hosts=(host,))


async def _heartbeat() -> Heartbeat:
    ports = {"http": True, "https": True, "rtsp": True}
    return Heartbeat(hosts=(HostReport("host", reachable=True, ports=ports, sessions=0),))


async def _not_asked(dial: Dial, *_: object) -> NoReturn:
    raise AssertionError(f"an idle agent was asked for {dial.service}")


def _no_request(method: str, _: dict[str, Json]) -> Awaitable[dict[str, Json]]:
    raise AssertionError(f"an idle agent was asked to {method}")


def _tell(what: Any) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    """Run as the benchmark expects."""
    # A thousand agents that lose their edge say so a thousand times.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    trio.run(run, IdlePlan.from_json(sys.stdin.readline()))


if __name__ == "__main__":
    main()
