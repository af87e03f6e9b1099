"""The admin API's part about agents: who is connected, and which UDP ports one reaches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from backends.store import Store
from proxy.admin.http import Endpoint, problem
from proxy.admin.scopes import OPERATORS, READERS
from proxy.fleet import Fleet
from proxy.prober import Probed, ProbeFailed, Prober
from revdial.errors import printable

_conflict: Final = 409
_too_many: Final = 429


class AgentsApi:
    """Answers for the agents of a running edge."""

    def __init__(self, store: Store, fleet: Fleet, prober: Prober) -> None:
        self._store = store
        self._fleet = fleet
        self._prober = prober

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        return [
            Endpoint("GET", "/api/v1/agents", self._list, READERS),
            Endpoint("POST", "/api/v1/agents/{agent}/probe", self._probe, OPERATORS),
        ]

    async def _list(self, request: Request) -> Response:
        holders = {record.agent_id for record in await self._store.list_agents()}
        backends = self._fleet.backends()
        known = holders | {backend.agent_id for backend in backends}
        of_agent: dict[str, list[str]] = {agent: [] for agent in known}
        for backend in backends:
            of_agent[backend.agent_id].append(backend.id)
        items = [
            self._agent(agent, of_agent[agent], holds_token=agent in holders)
            for agent in sorted(known)
        ]
        return JSONResponse({"items": items, "next": None})

    def _agent(self, agent: str, backends: list[str], *, holds_token: bool) -> dict[str, Any]:
        tunnel = self._fleet.tunnel_of(agent)
        return {
            "id": agent,
            "connected": tunnel is not None,
            "connected_at": None if tunnel is None else _moment(tunnel.connected_at),
            "address": None if tunnel is None else tunnel.remote_address,
            "version": None if tunnel is None else printable(tunnel.hello.software) or None,
            "rtt_ms": None
            if tunnel is None or tunnel.rtt_s is None
            else round(tunnel.rtt_s * 1000, 1),
            "holds_token": holds_token,
            "backends": backends,
        }

    async def _probe(self, request: Request) -> Response:
        agent = request.path_params["agent"]
        tunnel = self._fleet.tunnel_of(agent)
        if tunnel is None:
            return problem(404, "agent_not_connected", "No agent of that id is connected.")
        try:
            probed = await self._prober.probe(tunnel)
        except ProbeFailed as error:
            status = _conflict if error.retry_after_s is None else _too_many
            refusal = problem(status, error.reason, str(error))
            if error.retry_after_s is not None:
                refusal.headers["Retry-After"] = str(ceil(error.retry_after_s))
            return refusal
        return JSONResponse(self._told(probed))

    def _told(self, probed: Probed) -> dict[str, Any]:
        return {
            "sent_to": printable(probed.sent_to),
            "ports": {
                str(flow): "reached" if flow in probed.reached else "not_reached"
                for flow in self._prober.ports
            },
        }


def _moment(at: float) -> str:
    """Write a time of trio's clock as one of the calendar."""
    moment = datetime.now(UTC) - timedelta(seconds=trio.current_time() - at)
    return moment.isoformat(timespec="seconds")
