"""What edge and agent tell each other on the control WebSocket: small tagged JSON objects.

Text messages both ways. The first message of an agent is `Hello`, the edge's first is `Welcome`;
after that either side sends what it has in any order. Unknown fields are ignored, so that a newer
peer may add some; an unknown type is an error, so that nothing important is dropped silently.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

from revdial.errors import BadMessage
from revdial.framing import Buffer

protocol_version = 2
max_control_message_bytes = 65_536
max_count = 2**53
max_flow_reports = 512

Json: TypeAlias = Any

Short = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Label = Annotated[str, msgspec.Meta(max_length=128)]
Sentence = Annotated[str, msgspec.Meta(max_length=1024)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=0, le=max_count)]
Latitude = Annotated[float, msgspec.Meta(ge=-90, le=90)]
Longitude = Annotated[float, msgspec.Meta(ge=-180, le=180)]

StreamService = Literal["http", "https", "rtsp"]
Service = Literal["http", "https", "rtsp", "udp"]


class CloseCode(IntEnum):
    """Why one side closed a WebSocket, in the range RFC 6455 leaves to applications."""

    REPLACED = 4001
    """A newer connection of the same agent took over."""
    PROTOCOL_ERROR = 4002
    """A message that does not belong here; the reason says which."""
    HELLO_MISMATCH = 4003
    """The hello names another agent than the token does."""
    HELLO_TIMEOUT = 4004
    """No hello in time."""
    VERSION_MISMATCH = 4005
    """The two sides speak different versions of this protocol."""
    DIAL_FAILED = 4006
    """The agent picked up a data connection and could not reach the host after all."""
    DONE = 4007
    """The edge has no more use for this tunnel, as when the agent's token was revoked."""


class _Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower, omit_defaults=True):
    pass


class AppOffer(msgspec.Struct, frozen=True):
    """One app of a host, under the id that host gave it."""

    title: Short
    id: int
    hdr: bool = False


class HostOffer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One host an agent can reach.

    `own_addresses`: it sees each origin (see `Dial`) at an address of its own. `by_address`: it
    goes by addresses alone, says its operator.
    """

    name: Short
    kind: Label = "wolf"
    max_sessions: Count = 1
    apps: Annotated[tuple[AppOffer, ...], msgspec.Meta(max_length=512)] = ()
    http_port: Port = 47989
    https_port: Port = 47984
    rtsp_port: Port = 48010
    own_addresses: bool = True
    by_address: bool = False


class GpuReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Memory of one GPU; `None` where the driver does not tell."""

    name: Label
    vendor: Label = ""
    memory_used_bytes: Count | None = None
    memory_total_bytes: Count | None = None


class HostReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one host is now; `None` means not known, or unchanged since the hello for `apps`.

    `gpus` are those that the host uses, as far as its agent can tell.
    """

    name: Short
    reachable: bool
    ports: dict[Label, bool] = {}
    sessions: Count | None = None
    apps: Annotated[tuple[AppOffer, ...], msgspec.Meta(max_length=512)] | None = None
    gpus: Annotated[tuple[GpuReport, ...], msgspec.Meta(max_length=16)] = ()


class FlowReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an agent has dropped of one flow before the tunnel, and how long it makes it wait.

    `dropped` are datagrams since the flow began, by reason; the age is that of the oldest
    datagram that waited for the tunnel, at its highest since the heartbeat before.
    """

    session: Label
    flow: Label
    dropped: Annotated[dict[Label, Count], msgspec.Meta(max_length=16)] = {}
    dropped_frames: Count = 0
    backlog_age_ms: Count = 0


class Hello(_Message, frozen=True):
    """Agent to edge, first: who this is and which hosts it has."""

    agent_id: Short
    region: Label = ""
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    software: Label = ""
    hosts: Annotated[tuple[HostOffer, ...], msgspec.Meta(max_length=64)] = ()
    version: int = protocol_version


class Heartbeat(_Message, frozen=True):
    """Agent to edge, every `Welcome.heartbeat_interval_s`: the hosts, and the agent's machine.

    CPU and network are of the time since the heartbeat before; `None` means not known. `losses`
    are totals since the agent started, by reason; `flows` those of which something was dropped or
    waits, as far as they fit.
    """

    hosts: Annotated[tuple[HostReport, ...], msgspec.Meta(max_length=64)] = ()
    cpu_percent: float | None = None
    memory_used_bytes: Count | None = None
    memory_total_bytes: Count | None = None
    network_receive_bits_per_s: Count | None = None
    network_send_bits_per_s: Count | None = None
    losses: Annotated[dict[Label, Count], msgspec.Meta(max_length=64)] = {}
    flows: Annotated[tuple[FlowReport, ...], msgspec.Meta(max_length=max_flow_reports)] = ()


class DialFailed(_Message, frozen=True):
    """Agent to edge: nobody will pick up the data id of that `Dial`."""

    id: Short
    reason: Label
    message: Sentence = ""


class Reply(_Message, frozen=True):
    """Agent to edge: the answer to a `Request`; `reason` and `message` are set where not `ok`."""

    id: Short
    ok: bool
    result: dict[str, Json] = {}
    reason: Label = ""
    message: Sentence = ""


class Welcome(_Message, frozen=True):
    """Edge to agent, first: the hello was accepted."""

    heartbeat_interval_s: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    software: Label = ""
    version: int = protocol_version


class Dial(_Message, frozen=True):
    """Edge to agent: open a data WebSocket with this id and join it to a host.

    `origin` stands for whom the host should see as one address (a client; the agent maps it to a
    source address of its own). `port` is needed for "udp" and overrides the service's port else.
    `flow` and `session` are set where `kind` is "flow".
    """

    id: Short
    kind: Literal["stream", "flow"]
    host: Short
    service: Service
    origin: Label = ""
    port: Port | None = None
    flow: Label | None = None
    session: Label | None = None

    def __repr__(self) -> str:
        # The id is a capability until it is picked up: keep it out of logs.
        return f"Dial({self.kind} {self.host}/{self.service})"


class Spare(_Message, frozen=True):
    """Edge to agent: open a data WebSocket with this id, and wait there for a `Dial` as text."""

    id: Short

    def __repr__(self) -> str:
        return "Spare(…)"


class Request(_Message, frozen=True):
    """Edge to agent: do something and answer within `timeout_s`."""

    id: Short
    method: Label
    params: dict[str, Json] = {}
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0

    def __repr__(self) -> str:
        # A PIN may be among the parameters.
        return f"Request({self.method})"


class FlowRate(_Message, frozen=True):
    """Edge to agent, on a flow's data WebSocket as text: what the client asked of the host."""

    kbps: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


FromAgent: TypeAlias = Hello | Heartbeat | DialFailed | Reply
FromEdge: TypeAlias = Welcome | Dial | Spare | Request

_T = TypeVar("_T")

_encoder = msgspec.json.Encoder()


def encode(message: FromAgent | FromEdge) -> str:
    """One message as the text of a WebSocket message.

    `BadMessage` where the peer would not accept it: better here, where one call fails, than
    there, where it would end the tunnel.
    """
    text = _encoder.encode(message)
    name = type(message).__name__
    if len(text) > max_control_message_bytes:
        raise BadMessage("too_large", f"{name} of {len(text)} bytes is too large")
    try:
        _any.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise BadMessage("unsendable", f"{name} has a field that is out of bounds") from None
    return text.decode()


def decode_from_agent(text: str | Buffer) -> FromAgent:
    """What an agent sent; `BadMessage` for anything else."""
    return _decode(text, _from_agent)


def encode_rate(rate: FlowRate) -> str:
    """The rate as the text of a WebSocket message."""
    return _encoder.encode(rate).decode()


def decode_rate(text: str) -> FlowRate:
    """What the edge said of a flow; `BadMessage` for anything else."""
    return _decode(text, _flow_rate)


def decode_from_edge(text: str | Buffer) -> FromEdge:
    """What the edge sent; `BadMessage` for anything else."""
    return _decode(text, _from_edge)


_from_agent: msgspec.json.Decoder[FromAgent] = msgspec.json.Decoder(FromAgent)
_from_edge: msgspec.json.Decoder[FromEdge] = msgspec.json.Decoder(FromEdge)
_flow_rate: msgspec.json.Decoder[FlowRate] = msgspec.json.Decoder(FlowRate)
_any: msgspec.json.Decoder[FromAgent | FromEdge] = msgspec.json.Decoder(FromAgent | FromEdge)


def _decode(text: str | Buffer, decoder: msgspec.json.Decoder[_T]) -> _T:
    if not isinstance(text, str):
        raise BadMessage("binary_control_message", "a control message must be text")
    if len(text) > max_control_message_bytes:
        raise BadMessage("too_large", "a control message is too large")
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # The library's text may quote the peer: say only what kind of message was refused.
        raise BadMessage("malformed", "a control message is not one of this protocol") from None
