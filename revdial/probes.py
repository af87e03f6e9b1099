"""How an agent shows whether the edge's UDP ports can be reached: the request, and the datagram.

The edge asks by a `revdial.messages.Request` of this method. An unknown type of message would end
the tunnel of an older agent; an unknown method it refuses, as `unknown_method`.

The datagram is a fixed beginning and the edge's nonce. It is no ping of Moonlight's (those are
ASCII), no ENet packet that anybody sends (its first bytes say "compressed"), no magic packet.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from revdial.errors import BadMessage
from revdial.messages import Json, Port, Short

probe_method: Final = "probe_udp"
max_probed_ports: Final = 3
datagrams_a_port: Final = 3
"""So that one that is lost on the way does not look like a closed port."""
max_probe_datagrams: Final = 2 * max_probed_ports * datagrams_a_port
"""Both families."""
nonce_bytes: Final = 16
_BEGINNING: Final = b"\xffmoonhost probe\n"
_PROBE_BYTES: Final = len(_BEGINNING) + nonce_bytes


class ProbeRequest(msgspec.Struct, frozen=True):
    """Edge to agent: send datagrams with this nonce to these ports of the host that you dial."""

    nonce: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    ports: Annotated[tuple[Port, ...], msgspec.Meta(min_length=1, max_length=max_probed_ports)]

    def __repr__(self) -> str:
        # Who knows the nonce can make a closed port look open.
        return f"ProbeRequest(ports={self.ports})"


class ProbesSent(msgspec.Struct, frozen=True):
    """Agent to edge: where it sent them, which is what its own configuration says, and how many."""

    host: Short
    sent: Annotated[int, msgspec.Meta(ge=0, le=max_probe_datagrams)]


def read_request(params: dict[str, Json]) -> ProbeRequest:
    """Read what the edge asks; `BadMessage` for anything else."""
    try:
        return msgspec.convert(params, ProbeRequest)
    except msgspec.ValidationError:
        # The library's text could quote what was sent.
        raise BadMessage(
            "bad_request", f"{probe_method} wants a nonce and 1 to {max_probed_ports} ports"
        ) from None


def read_sent(result: dict[str, Json]) -> ProbesSent:
    """Read what the agent answers; `BadMessage` for anything else."""
    try:
        return msgspec.convert(result, ProbesSent)
    except msgspec.ValidationError:
        raise BadMessage("bad_reply", "the agent's answer is not one to a probe") from None


def probe_datagram(nonce: bytes) -> bytes:
    """Write the datagram that carries a nonce."""
    if len(nonce) != nonce_bytes:
        raise ValueError(f"a nonce has {nonce_bytes} bytes")
    return _BEGINNING + nonce


def nonce_of(datagram: bytes) -> bytes | None:
    """Give the nonce of a probe, or None where the datagram is anything else.

    Cheap for what is none: a look at its length. Whoever gets one compares in constant time.
    """
    if len(datagram) != _PROBE_BYTES or not datagram.startswith(_BEGINNING):
        return None
    return datagram[len(_BEGINNING) :]
