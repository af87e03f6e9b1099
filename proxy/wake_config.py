"""The ``[wake]`` section of the edge's configuration: which backends are woken, and by whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from backends.errors import InvalidOffer
from backends.model import BackendId, backend_id, is_valid_name
from moonlight.wake import static_wake_ports, wake_ports_from_http
from proxy.config_values import MAX_PORT, Port, Seconds
from proxy.wake_plan import WakeRule

MAX_WAKE_HOSTS = 256
MAX_WAKE_PORTS = 32
MIN_WAKE_INTERVAL_S = 5
MAX_URL_CHARACTERS = 2_048
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _backend(text: str) -> str:
    agent, _, host = text.partition("/")
    try:
        return backend_id(agent, host)
    except InvalidOffer:
        raise ValueError('write agent and host, as in "bedroom/gaming-pc"') from None


def _name(text: str) -> str:
    if not is_valid_name(text):
        raise ValueError("use 1-64 letters, digits, dots, dashes and underscores")
    return text


def _webhook_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.scheme not in ("http", "https"):
        raise ValueError("write the webhook as https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no user or password in the URL: calls are signed with secret_file")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError("use https://; without TLS only a receiver on this machine can be called")
    return url


Name = Annotated[str, AfterValidator(_name)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WakeWebhook(_Section):
    """Whom to call for backends that no agent wakes."""

    # Not shown: many receivers take part of it for a secret.
    url: Annotated[
        str, Field(max_length=MAX_URL_CHARACTERS, repr=False), AfterValidator(_webhook_url)
    ]
    secret_file: Path
    ca_file: Path | None = None
    timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 10.0


class WakeHost(_Section):
    """One backend that sleeps, and how it is woken."""

    backend: Annotated[str, AfterValidator(_backend)]
    via_agent: Name | None = None
    neighbour: Name | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> WakeHost:
        if (self.via_agent is None) != (self.neighbour is None):
            raise ValueError(
                "via_agent and neighbour (as that agent's [[neighbours]] calls the machine) "
                "belong together; without both the webhook is called"
            )
        return self

    @property
    def rule(self) -> WakeRule:
        """The entry as the edge acts on it."""
        return WakeRule(BackendId(self.backend), self.via_agent, self.neighbour)


class Wake(_Section):
    """What happens when a player wants hosts that sleep; nothing while there are no `hosts`."""

    hosts: Annotated[tuple[WakeHost, ...], Field(max_length=MAX_WAKE_HOSTS)] = ()
    ports: Annotated[tuple[Port, ...], Field(max_length=MAX_WAKE_PORTS)] | None = None
    on_launch: bool = True
    min_interval_s: Annotated[Seconds, Field(ge=MIN_WAKE_INTERVAL_S)] = 60.0
    webhook: WakeWebhook | None = None

    @model_validator(mode="after")
    def _can_be_done(self) -> Wake:
        names = [host.backend for host in self.hosts]
        twice = sorted({name for name in names if names.count(name) > 1})
        by_webhook = [host.backend for host in self.hosts if host.via_agent is None]
        wrong = []
        if twice:
            wrong.append(f"listed twice in hosts: {', '.join(twice)}")
        if by_webhook and self.webhook is None:
            wrong.append(
                f"nothing wakes {', '.join(by_webhook)}: set via_agent and neighbour there, "
                "or [wake.webhook]"
            )
        if self.webhook is not None and not by_webhook:
            wrong.append("the webhook wakes nothing: list hosts without via_agent")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def udp_ports(self, http_port: int, media_ports: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ports to hear magic packets at, besides those of the media.

        By default those that Moonlight sends to: most of them move along with the HTTP port.
        """
        moved = (http_port + distance for distance in wake_ports_from_http)
        ports = (*static_wake_ports, *moved) if self.ports is None else self.ports
        return tuple(sorted({port for port in ports if port <= MAX_PORT} - {*media_ports}))
