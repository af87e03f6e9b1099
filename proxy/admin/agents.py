"""The admin API's agents: who is connected, and which of the UDP ports one reaches from outside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Annotated, Final, Literal

import msgspec
import trio

from backends.store import Store
from moonlight.errors import printable
from proxy.admin.endpoints import Asked, Endpoint, NoParameters
from proxy.admin.paging import Page, PageQuery, page
from proxy.admin.scopes import OPERATORS, READERS
from proxy.admin.values import ById, Time, milliseconds
from proxy.errors import Refused
from proxy.fleet import Fleet
from proxy.prober import ProbeFailed, Prober

max_hostname_characters: Final = 253


class AgentItem(msgspec.Struct, frozen=True):
    """An agent that holds a token, or whose backends are remembered."""

    id: str
    connected: bool
    connected_at: Time | None
    address: str | None
    version: str | None
    rtt_ms: float | None
    holds_token: bool
    backends: list[str]


class ProbeResult(msgspec.Struct, frozen=True):
    """Which ports an agent's datagrams came out at."""

    sent_to: Annotated[str, msgspec.Meta(description="The host that the agent dials.")]
    ports: Annotated[
        dict[str, Literal["reached", "not_reached"]], msgspec.Meta(description="By flow.")
    ]


class AgentsApi:
    """Answers for the agents of a running edge."""

    def __init__(self, store: Store, fleet: Fleet, prober: Prober) -> None:
        self._store = store
        self._fleet = fleet
        self._prober = prober

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        return [
            Endpoint("GET", "/api/v1/agents", self.list_agents, READERS),
            Endpoint(
                "POST",
                "/api/v1/agents/{id}/probe",
                self.probe_ports,
                OPERATORS,
                problems={
                    404: ("agent_not_connected",),
                    409: ("agent_too_old",),
                    429: ("probe_too_soon",),
                },
            ),
        ]

    async def list_agents(self, asked: Asked[NoParameters, PageQuery, None]) -> Page[AgentItem]:
        """List the agents by id."""
        holders = {record.agent_id for record in await self._store.list_agents()}
        backends = self._fleet.backends()
        of_agent: dict[str, list[str]] = {agent: [] for agent in holders}
        for backend in backends:
            of_agent.setdefault(backend.agent_id, []).append(backend.id)
        part = page(of_agent, lambda agent: (0, agent), asked.query)
        items = [
            self._item(agent, of_agent[agent], holds_token=agent in holders) for agent in part.items
        ]
        return Page(items, part.next)

    def _item(self, agent: str, backends: list[str], *, holds_token: bool) -> AgentItem:
        tunnel = self._fleet.tunnel_of(agent)
        return AgentItem(
            id=agent,
            connected=tunnel is not None,
            connected_at=None if tunnel is None else _moment(tunnel.connected_at),
            address=None if tunnel is None else tunnel.remote_address,
            version=None if tunnel is None else printable(tunnel.hello.software) or None,
            rtt_ms=None if tunnel is None else milliseconds(tunnel.rtt_s),
            holds_token=holds_token,
            backends=backends,
        )

    async def probe_ports(self, asked: Asked[ById, NoParameters, None]) -> ProbeResult:
        """Have a connected agent send a few UDP datagrams to the edge, and tell which arrive."""
        tunnel = self._fleet.tunnel_of(asked.path.id)
        if tunnel is None:
            raise Refused(404, "agent_not_connected", "No agent of that id is connected.")
        try:
            probed = await self._prober.probe(tunnel)
        except ProbeFailed as error:
            if error.retry_after_s is None:
                raise Refused(409, error.reason, str(error)) from error
            headers = {"Retry-After": str(ceil(error.retry_after_s))}
            raise Refused(429, error.reason, str(error), headers=headers) from error
        return ProbeResult(
            printable(probed.sent_to, max_hostname_characters),
            {
                str(flow): "reached" if flow in probed.reached else "not_reached"
                for flow in self._prober.ports
            },
        )


def _moment(at: float) -> datetime:
    """Return a time of trio's clock as one of the calendar."""
    return datetime.now(UTC) - timedelta(seconds=trio.current_time() - at)
