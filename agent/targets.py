"""What this agent dials, whoever asks: the configured hosts, and of them the configured ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.config import HostConfig
from revdial.errors import DialRefused
from revdial.framing import FlowKind
from revdial.messages import Dial


@dataclass(frozen=True, slots=True)
class Target:
    """A place on the list: an address and a port of a host."""

    host: HostConfig
    port: int

    @property
    def address(self) -> str:
        """The host's IP address."""
        return str(self.host.address)


def target_of(dial: Dial, hosts: Mapping[str, HostConfig]) -> Target:
    """Find what `dial` asks for, or raise `DialRefused`."""
    host = hosts.get(dial.host)
    if host is None:
        raise DialRefused("unknown_host", "this agent has no such host")
    if dial.kind == "flow":
        return _flow_target(dial, host)
    if dial.service == "udp":
        raise DialRefused("bad_dial", "a stream goes to http, https or rtsp")
    port = {"http": host.http_port, "https": host.https_port, "rtsp": host.rtsp_port}[dial.service]
    if dial.port not in (None, port):
        raise DialRefused(
            "port_not_allowed",
            f"port {dial.port} is not the {dial.service} port that is configured for {host.name}",
        )
    return Target(host, port)


def _flow_target(dial: Dial, host: HostConfig) -> Target:
    if dial.service != "udp" or not dial.session or dial.flow not in tuple(FlowKind):
        raise DialRefused("bad_dial", "a flow goes to udp, and names its session and kind")
    if dial.port is None or not any(dial.port in ports for ports in host.udp_port_ranges):
        raise DialRefused(
            "port_not_allowed",
            f"UDP port {dial.port} is not among those that are configured for {host.name}",
        )
    return Target(host, dial.port)
