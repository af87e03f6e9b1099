"""Which settings of an agent can change while it runs, and who is told of their new values."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from agent.config import AgentConfig, EdgeConfig, token_of
from agent.neighbours import Neighbours
from revdial.connector import check_token
from revdial.dialer import TunnelDialer
from settings import ConfigError, Problem

reloadable: Final = frozenset(
    {"log_level", "log_format", "edge.token", "edge.token_file", "edge.ca_file", "neighbours"}
)
"""The others need a restart: what the edge was told in the hello, and what is open for good."""


@dataclass(frozen=True, slots=True)
class ReloadableParts:
    """The parts of an agent that go by settings which can change."""

    dialer: TunnelDialer
    neighbours: Neighbours

    async def prepare(self, config: AgentConfig) -> Callable[[], None]:
        """Read the token and the certificates again; return what has the next dial use them.

        Raises:
            ConfigError: a file cannot be used.
            ValueError: what is in the token's file is no token.

        """
        token, tls = token_of(config.edge), tls_of(config.edge)
        check_token(token)

        def put_in_force() -> None:
            self.dialer.use(token, tls)
            self.neighbours.apply(config.neighbours)

        return put_in_force


def tls_of(edge: EdgeConfig) -> ssl.SSLContext | None:
    """Return what verifies the edge, None without TLS; `ConfigError` for an unusable file."""
    if urlsplit(edge.url).scheme == "ws":
        return None
    try:
        return ssl.create_default_context(cafile=edge.ca_file)
    except OSError as error:
        raise ConfigError(
            edge.ca_file, (Problem("edge.ca_file", f"no certificates there: {error.strerror}"),)
        ) from error
