"""Whose flow a datagram belongs to that comes to a shared port: decided by what it carries.

A flow is found by the secret that its client was given: 16 characters in the pings of video and
audio, 32 bits in the CONNECT of control. Clients too old to send those have ports of their own;
there the port together with the address that launched the session takes the secret's place.
Whatever fits no flow, or not exactly, is refused under a reason: a guess would hand one player's
stream to another.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from moonlight.flows import Flow
from proxy.sessions import SessionId
from proxy.translation import no_connect_data

if TYPE_CHECKING:
    from moonlight.ping import Ping
    from proxy.udp_port import Endpoint


class NoFlow(enum.StrEnum):
    """Why a datagram has no flow."""

    UNKNOWN_SECRET = "unknown_secret"  # noqa: S105 - a reason
    """No flow has that secret, or not any more."""

    WRONG_PORT = "secret_of_another_port"
    """The secret is a flow's whose client was told another port."""

    PING_WITHOUT_PAYLOAD = "ping_without_payload"
    """Nothing tells whose it is: no flow of that address has this port for itself."""

    CONTROL_FROM_UNPROVEN_ADDRESS = "control_from_unproven_address"
    """The connect data fits; but 32 bits can be found by flooding, an address cannot."""


Door: TypeAlias = Flow | int
"""Where a datagram came to: the port that all clients share for a flow, or one of the pool."""


class Claimant(Protocol):
    """What has to be known of a flow."""

    kind: Flow
    session: SessionId
    secret: str | int
    own_port: int | None
    """The port that only this flow has; None: it shares those of all."""
    client_address: str
    """The IP address that launched or resumed the session, or that its control has proven since."""
    bound_to: Endpoint | None
    last_seen_at: Endpoint | None
    """Where an earlier edge process knew its client to be."""


_C = TypeVar("_C", bound=Claimant)


class FlowTable(Generic[_C]):
    """The flows of an edge by what finds them."""

    def __init__(self) -> None:
        self._by_secret: dict[tuple[Flow, str | int], _C] = {}
        self._by_own_port: dict[int, _C] = {}
        self._unclaimed: dict[Endpoint, _C] = {}
        self._of_session: dict[SessionId, list[_C]] = {}

    def __len__(self) -> int:
        return len(self._by_secret)

    def add(self, flow: _C) -> None:
        """Let a flow be found, instead of one that its place was taken from."""
        self._by_secret[flow.kind, flow.secret] = flow
        if flow.own_port is not None:
            self._by_own_port[flow.own_port] = flow
        if flow.kind is Flow.CONTROL and flow.last_seen_at is not None:
            self._unclaimed[flow.last_seen_at] = flow
        self._of_session.setdefault(flow.session, []).append(flow)

    def remove(self, flow: _C) -> None:
        """Let a flow be found no more; what has taken its place stays."""
        _forget(self._by_secret, (flow.kind, flow.secret), flow)
        if flow.own_port is not None:
            _forget(self._by_own_port, flow.own_port, flow)
        if flow.last_seen_at is not None:
            _forget(self._unclaimed, flow.last_seen_at, flow)
        others = [one for one in self._of_session.get(flow.session, ()) if one is not flow]
        if others:
            self._of_session[flow.session] = others
        else:
            self._of_session.pop(flow.session, None)

    def of_ping(self, ping: Ping, client: Endpoint, door: Door) -> _C | NoFlow:
        """Return the flow of a ping of video or audio."""
        if ping.payload is None:
            own = self._own(client, door)
            if own is None or own.kind is Flow.CONTROL:
                return NoFlow.PING_WITHOUT_PAYLOAD
            return own
        kinds = (Flow.VIDEO, Flow.AUDIO) if isinstance(door, int) else (door,)
        return self._of_secret(kinds, ping.payload, door)

    def of_connect(self, data: int, client: Endpoint, door: Door) -> _C | NoFlow:
        """Return the control flow of an ENet CONNECT."""
        if data == no_connect_data and (own := self._own(client, door)) is not None:
            return own if own.kind is Flow.CONTROL else NoFlow.UNKNOWN_SECRET
        flow = self._of_secret((Flow.CONTROL,), data, door)
        if not isinstance(flow, NoFlow) and not self._has_proven(flow, client.ip):
            return NoFlow.CONTROL_FROM_UNPROVEN_ADDRESS
        return flow

    def of_midway(self, client: Endpoint) -> _C | None:
        """Return, once, the control flow that an earlier edge process knew at that address."""
        return self._unclaimed.pop(client, None)

    def _own(self, client: Endpoint, door: Door) -> _C | None:
        flow = self._by_own_port.get(door) if isinstance(door, int) else None
        return flow if flow is not None and flow.client_address == client.ip else None

    def _of_secret(self, kinds: tuple[Flow, ...], secret: str | int, door: Door) -> _C | NoFlow:
        own_port = door if isinstance(door, int) else None
        for kind in kinds:
            flow = self._by_secret.get((kind, secret))
            if flow is not None:
                return flow if flow.own_port == own_port else NoFlow.WRONG_PORT
        return NoFlow.UNKNOWN_SECRET

    def _has_proven(self, control: _C, ip: str) -> bool:
        return ip == control.client_address or any(
            flow.bound_to is not None and flow.bound_to.ip == ip
            for flow in self._of_session.get(control.session, ())
        )


_Key = TypeVar("_Key")


def _forget(table: dict[_Key, _C], key: _Key, flow: _C) -> None:
    """Take a flow out of a table, unless its place has gone to another."""
    if table.get(key) is flow:
        del table[key]
