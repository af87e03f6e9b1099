"""Wakes hosts that sleep: on magic packets for the edge, and when somebody wants to play there.

Whoever knows the edge's hardware address can send such a packet, from any address that they care
to write into it. So nothing is ever answered, and how often a backend is woken is bounded.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final

import structlog
import trio

from backends.apps import normalise_title
from backends.model import BackendId
from moonlight.identity import short_id
from moonlight.wake import woken_mac
from proxy.config import ProxyConfig
from proxy.errors import EdgeError, StartFailed
from proxy.events import EventKind
from proxy.fleet import Fleet
from proxy.losses import PortDrop
from proxy.udp_port import Arrival, UdpPort
from proxy.wake_plan import (
    WakeAction,
    WakeHistory,
    WakeOutcome,
    WakeRule,
    actions,
    is_asleep,
)
from proxy.webhook import Webhook
from revdial.errors import TunnelError

_log = structlog.get_logger()

packet_pause_s: Final = 1.0
"""Magic packets that come so soon after one are the same wish, sent to other ports."""
agent_timeout_s: Final = 10.0


class Waker:
    """Has sleeping backends woken, each one in the way that its rule says.

    Args:
        config: the edge's configuration.
        mac: the hardware address that players are told.
        fleet: the backends, and the agents to ask.
        addresses: where the edge listens, and magic packets are heard.

    """

    def __init__(
        self, config: ProxyConfig, mac: bytes, fleet: Fleet, addresses: Iterable[str]
    ) -> None:
        self.wakes: Counter[str] = Counter()
        """What came of all wishes, by `WakeOutcome`."""
        self.dropped: Counter[str] = Counter()
        """Datagrams at the ports for magic packets that are none for this edge."""
        self._config = config
        self._mac = mac
        self._fleet = fleet
        self._addresses = tuple(addresses)
        self._rules = tuple(host.rule for host in config.wake.hosts)
        self._history = WakeHistory(config.wake.min_interval_s)
        self._heard_at = -packet_pause_s
        self._webhook: Webhook | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen for magic packets and do what follows, until cancelled.

        Raises:
            StartFailed: a configured port, or what the webhook needs, cannot be had.

        """
        async with AsyncExitStack() as stack:
            if self._config.wake.webhook is not None:
                opening = Webhook.open(self._config.wake.webhook)
                self._webhook = await stack.enter_async_context(opening)
            ports = []
            for number in self._config.wake_ports():
                for address in self._addresses:
                    if (port := self._open(address, number)) is not None:
                        stack.callback(port.close)
                        ports.append(port)
            async with trio.open_nursery() as self._nursery:
                for port in ports:
                    self._nursery.start_soon(port.run, self._on_arrival)
                self._nursery.start_soon(trio.sleep_forever)
                task_status.started()

    def _open(self, address: str, number: int) -> UdpPort | None:
        try:
            return UdpPort(address, number)
        except OSError as error:
            if self._config.wake.ports is not None:
                raise StartFailed(
                    "wake_port_taken",
                    f"cannot listen on UDP port {number} of {address} for magic packets: "
                    f"{error.strerror}. Take it out of wake.ports, or give the edge the right "
                    "to it (below 1024: CAP_NET_BIND_SERVICE).",
                ) from error
            _log.warning(
                "wake_port_skipped",
                port=number,
                local_address=address,
                why=error.strerror,
                remedy="the other ports do; list those that you want as wake.ports",
            )
            return None

    def _on_arrival(self, arrival: Arrival) -> None:
        if not self.take_magic_packet(arrival):
            self.dropped[PortDrop.NO_MAGIC_PACKET] += 1

    def take_magic_packet(self, arrival: Arrival) -> bool:
        """Wake what sleeps if a datagram is a magic packet for this edge; False if it is not."""
        if woken_mac(arrival.datagram) != self._mac:
            return False
        now = trio.current_time()
        if now - self._heard_at < packet_pause_s:
            self.wakes[WakeOutcome.REPEATED] += 1
            return True
        self._heard_at = now
        asleep = self._asleep(self._rules)
        if not asleep:
            self.wakes[WakeOutcome.NOTHING_ASLEEP] += 1
        elif not self._wake(asleep, "magic_packet", arrival.client.ip):
            self.wakes[WakeOutcome.TRIED_LATELY] += 1
        return True

    def wake_for(self, app_title: str, regions: frozenset[str] | None, *, by: str) -> bool:
        """Wake what sleeps of the backends with an app; tell whether any is waking up now.

        `regions` are those that the player may use (None for all), `by` is the client.
        """
        title = normalise_title(app_title)

        def may_be_played(rule: WakeRule) -> bool:
            backend = self._fleet.backend(rule.backend)
            if backend is None or backend.apps.get(title) is None:
                return False
            return regions is None or backend.region in regions

        return self._wake_up(filter(may_be_played, self._rules), by)

    def wake_unknown(self, regions: frozenset[str] | None, *, by: str) -> bool:
        """Wake the backends whose apps and region are not known; as `wake_for`."""
        if regions is not None:
            return False
        return self._wake_up([r for r in self._rules if not self._fleet.backend(r.backend)], by)

    def wake(self, backend: BackendId, *, by: str) -> bool:
        """Wake one backend if it is asleep; as `wake_for`."""
        return self._wake_up([rule for rule in self._rules if rule.backend == backend], by)

    def _wake_up(self, rules: Iterable[WakeRule], by: str) -> bool:
        asleep = self._asleep(rules)
        self._wake(asleep, "player", short_id(by))
        now = trio.current_time()
        return any(self._history.is_waking(rule.backend, now) for rule in asleep)

    def _asleep(self, rules: Iterable[WakeRule]) -> list[WakeRule]:
        drains = self._fleet.drains()
        return [
            rule
            for rule in rules
            if is_asleep(self._fleet.backend(rule.backend))
            and not any(drain.covers(rule.backend) for drain in drains)
        ]

    def _wake(self, asleep: Iterable[WakeRule], cause: str, by: str) -> bool:
        """Begin what may be done now; False if that is nothing."""
        now = trio.current_time()
        due = actions(self._history.due(asleep, now))
        for action in due:
            self._history.begin(action, now)
            offline = action.agent is not None and not self._fleet.has_agent(action.agent)
            if offline:
                why = f"the agent {action.agent} is not connected to this edge"
                self._settle(action, WakeOutcome.AGENT_OFFLINE, cause, by, why)
            else:
                assert self._nursery is not None  # noqa: S101 - it runs before anybody can ask
                self._nursery.start_soon(self._act, action, cause, by)
        return bool(due)

    async def _act(self, action: WakeAction, cause: str, by: str) -> None:
        by_agent = action.agent is not None
        outcome = WakeOutcome.AGENT_FAILED if by_agent else WakeOutcome.WEBHOOK_FAILED
        why: str | None = None
        try:
            if action.agent is not None:
                await self._ask_agent(action.agent, action)
            else:
                await self._call_webhook(action)
            outcome = WakeOutcome.AGENT_SENT if by_agent else WakeOutcome.WEBHOOK_CALLED
        except (TunnelError, EdgeError) as error:
            why = str(error)
        except Exception:
            # Whatever it was, players of hosts that are awake have nothing to do with it.
            _log.exception("wake_broke_off", backends=list(action.backends))
            why = "see the log"
        self._settle(action, outcome, cause, by, why)

    async def _ask_agent(self, agent: str, action: WakeAction) -> None:
        tunnel = self._fleet.tunnel(BackendId(agent))
        await tunnel.request("wake_host", {"neighbour": action.neighbour}, agent_timeout_s)

    async def _call_webhook(self, action: WakeAction) -> None:
        assert self._webhook is not None  # noqa: S101 - the configuration has one for such rules
        at = datetime.now(UTC).isoformat(timespec="seconds")
        payload = {"event": "wake", "backends": list(action.backends), "at": at}
        await self._webhook.call(f"wake_{secrets.token_hex(12)}", payload)

    def _settle(
        self, action: WakeAction, outcome: WakeOutcome, cause: str, by: str, why: str | None
    ) -> None:
        """Note what came of an action: counted, kept for each backend, logged once."""
        self._history.end(action, failed=why is not None)
        self.wakes[outcome] += 1
        for backend in action.backends:
            self._fleet.events.keep(
                EventKind.WAKE, backend, outcome=str(outcome), cause=cause, by=by
            )
        log = _log.info if why is None else _log.warning
        log(
            "wake_settled",
            backends=list(action.backends),
            outcome=str(outcome),
            agent=action.agent,
            neighbour=action.neighbour,
            cause=cause,
            **({"client": by} if cause == "player" else {"client_address": by}),
            **({} if why is None else {"why": why}),
        )
