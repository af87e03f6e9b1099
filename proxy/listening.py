"""Where the edge listens: in both families, unless somebody said otherwise or one is missing.

An address that somebody configured must be there, or the edge does not start. The defaults are
everybody's, and a machine without IPv6 is no mistake.
"""

from __future__ import annotations

import socket
from typing import Final

import structlog

from proxy.config import Agents, Listen
from proxy.doors import no_such_address

_log = structlog.get_logger()

_any_ipv6: Final = "::"


def addresses_here(*sections: Listen | Agents) -> tuple[tuple[str, ...], ...]:
    """Return the addresses of each section; of defaults, without IPv6 where there is none."""
    by_default = [section for section in sections if "addresses" not in section.model_fields_set]
    if not by_default or _has_ipv6():
        return tuple(section.addresses for section in sections)
    _log.warning("ipv6_unavailable", listening="on IPv4 only")
    return tuple(
        tuple(address for address in section.addresses if address != _any_ipv6)
        if section in by_default
        else section.addresses
        for section in sections
    )


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((_any_ipv6, 0))
    except OSError as error:
        if error.errno not in no_such_address:
            raise
        return False
    return True
