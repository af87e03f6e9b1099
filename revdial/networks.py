"""Whom a limit "per address" is about: one IPv4 address, or one IPv6 network of a household."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

# Whoever has one IPv6 address has at least 2**64 of them.
_household_prefix: Final = 64


def network_of(address: str) -> str:
    """Return what to count `address` under; text that is no address counts as itself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), _household_prefix), strict=False))
    return str(parsed)
