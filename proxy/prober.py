"""Finds out whether players can reach the UDP ports: a connected agent sends probes from outside.

What a probe proves is its nonce, which only the agent was told. Nothing is ever answered, so that
a probe costs the edge no datagram.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import trio

from moonlight.flows import Flow
from proxy.errors import EdgeError
from proxy.flow_table import Door
from revdial.errors import RequestFailed, TunnelError
from revdial.probes import nonce_bytes, probe_method, read_sent
from revdial.tunnel import AgentTunnel

min_interval_s: Final = 12.0
"""Between two probes of one agent: a little more than agents insist on."""
request_timeout_s: Final = 6.0
arrival_timeout_s: Final = 1.5
"""For the datagrams, once the agent says that it has sent them."""
_too_old: Final = "unknown_method"


class ProbeFailed(EdgeError):
    """No probe took place, so nothing is known; `retry_after_s` where waiting helps."""

    def __init__(self, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe showed."""

    reached: frozenset[Flow]
    sent_to: str
    """The host that the agent dials: usually, but not surely, the edge's public name."""


@dataclass(slots=True)
class _UnderWay:
    nonce: bytes = field(repr=False)
    wanted: frozenset[Flow]
    reached: set[Flow] = field(default_factory=set)
    complete: trio.Event = field(default_factory=trio.Event)


class Prober:
    """Asks agents for probes, one at a time, and recognises them among what strangers send.

    Args:
        ports: those that players need, by flow; at most as many as agents take.

    """

    def __init__(self, ports: Mapping[Flow, int]) -> None:
        self.ports = dict(ports)
        self._under_way: _UnderWay | None = None
        self._not_before: dict[str, float] = {}
        """When each agent that was asked lately may be asked again."""

    def take(self, door: Door, nonce: bytes) -> bool:
        """Note a probe that came to a port; False where nobody was asked for it."""
        probe = self._under_way
        if (
            probe is None
            or not hmac.compare_digest(nonce, probe.nonce)
            or not isinstance(door, Flow)
        ):
            return False
        probe.reached.add(door)
        if probe.reached >= probe.wanted:
            probe.complete.set()
        return True

    async def probe(self, tunnel: AgentTunnel) -> Probed:
        """Have an agent send probes, and tell where they came out.

        Raises:
            ProbeFailed: it was too soon, or the agent cannot or did not do it.

        """
        self._take_turn(tunnel.agent_id, trio.current_time())
        nonce = secrets.token_bytes(nonce_bytes)
        self._under_way = probe = _UnderWay(nonce, frozenset(self.ports))
        try:
            params = {"nonce": nonce.hex(), "ports": list(self.ports.values())}
            sent = read_sent(await tunnel.request(probe_method, params, request_timeout_s))
            with trio.move_on_after(arrival_timeout_s):
                await probe.complete.wait()
        except RequestFailed as error:
            if error.reason == _too_old:
                raise ProbeFailed(
                    "agent_too_old", f"The agent {tunnel.agent_id} is older: update moonhost there."
                ) from error
            raise ProbeFailed(error.reason, f"The agent did not send probes: {error}.") from error
        except TunnelError as error:
            raise ProbeFailed(error.reason, f"The agent did not send probes: {error}.") from error
        finally:
            self._under_way = None
        return Probed(frozenset(probe.reached), sent.host)

    def _take_turn(self, agent_id: str, now: float) -> None:
        self._not_before = {name: at for name, at in self._not_before.items() if at > now}
        wait_s = self._not_before.get(agent_id, now) - now
        if self._under_way is not None:
            wait_s = max(wait_s, request_timeout_s + arrival_timeout_s)
        if wait_s > 0:
            raise ProbeFailed(
                "probe_too_soon", f"A probe was asked for just now; wait {wait_s:.0f} s.", wait_s
            )
        self._not_before[agent_id] = now + min_interval_s
