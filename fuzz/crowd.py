"""Interleavings of clients behind one address: none may ever get what another is to get.

Each interleaving is a little world of up to eight clients and the parts of the edge that decide
whose a message is. Clients launch, shake hands, ping, connect, repeat themselves, give up, resume
and cancel in any order, and every message travels for as long as it likes, within what a client's
own time-outs allow. What the edge decides is held against what the world knows:

- nothing is ever taken for another client's, and no flow is bound to where another client is;
- what comes in time, from a client that has a session, is taken for that session's.

Run many with ``python -m fuzz.crowd --interleavings 1000000``.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from backends.model import BackendId
from backends.slots import Reservation
from moonlight.flows import Flow
from moonlight.identity import ClientId
from moonlight.launch import RtspUrl
from moonlight.ping import Ping
from proxy.flow_table import Door, FlowTable, NoFlow
from proxy.matching import NoMatch, RtspOrigin, match_rtsp
from proxy.sessions import (
    PortRules,
    Session,
    SessionId,
    SessionState,
    SessionTable,
    StreamKey,
)
from proxy.translation import no_connect_data
from proxy.udp_port import Endpoint

max_clients: Final = 8
steps: Final = 90
launch_window_s: Final = 30.0
rest_s: Final = 180.0
handshake_s: Final = 175.0
"""Seven RTSP messages, each with 10 s to connect and 15 s to wait: no client takes longer."""
travel_s: Final = 60.0
"""How long a datagram may be on its way."""
patience_s: Final = 10.0
"""A client whose control gets no acknowledgement for so long leaves, and pings no more."""
home: Final = "192.0.2.1"
elsewhere: Final = "198.51.100.7"
_shared_ports: Final[dict[Flow, int]] = {Flow.VIDEO: 1998, Flow.CONTROL: 1999, Flow.AUDIO: 2000}
_handshake: Final = (
    "OPTIONS",
    "DESCRIBE",
    Flow.AUDIO,
    Flow.VIDEO,
    Flow.CONTROL,
    "ANNOUNCE",
    "PLAY",
)
_reservation: Final = Reservation(BackendId("agent/host"))
_key: Final = StreamKey(bytes(16), 1)
_host_url: Final = RtspUrl(False, "203.0.113.9")


class MixedUp(AssertionError):
    """One client got, or would get, what is another's; or was not known though it had to be."""


@dataclass(slots=True)
class ModelFlow:
    """A flow at the edge, as far as deciding whose a datagram is needs it."""

    session: SessionId
    kind: Flow
    secret: str | int
    own_port: int | None
    client_address: str
    bound_to: Endpoint | None = None
    last_seen_at: Endpoint | None = None


@dataclass(slots=True)
class Told:
    """What a client was told of one flow."""

    port: int
    secret: str | int


@dataclass(slots=True)
class Client:
    """One Moonlight, and what it knows."""

    number: int
    names_label: bool
    """At 15 Mbit/s and above; below it says ``0.0.0.0``."""
    sends_secrets: bool
    """False: as old as before ping payloads."""
    address: str = home
    handshake: int = 0
    """Counts launches and resumes: what an earlier one sent may still travel."""
    label: str = ""
    rtsp_port: int = 0
    launched_at: float = 0.0
    launched_from: str = home
    """Not where it may have moved to: who changes networks in mid-handshake begins anew."""
    next_message: int = len(_handshake)
    told: dict[Flow, Told] = field(default_factory=dict)
    silenced_at: float = math.inf
    """Since when nothing answers it."""

    @property
    def id(self) -> ClientId:
        """Its certificate's."""
        return ClientId(f"client-{self.number}")

    def socket(self, flow: Flow) -> Endpoint:
        """Where it sends a flow's datagrams from, and wants its media."""
        return Endpoint(self.address, 10_000 + 10 * self.number + list(Flow).index(flow))


@dataclass(frozen=True, slots=True)
class RtspMessage:
    """On its way to the edge."""

    client: Client
    handshake: int
    step: int
    origin: RtspOrigin
    began_at: float
    """When the handshake began: all of it arrives within `handshake_s`, or never."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """On its way to the edge: a ping, or control's CONNECT."""

    client: Client
    handshake: int
    flow: Flow
    secret: str | int | None
    source: Endpoint
    port: int
    sent_at: float


class World:
    """One interleaving."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._now = 0.0
        self.outcomes: Counter[str] = Counter()
        self._clients = [
            Client(number, rng.random() < 0.4, rng.random() < 0.7)
            for number in range(rng.randint(1, max_clients))
        ]
        self._rtsp_ports = range(48_010, 48_010 + rng.choice((1, 2, 4, 16)))
        self._own_ports = range(48_100, 48_100 + rng.choice((0, 3, 7, 48)))
        self._table = SessionTable(PortRules(self._rtsp_ports, self._own_ports, rest_s))
        self._flows: FlowTable[ModelFlow] = FlowTable()
        self._running: dict[tuple[SessionId, Flow], ModelFlow] = {}
        self._travelling: list[RtspMessage | Datagram] = []
        self._made = 0
        self._steps: tuple[tuple[int, Callable[[Client], None]], ...] = (
            (6, self._launch_or_resume),
            (25, self._shake_on),
            (6, self._send_rtsp),
            (4, self._repeat_rtsp),
            (25, self._send_datagram),
            (25, self._deliver),
            (2, self._cancel),
            (2, self._fall_silent),
            (2, self._move_house),
            (2, self._let_time_pass),
        )

    def run(self) -> None:
        """Live through it. Raises `MixedUp`."""
        weights = [weight for weight, _ in self._steps]
        actions = self._rng.choices([action for _, action in self._steps], weights, k=steps)
        for action in actions:
            self._now += self._rng.random()
            self._pause_abandoned()
            action(self._rng.choice(self._clients))
        while self._travelling:
            self._deliver(self._clients[0])

    # What clients do.

    def _launch_or_resume(self, client: Client) -> None:
        session = self._table.of_client(client.id)
        try:
            ports = self._table.choose_ports(
                client.id, client.address, self._now, own_udp=not client.sends_secrets
            )
        except LookupError:
            self.outcomes["launch refused"] += 1
            return
        if session is None:
            self._made += 1
            session = Session(
                id=SessionId(f"session-{self._made}"),
                client=client.id,
                client_address=client.address,
                backend=_reservation.backend_id,
                app_id=1,
                app_title="app",
                mode="1920x1080x60",
                key=_key,
                corever=1,
                label=f"{self._made:020x}",
                rtsp_port=ports.rtsp,
                own_udp_ports=ports.own_udp,
                host_rtsp=_host_url,
                state=SessionState.LAUNCHED,
                since=self._now,
                reservation=_reservation,
            )
            self._table.add(session)
            self.outcomes["launched"] += 1
        else:
            self._stop_flows(session)
            self._table.await_handshake(session, client.address, ports, self._now)
            self.outcomes["resumed"] += 1
        client.handshake += 1
        client.launched_at, client.launched_from = self._now, client.address
        client.label, client.rtsp_port = session.label, ports.rtsp
        client.next_message, client.told, client.silenced_at = 0, {}, math.inf

    def _shake_on(self, client: Client) -> None:
        """Go on with a handshake as it mostly goes: one message after the other, at once."""
        for _ in range(self._rng.randint(1, 7)):
            before = client.next_message
            if before == len(_handshake) or not self._is_patient(client):
                return
            self._deliver_rtsp(self._rtsp_message(client, before))
            if client.next_message == before:
                return

    def _send_rtsp(self, client: Client) -> None:
        if client.next_message < len(_handshake) and self._is_patient(client):
            self._travelling.append(self._rtsp_message(client, client.next_message))

    def _repeat_rtsp(self, client: Client) -> None:
        if client.handshake and self._is_patient(client):
            step = self._rng.randint(0, min(client.next_message, len(_handshake) - 1))
            self._travelling.append(self._rtsp_message(client, step))

    def _rtsp_message(self, client: Client, step: int) -> RtspMessage:
        host = client.label if client.names_label else "0.0.0.0"  # noqa: S104 - protocol.md §5
        origin = RtspOrigin(client.rtsp_port, client.launched_from, host)
        return RtspMessage(client, client.handshake, step, origin, client.launched_at)

    def _is_patient(self, client: Client) -> bool:
        return self._now - client.launched_at <= handshake_s

    def _send_datagram(self, client: Client) -> None:
        if client.told and self._now - client.silenced_at <= patience_s:
            flow = self._rng.choice(list(client.told))
            told = client.told[flow]
            if client.sends_secrets:
                secret: str | int | None = told.secret
            else:
                secret = no_connect_data if flow is Flow.CONTROL else None
            self._travelling.append(
                Datagram(
                    client,
                    client.handshake,
                    flow,
                    secret,
                    client.socket(flow),
                    told.port,
                    self._now,
                )
            )

    def _cancel(self, client: Client) -> None:
        session = self._table.of_client(client.id)
        if session is not None:
            self._stop_flows(session)
            self._table.remove(session.id, self._now)

    def _move_house(self, client: Client) -> None:
        client.address = elsewhere if client.address == home else home

    # What time does.

    def _let_time_pass(self, _client: Client) -> None:
        self._now += self._rng.choice((5.0, 31.0, 100.0, 200.0))
        # What would be older than any client's patience has arrived by now.
        self._travelling = [one for one in self._travelling if not self._is_lost(one)]

    def _fall_silent(self, client: Client) -> None:
        session = self._table.of_client(client.id)
        if session is not None:
            self._pause(session)

    def _pause_abandoned(self) -> None:
        for session in self._table:
            late = self._now - session.since > launch_window_s
            if session.state is SessionState.LAUNCHED and late:
                self._pause(session)

    def _pause(self, session: Session) -> None:
        if session.state is not SessionState.PAUSED:
            self._stop_flows(session)
            self._table.move(session, SessionState.PAUSED, self._now)

    # What arrives, and what the edge makes of it.

    def _deliver(self, _client: Client) -> None:
        if not self._travelling:
            return
        message = self._travelling.pop(self._rng.randrange(len(self._travelling)))
        if self._is_lost(message):
            return
        if isinstance(message, RtspMessage):
            self._deliver_rtsp(message)
        else:
            self._deliver_datagram(message)

    def _is_lost(self, message: RtspMessage | Datagram) -> bool:
        if isinstance(message, RtspMessage):
            return self._now - message.began_at > handshake_s
        return self._now - message.sent_at > travel_s

    def _deliver_rtsp(self, message: RtspMessage) -> None:
        client = message.client
        session = match_rtsp(
            message.origin, self._table, now=self._now, launch_window_s=launch_window_s
        )
        if isinstance(session, NoMatch):
            self.outcomes[f"rtsp {session}"] += 1
            if self._must_be_known(message):
                raise MixedUp(f"{client.id} was refused, {session}, though its session waits")
            return
        if session.client != client.id:
            raise MixedUp(f"RTSP of {client.id} was taken for that of {session.client}")
        self.outcomes["rtsp matched"] += 1
        step = _handshake[message.step]
        told = self._set_up(session, step) if isinstance(step, Flow) else None
        if step == "PLAY":
            self._table.move(session, SessionState.STREAMING, self._now)
        if message.handshake == client.handshake and self._rng.random() < 0.9:
            client.next_message = max(client.next_message, message.step + 1)
            if told is not None and isinstance(step, Flow):
                client.told[step] = told
                if step is Flow.CONTROL:
                    client.silenced_at = math.inf

    def _must_be_known(self, message: RtspMessage) -> bool:
        session = self._table.of_client(message.client.id)
        return (
            session is not None
            and message.handshake == message.client.handshake
            and session.state is SessionState.LAUNCHED
            and self._now - session.since <= launch_window_s
            and message.origin.client_address == session.client_address
        )

    def _set_up(self, session: Session, kind: Flow) -> Told:
        self._table.set_up(session)
        own_port = session.own_udp_ports.get(kind)
        secret: str | int = self._rng.getrandbits(32) or 1
        if kind is not Flow.CONTROL:
            secret = f"{self._rng.getrandbits(64):016x}"
        self._stop_flow(session, kind)
        flow = ModelFlow(session.id, kind, secret, own_port, session.client_address)
        self._running[session.id, kind] = flow
        self._flows.add(flow)
        return Told(own_port or _shared_ports[kind], secret)

    def _stop_flows(self, session: Session) -> None:
        for kind in Flow:
            self._stop_flow(session, kind)
        for client in self._clients:
            if client.id == session.client:
                client.silenced_at = min(client.silenced_at, self._now)

    def _stop_flow(self, session: Session, kind: Flow) -> None:
        flow = self._running.pop((session.id, kind), None)
        if flow is not None:
            self._flows.remove(flow)

    def _deliver_datagram(self, datagram: Datagram) -> None:
        found = self._find_flow(datagram)
        client = datagram.client
        if isinstance(found, NoFlow):
            self.outcomes[f"datagram {found}"] += 1
            if self._must_be_bound(datagram):
                raise MixedUp(f"{datagram.flow} of {client.id} was refused, {found}")
            return
        session = self._table.get(found.session)
        if session is None or session.client != client.id or found.kind is not datagram.flow:
            raise MixedUp(f"{datagram.flow} of {client.id} was taken for {found.session}'s")
        self.outcomes["datagram matched"] += 1
        found.bound_to = datagram.source

    def _find_flow(self, datagram: Datagram) -> ModelFlow | NoFlow:
        shared = {port: flow for flow, port in _shared_ports.items()}
        door: Door = shared.get(datagram.port, datagram.port)
        if isinstance(datagram.secret, int):
            return self._flows.of_connect(datagram.secret, datagram.source, door)
        return self._flows.of_ping(Ping(datagram.secret, 1), datagram.source, door)

    def _must_be_bound(self, datagram: Datagram) -> bool:
        """Tell whether the datagram is of a flow that runs and can be known by it."""
        client = datagram.client
        session = self._table.of_client(client.id)
        flow = session and self._running.get((session.id, datagram.flow))
        if not flow or datagram.handshake != client.handshake:
            return False
        at_home = datagram.source.ip == flow.client_address
        if not client.sends_secrets:
            return at_home and datagram.port == flow.own_port
        if datagram.secret != flow.secret:
            return False  # it was set up anew meanwhile
        return at_home or datagram.flow is not Flow.CONTROL


def run(seeds: Iterable[int]) -> Counter[str]:
    """Live through one interleaving for each seed, and count what happened.

    Raises:
        MixedUp: with the seed that shows it.

    """
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        world = World(random.Random(seed))  # noqa: S311 - made to be repeated
        try:
            world.run()
        except MixedUp as error:
            raise MixedUp(f"seed {seed}: {error}") from error
        outcomes.update(world.outcomes)
        outcomes["interleavings"] += 1
    return outcomes


def main() -> None:
    """Run many interleavings on all cores."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.crowd", description=__doc__)
    parser.add_argument("--interleavings", type=int, default=10_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    last = options.first_seed + options.interleavings
    shares = [range(options.first_seed + core, last, cores) for core in range(cores)]
    began = time.monotonic()
    outcomes: Counter[str] = Counter()
    with multiprocessing.Pool(cores) as pool:
        for share in pool.imap_unordered(partial(run), shares):
            outcomes.update(share)
    if options.json:
        print(json.dumps(outcomes))
        return
    for name, count in sorted(outcomes.items()):
        print(f"{count:>12,}  {name}")
    print(f"No mix-up, in {time.monotonic() - began:.0f} s.")


if __name__ == "__main__":
    main()
